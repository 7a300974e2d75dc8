"""Explanations -> sheets: several models, or one model's gates, in one picture."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from cbam.explain.detection import Detected, Detection
from cbam.explain.explanation import Explanation
from cbam.render import channel_bars, spatial_tile

NO_EVIDENCE = "no positive evidence"
BOXES_NAMED = 8  # in a sheet, below each photo
# Dark enough for white digits, and told apart by colour-blind eyes: Okabe and Ito's, darkened.
BOX_COLOURS = ("#b34700", "#0060a0", "#00734f", "#9c4a7e", "#5a4a00", "#3a3a3a")


def compare_sheet(explanations: Sequence[Explanation], tile_px: int = 300) -> Image.Image:
    """One row as in the paper's figure: the photo, then each model's map for the same class."""
    first = explanations[0]
    photo = _tile(first.photo, tile_px)
    pad, head, foot = 12, 30, 54
    width = (len(explanations) + 1) * (photo.width + pad) + pad
    sheet = Image.new("RGB", (width, head + photo.height + foot + pad), "white")
    draw = ImageDraw.Draw(sheet)

    def column(position: int, title: str, picture: Image.Image, lines: Sequence[str]) -> None:
        x = pad + position * (photo.width + pad)
        _text(draw, (x, 8), title, 16, photo.width, "black")
        sheet.paste(picture, (x, head))
        for row, line in enumerate(lines):
            y = head + photo.height + 6 + row * 20
            _text(draw, (x, y), line, 15 if row == 0 else 13, photo.width, "#222222")

    column(0, "Photo", photo, [f"target: {first.target.label}"])
    for position, each in enumerate(explanations, start=1):
        top = each.predictions[0]
        lines = [
            f"P({each.target.label}) = {each.target.probability:.3f}",
            NO_EVIDENCE
            if each.heatmap.max() <= 0
            else f"says: {top.label} ({top.probability:.3f})",
        ]
        column(position, each.model, _tile(each.overlay(), tile_px), lines)
    return sheet


def detect_sheet(found: Sequence[Detected], tile_px: int = 300) -> Image.Image:
    """A column for each detector: its boxes, and below them its first heat map."""
    tiles = [_tile(each.photo, tile_px) for each in found]
    tile, pad, head, foot, line = tiles[0], 12, 30, 30, 18
    rows = max(len(each.detections[:BOXES_NAMED]) for each in found)
    names = rows * line + 8
    mapped = any(each.heatmaps for each in found)
    width = len(found) * (tile.width + pad) + pad
    height = head + tile.height + names + mapped * (tile.height + foot) + pad
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for position, each in enumerate(found):
        x, scale = pad + position * (tile.width + pad), tile.width / each.photo.width
        _text(draw, (x, 8), each.model, 16, tile.width, "black")
        sheet.paste(_boxed(tiles[position], each.detections, scale), (x, head))
        y = head + tile.height + 6
        for number, box in enumerate(each.detections[:BOXES_NAMED], 1):
            colour = BOX_COLOURS[box.index % len(BOX_COLOURS)]
            text = f"{number} {box.label} {box.score:.2f}"
            _text(draw, (x, y + (number - 1) * line), text, 14, tile.width, colour)
        if not each.detections:
            _text(draw, (x, y), "nothing found", 14, tile.width, "#222222")
        y = head + tile.height + names
        for item in each.heatmaps[:1]:
            box = each.detections[item.detection]
            picture = _tile(each.overlay(item), tile_px)
            sheet.paste(_boxed(picture, [box], scale, item.detection + 1), (x, y))
            text = f"{each.of} of {item.detection + 1} {box.label}"
            if item.energy_in_box is None:
                text = f"{text}: {NO_EVIDENCE}"
            else:
                text += f": {item.energy_in_box:.0%} in the box ({item.energy_uniform:.0%} if even)"
            _text(draw, (x, y + tile.height + 6), text, 13, tile.width, "#222222")
    return sheet


def _boxed(
    picture: Image.Image, boxes: Sequence[Detection], scale: float, first: int = 1
) -> Image.Image:
    """A copy of a picture with boxes, numbered from `first`, in the colours of their classes."""
    copy = picture.copy()
    draw = ImageDraw.Draw(copy)
    for number, each in enumerate(boxes, first):
        colour = BOX_COLOURS[each.index % len(BOX_COLOURS)]
        corners = tuple(side * scale for side in each.box)
        draw.rectangle(corners, outline="white", width=4)  # it shows on dark and on bright photos
        draw.rectangle(corners, outline=colour, width=2)
        x, y = max(0.0, corners[0]), max(0.0, corners[1])
        draw.rectangle((x, y, x + 12 + 8 * (number > 9), y + 16), fill=colour)
        draw.text((x + 3, y), str(number), fill="white", font=ImageFont.load_default(13))
    return copy


def attention_sheet(explanation: Explanation, tile_px: int = 150) -> Image.Image:
    """The gates block by block: planes over the view, and below them vectors as bars."""
    view = explanation.view
    tile = _tile(explanation.photo.crop((view.x0, view.y0, view.x1, view.y1)), tile_px)
    pad, head, bars, line = 10, 46, 60, 24
    blocks = explanation.attention
    # For each kind of gate in any block: does it vary over places, over channels?
    kinds = {name: gate for block in blocks for name, gate in block.gates.items()}
    rows = [(name, part) for name in kinds for part in ("plane", "vector")]
    rows = [(name, part) for name, part in rows if getattr(kinds[name], part) is not None]
    rows.sort(key=lambda row: row[1])  # all planes first
    heights = [(tile.height if part == "plane" else bars) + line for _, part in rows]
    width = max(len(blocks) * (tile.width + pad) + pad, 420)
    sheet = Image.new("RGB", (width, head + (sum(heights) or tile.height) + pad), "white")
    draw = ImageDraw.Draw(sheet)
    title = f"{explanation.model}: what its gates did" if blocks else _gateless(explanation.model)
    _text(draw, (pad, 6), title, 16, width - 2 * pad, "black")
    for position, block in enumerate(blocks):
        x, y = pad + position * (tile.width + pad), head
        _text(draw, (x, 28), block.block, 13, tile.width, "#222222")
        for (name, part), height in zip(rows, heights, strict=True):
            values = getattr(block.gates[name], part) if name in block.gates else None
            if values is not None:
                gate = block.gates[name]
                picture = (
                    spatial_tile(tile, values)
                    if part == "plane"
                    else channel_bars(
                        values, tile.width, bars, gate.span, gate.base, gate.kind.neutral
                    )
                )
                sheet.paste(picture, (x, y))
                pooled = ", pooled" if values.size < gate.values.size else ""
                count = f"{len(values)} ch. " if part == "vector" else ""
                title = gate.kind.title.removesuffix(" gate")
                digits = ".2f" if gate.kind.use == "multiplied" else ".2g"
                low, high = (format(float(end), digits) for end in (values.min(), values.max()))
                text = f"{title}{pooled} {count}{low}-{high}"
                _text(draw, (x, y + picture.height + 4), text, 12, tile.width, "#222222")
            y += height
    return sheet


def attention_sheets(explanations: Sequence[Explanation]) -> Image.Image:
    """The gate sheets of several models, one below the other."""
    sheets = [attention_sheet(each) for each in explanations]
    size = max(sheet.width for sheet in sheets), sum(sheet.height for sheet in sheets)
    whole = Image.new("RGB", size, "white")
    y = 0
    for sheet in sheets:
        whole.paste(sheet, (0, y))
        y += sheet.height
    return whole


def _gateless(name: str) -> str:
    return f"{name} has no attention: there is nothing to show"


def _tile(image: Image.Image, longest_px: int) -> Image.Image:
    """The image, resized so that its longest side is `longest_px`."""
    scale = longest_px / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BILINEAR)


def _text(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, width: int, fill: str
) -> None:
    """A line of text, shortened to fit `width` pixels."""
    font = ImageFont.load_default(size)
    while len(text) > 2 and draw.textlength(text, font) > width:
        text = text[:-2].rstrip() + "…"
    draw.text(at, text, fill=fill, font=font)
