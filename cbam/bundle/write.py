"""An answer -> a bundle's bytes: the same answer gives the same bytes.

    manifest.json               what was asked, of which models, with which libraries, and hashes
    answer.json                 the answer of the API, if it was given
    photo.png                   the photo as it was decoded, without metadata
    compare.png                 the models side by side
    1-NAME/heatmaps/0-207.npy   float32 (h, w), and .png: over the photo
    1-NAME/gates/layer1.0.channel.npy, .png
    1-NAME/changed/...          the same with changed gates

Every entry is stored as it is (photos and maps hardly get smaller) and has the same date.
"""

import hashlib
import io
import re
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from cbam import render
from cbam.bundle.records import (
    Array,
    BlockArrays,
    Bundle,
    ClassArray,
    GateArray,
    Manifest,
    PhotoRecord,
    Result,
    versions,
)
from cbam.explain.explanation import Explanation, Floats, GateMap
from cbam.sheets import compare_sheet

DATE = (1980, 1, 1, 0, 0, 0)  # the first that a zip can have
PHOTO, ANSWER, MANIFEST, SHEET = "photo.png", "answer.json", "manifest.json", "compare.png"
SHOWN_PX = 384  # longest side of the pictures of maps
TILE_PX, BARS_PX = 224, (384, 96)


def write(bundle: Bundle, answer: str = "") -> bytes:
    """The bundle as a zip file. `answer` is kept as answer.json, for readers of the API's JSON."""
    files: dict[str, bytes] = {}
    photo = bundle.explanations[0].photo
    files[PHOTO] = png(photo)
    if answer:
        files[ANSWER] = answer.encode()
    files[SHEET] = png(compare_sheet(bundle.shown))
    manifest = Manifest(
        made_with=dict(bundle.made_with or versions()),
        photo=PhotoRecord(
            file=PHOTO, width=photo.width, height=photo.height, sha256=bundle.photo_sha256
        ),
        question=bundle.question,
        models=list(bundle.models),
        results=_results(files, bundle.explanations, ""),
        changed=None if bundle.changed is None else _results(files, bundle.changed, "changed/"),
        files={name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())},
    )
    text = manifest.model_dump_json(indent=1) + "\n"
    return zipped({MANIFEST: text.encode(), **dict(sorted(files.items()))})


def zipped(files: Mapping[str, bytes]) -> bytes:
    """Files by name -> a zip file that stores them, always the same for the same files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, DATE)
            entry.create_system = 3  # Unix, wherever it is written
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)
    return buffer.getvalue()


def png(image: Image.Image) -> bytes:
    """A picture as PNG, without metadata."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def shrunk(photo: Image.Image, longest_px: int) -> tuple[Image.Image, float]:
    """A photo no longer than this, and by how much it is smaller."""
    scale = min(1.0, longest_px / max(photo.size))
    size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    return photo.resize(size, Image.Resampling.BILINEAR), scale


def gate_picture(gate: GateMap, tile: Image.Image) -> Image.Image:
    """A gate as it is shown: over the view if it varies over places, otherwise as bars."""
    if (plane := gate.plane) is not None:
        return render.spatial_tile(tile, plane)
    assert gate.vector is not None
    return render.channel_bars(gate.vector, *BARS_PX, gate.span, gate.base, gate.kind.neutral)


def _results(
    files: dict[str, bytes], explanations: Sequence[Explanation], folder: str
) -> list[Result]:
    """The explanations' records; their arrays and pictures go into `files`."""
    small, scale = shrunk(explanations[0].photo, SHOWN_PX)
    return [
        _result(files, each, f"{number}-{step(each.model)}/{folder}", small, scale)
        for number, each in enumerate(explanations, 1)
    ]


def _result(
    files: dict[str, bytes], each: Explanation, folder: str, small: Image.Image, scale: float
) -> Result:
    view = each.view.scaled(scale, *small.size)
    tile = small.crop((view.x0, view.y0, view.x1, view.y1)).resize((TILE_PX, TILE_PX))

    def kept(name: str, values: Floats, picture: Image.Image) -> Array:
        """Write an array and its picture."""
        buffer = io.BytesIO()
        np.save(buffer, np.ascontiguousarray(values, dtype="<f4"), allow_pickle=False)
        files[f"{folder}{name}.npy"] = buffer.getvalue()
        files[f"{folder}{name}.png"] = png(picture)
        return Array(file=f"{folder}{name}.npy", shape=values.shape)

    heatmaps = []
    for number, item in enumerate(each.heatmaps):
        painted = render.overlay(small, item.map, view)
        array = kept(f"heatmaps/{number}-{item.index}", item.map, painted)
        heatmaps.append(ClassArray(**dict(array), index=int(item.index), label=item.label))
    blocks = []
    for at, block in enumerate(each.attention):
        gates = []
        for name, gate in block.gates.items():
            file = f"gates/{at:02}-{step(block.block)}.{step(name)}"
            array = kept(file, gate.values, gate_picture(gate, tile))
            gates.append(GateArray(**dict(array), kind=gate.kind))
        blocks.append(BlockArrays(block=block.block, gates=gates))
    return Result(
        model=each.model,
        view=each.view,
        predictions=each.predictions,
        target=each.target,
        method=each.method,
        layer=each.layer,
        heatmaps=heatmaps,
        attention=blocks,
        versus=each.versus,
        words=each.words,
        classes=each.classes,
        none_of_these=bool(each.none_of_these),
        changed=dict(each.changed),
        fuse=each.fuse,
    )


def step(name: str) -> str:
    """A name as one step of a path: letters, digits, dots, hyphens."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:80] or "model"
