"""Explanations -> sheets: several models, or one model's gates, in one picture."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from cbam.explain.detection import Detected, Detection
from cbam.explain.explanation import BlockAttention, Explanation
from cbam.lettering import KEPT, font, height, wrapped, write
from cbam.render import channel_bars, spatial_tile

NO_EVIDENCE = "no positive evidence"
NARROWEST = 160  # px, of a column: most names and numbers fit one line
TITLE, TEXT, NOTE = 16, 14, 12  # px, of letters
BLACK, GREY = "black", "#222222"
BOXES_NAMED = 8  # in a sheet, below each photo
# Dark enough for white digits, and told apart by colour-blind eyes: Okabe and Ito's, darkened.
BOX_COLOURS = ("#b34700", "#0060a0", "#00734f", "#9c4a7e", "#5a4a00", "#3a3a3a")
CHANGED = "gates changed"


@dataclass(frozen=True)
class _Column:
    """A picture with words above and below it."""

    title: str
    picture: Image.Image
    lines: Sequence[str]


def compare_sheet(explanations: Sequence[Explanation], tile_px: int = 300) -> Image.Image:
    """One row as in the paper's figure: the photo, then each model's map for the same class.

    Pictures have their longest side `tile_px` long. Names and numbers are whole: columns of narrow
    photos are wider than these, and long names take more lines.
    """
    first = explanations[0]
    columns = [_Column("Photo", _tile(first.photo, tile_px), [f"target: {first.target.label}"])]
    for each in explanations:
        top = each.predictions[0]
        says = f"says: {top.label}{KEPT}({top.probability:.3f})"
        title = f"{each.model} ({CHANGED})" if each.changed else each.model
        lines = [
            f"P({each.target.label}){KEPT}={KEPT}{each.target.probability:.3f}",
            NO_EVIDENCE if each.heatmap.max() <= 0 else says,
        ]
        columns.append(_Column(title, _tile(each.overlay(), tile_px), lines))
    tile = columns[0].picture
    wide, pad = max(tile.width, NARROWEST), 12
    titles = [wrapped(each.title, TITLE, wide) for each in columns]
    texts = [[wrapped(line, TEXT, wide) for line in each.lines] for each in columns]
    head = 10 + height(max(map(len, titles)), TITLE)
    foot = 14 + height(max(sum(map(len, text)) for text in texts + [[[""], [""]]]), TEXT) + 2
    size = (len(columns) * (wide + pad) + pad, head + tile.height + foot + pad)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for position, (column, name, text) in enumerate(zip(columns, titles, texts, strict=True)):
        x = pad + position * (wide + pad)
        write(draw, (x, 8), name, TITLE, BLACK)
        sheet.paste(column.picture, (x, head))
        lines = [line for each in text for line in each]
        write(draw, (x, head + tile.height + 6), lines, TEXT, GREY)
    return sheet


def figure_sheet(rows: Sequence[Sequence[Explanation]], tile_px: int = 200) -> Image.Image:
    """The paper's Figure 4: a row for each photo, with what each model saw and P of one class.

    A row holds the answers of the same models about one photo and one class. Pictures show what the
    models saw, the longest side `tile_px` long; names are whole, as on `compare_sheet`.
    """
    wide, pad = max(tile_px, NARROWEST), 12
    titles = [wrapped(name, TITLE, wide) for name in ("Photo", *(each.model for each in rows[0]))]
    head = 10 + height(max(map(len, titles)), TITLE)
    lines = [[_figure_column(row[0].photo, row[0], [row[0].target.label])] for row in rows]
    for row, columns in zip(rows, lines, strict=True):
        for each in row:
            evidence = [NO_EVIDENCE] if each.heatmap.max() <= 0 else []
            said = [f"P{KEPT}={KEPT}{each.target.probability:.3f}", *evidence]
            columns.append(_figure_column(each.overlay(), each, said))
    tiles = [[_tile(each.picture, tile_px) for each in columns] for columns in lines]
    texts = [
        [[part for line in each.lines for part in wrapped(line, TEXT, wide)] for each in columns]
        for columns in lines
    ]
    highs = [
        max(tile.height for tile in row) + 14 + height(max(map(len, text)), TEXT)
        for row, text in zip(tiles, texts, strict=True)
    ]
    sheet = Image.new("RGB", (len(titles) * (wide + pad) + pad, head + sum(highs) + pad), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        x, y = pad + column * (wide + pad), head
        write(draw, (x, 8), title, TITLE, BLACK)
        for pictures, text, high in zip(tiles, texts, highs, strict=True):
            sheet.paste(pictures[column], (x, y))
            below = y + max(tile.height for tile in pictures) + 6
            write(draw, (x, below), text[column], TEXT, GREY)
            y += high
    return sheet


def _figure_column(picture: Image.Image, explanation: Explanation, lines: Sequence[str]) -> _Column:
    """A picture of the whole photo, cut to what the model saw."""
    view = explanation.view
    return _Column("", picture.crop((view.x0, view.y0, view.x1, view.y1)), lines)


def detect_sheet(found: Sequence[Detected], tile_px: int = 300) -> Image.Image:
    """A column for each detector: its boxes, and below them its first heat map.

    Names and numbers are whole, as on `compare_sheet`.
    """
    photos = [_tile(each.photo, tile_px) for each in found]
    tile, pad = photos[0], 12
    wide, scale = max(tile.width, NARROWEST), tile.width / found[0].photo.width
    titles = [wrapped(each.model, TITLE, wide) for each in found]
    names = [_named(each, wide) for each in found]
    notes = [_mapped(each, wide) for each in found]
    head = 14 + height(max(map(len, titles)), TITLE)
    below = head + tile.height + 6
    second = below + height(max(map(len, names)), TEXT) + 8
    shown = any(each.heatmaps for each in found)
    third = tile.height + 14 + height(max(map(len, notes)), NOTE)
    size = (len(found) * (wide + pad) + pad, second + shown * third + pad)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for position, (each, photo) in enumerate(zip(found, photos, strict=True)):
        x = pad + position * (wide + pad)
        write(draw, (x, 8), titles[position], TITLE, BLACK)
        sheet.paste(_boxed(photo, each.detections, scale), (x, head))
        for row, (line, colour) in enumerate(names[position]):
            write(draw, (x, below + height(row, TEXT)), [line], TEXT, colour)
        for item in each.heatmaps[:1]:
            box = each.detections[item.detection]
            picture = _tile(each.overlay(item), tile_px)
            sheet.paste(_boxed(picture, [box], scale, item.detection + 1), (x, second))
        write(draw, (x, second + tile.height + 6), notes[position], NOTE, GREY)
    return sheet


def _named(found: Detected, width: int) -> list[tuple[str, str]]:
    """The first boxes of a detector in words: lines and their colours."""
    lines = [
        (line, BOX_COLOURS[box.index % len(BOX_COLOURS)])
        for number, box in enumerate(found.detections[:BOXES_NAMED], 1)
        for line in wrapped(f"{number} {box.label}{KEPT}{box.score:.2f}", TEXT, width)
    ]
    return lines or [("nothing found", GREY)]


def _mapped(found: Detected, width: int) -> list[str]:
    """What a detector's first heat map shows, in lines."""
    lines: list[str] = []
    for item in found.heatmaps[:1]:
        text = f"{found.of} of {item.detection + 1} {found.detections[item.detection].label}: "
        if item.energy_in_box is None:
            text += NO_EVIDENCE
        else:
            text += f"{item.energy_in_box:.0%} in the box ({item.energy_uniform:.0%} if even)"
        lines = wrapped(text, NOTE, width)
    return lines


def _boxed(
    picture: Image.Image, boxes: Sequence[Detection], scale: float, first: int = 1
) -> Image.Image:
    """A copy of a picture with boxes, numbered from `first`, in the colours of their classes."""
    copy = picture.copy()
    draw = ImageDraw.Draw(copy)
    taken: set[tuple[int, int]] = set()
    for number, each in enumerate(boxes, first):
        colour = BOX_COLOURS[each.index % len(BOX_COLOURS)]
        corners = tuple(side * scale for side in each.box)
        draw.rectangle(corners, outline="white", width=4)  # it shows on dark and on bright photos
        draw.rectangle(corners, outline=colour, width=2)
        x, y = max(0, round(corners[0])), max(0, round(corners[1]))
        while any(abs(x - left) < 22 and abs(y - top) < 17 for left, top in taken):
            y += 17  # boxes of two classes in one place
        taken.add((x, y))
        draw.rectangle((x, y, x + 12 + 8 * (number > 9), y + 16), fill=colour)
        draw.text((x + 3, y), str(number), fill="white", font=font(13))
    return copy


def attention_sheet(explanation: Explanation, tile_px: int = 150) -> Image.Image:
    """The gates block by block: planes over the view, and below them vectors as bars.

    Names and numbers are whole, as on `compare_sheet`.
    """
    view = explanation.view
    tile = _tile(explanation.photo.crop((view.x0, view.y0, view.x1, view.y1)), tile_px)
    wide, pad, bars = max(tile.width, NARROWEST), 10, 60
    blocks = explanation.attention
    # For each kind of gate in any block: does it vary over places, over channels?
    kinds = {name: gate for block in blocks for name, gate in block.gates.items()}
    rows = [(name, part) for name in kinds for part in ("plane", "vector")]
    rows = [(name, part) for name, part in rows if getattr(kinds[name], part) is not None]
    rows.sort(key=lambda row: row[1])  # all planes first
    cells = [[_cell(block, *row, tile, wide, bars) for block in blocks] for row in rows]
    heights = [
        (tile.height if part == "plane" else bars)
        + 8
        + height(max(len(each.lines) for each in row if each), NOTE)
        for (_, part), row in zip(rows, cells, strict=True)
    ]
    width = max(len(blocks) * (wide + pad) + pad, 420)
    said = f"{explanation.model}: what its gates did" if blocks else _gateless(explanation.model)
    said += f" ({CHANGED}: an intervention)" if explanation.changed else ""
    title = wrapped(said, TITLE, width - 2 * pad)
    names = [wrapped(block.block, TEXT, wide) for block in blocks]
    below = 8 + height(len(title), TITLE)
    head = below + height(max(map(len, names), default=1), TEXT) + 2
    sheet = Image.new("RGB", (width, head + (sum(heights) or tile.height) + pad), "white")
    draw = ImageDraw.Draw(sheet)
    write(draw, (pad, 6), title, TITLE, BLACK)
    for position, name in enumerate(names):
        x, y = pad + position * (wide + pad), head
        write(draw, (x, below), name, TEXT, GREY)
        for row, high in zip(cells, heights, strict=True):
            if cell := row[position]:
                sheet.paste(cell.picture, (x, y))
                write(draw, (x, y + cell.picture.height + 4), cell.lines, NOTE, GREY)
            y += high
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


def _cell(
    block: BlockAttention, name: str, part: str, tile: Image.Image, wide: int, bars: int
) -> _Column | None:
    """One gate of a block as a picture with its range in words; None if the block lacks it."""
    values = getattr(block.gates[name], part) if name in block.gates else None
    if values is None:
        return None
    gate = block.gates[name]
    picture = (
        spatial_tile(tile, values)
        if part == "plane"
        else channel_bars(values, wide, bars, gate.span, gate.base, gate.kind.neutral)
    )
    title = gate.kind.title.removesuffix(" gate")
    pooled = ", pooled" if values.size < gate.values.size else ""
    count = f"{len(values)}{KEPT}ch. " if part == "vector" else ""
    digits = ".2f" if gate.kind.use == "multiplied" else ".2g"
    ends = (round(float(end), 5) for end in (values.min(), values.max()))
    low, high = (format(end, digits) for end in ends)
    text = f"{title}{pooled} {count}{low}{KEPT}to{KEPT}{high}"
    return _Column("", picture, wrapped(text, NOTE, wide))
