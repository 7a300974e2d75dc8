"""HEIC files built by hand: one coded picture of 64 x 64, and boxes that say anything around it.

The coded picture was made once with pillow-heif. Its quarters are red, green, blue and yellow, row
by row. ISO 23008-12 says what the boxes mean.
"""

import base64
import struct
from collections.abc import Sequence
from dataclasses import dataclass

QUARTERS = ((220, 30, 30), (30, 200, 40), (30, 40, 220), (240, 230, 40))  # as it was drawn
SIDE = 64
CODEC = base64.b64decode(  # an hvcC box's content: HEVC, 4:4:4, 8 bits
    "AQQIAAAAnjgAAAAAHvAA/P/4+AAADwNgAAEAF0ABDAH//wQIAAADAJ44AAADAAAeugJAYQABACpCAQEECAAAAwCeOA"
    "AAAwAAHpAEECCy3UklNc3AQ0GBAAADABkAAAMAAQhiAAEACEQBwXKGDAIk"
)
CODED = base64.b64decode(
    "AAAAPSgBrwT4QTJp2//Au///+yjHZf3RIYX7n7CY9/+3Yf//PETzT7/OR+jfvNaP/8h2F/L/8fj//8Sp1j9lWog="
)


def box(kind: bytes, data: bytes, version: int | None = None, flags: int = 0) -> bytes:
    """A box; with a `version` a full one."""
    full = b"" if version is None else bytes([version]) + flags.to_bytes(3, "big")
    return struct.pack(">I", 8 + len(full) + len(data)) + kind + full + data


def size(width: int, height: int) -> bytes:
    """The property that says how large an item is."""
    return box(b"ispe", struct.pack(">II", width, height), 0)


def turned(quarters: int) -> bytes:
    """The property that turns by so many quarters, against the clock."""
    return box(b"irot", bytes([quarters]))


def mirrored(axis: int) -> bytes:
    """The property that mirrors: 0, the left and the right; 1, the top and the bottom."""
    return box(b"imir", bytes([axis]))


def profile(icc: bytes) -> bytes:
    """The property that holds an ICC profile."""
    return box(b"colr", b"prof" + icc)


def numbered(primaries: int, transfer: int) -> bytes:
    """The property that names colours by the numbers of ITU-T H.273."""
    return box(b"colr", b"nclx" + struct.pack(">HHHB", primaries, transfer, 6, 0x80))


@dataclass
class Item:
    """A part of the file: a coded picture, a grid of such, or metadata."""

    kind: bytes = b"hvc1"
    data: bytes = CODED
    properties: Sequence[bytes] = (box(b"hvcC", CODEC), size(SIDE, SIDE))
    made_of: Sequence[int] = ()  # the numbers of other items, for a grid
    about: int = 0  # the item that this one describes, for metadata
    hidden: bool = False


def picture(*properties: bytes, said: bytes = size(SIDE, SIDE)) -> Item:
    """The coded picture with further properties; `said` is the size that it claims."""
    return Item(properties=(box(b"hvcC", CODEC), said, *properties))


def grid(columns: int, rows: int, width: int, height: int, tiles: Sequence[int]) -> Item:
    """A picture of columns x rows items, cut to width x height."""
    data = struct.pack(">BBBBII", 0, 1, rows - 1, columns - 1, width, height)
    return Item(b"grid", data, (size(width, height),), tiles)


def exif(orientation: int, about: int = 1) -> Item:
    """EXIF data that hold an orientation."""
    tags = struct.pack(">HHHIHH", 1, 0x0112, 3, 1, orientation, 0) + bytes(4)
    return Item(b"Exif", bytes(4) + b"MM\0*\0\0\0\x08" + tags, (), about=about)


def heic(*items: Item, primary: int = 1, brands: Sequence[bytes] = (b"heic", b"mif1")) -> bytes:
    """A HEIC file of these items, numbered from 1; by default the coded picture alone."""
    items = items or (Item(),)
    start = box(b"ftyp", brands[0] + bytes(4) + b"".join(brands))
    kinds = [
        box(b"infe", struct.pack(">HH", at, 0) + item.kind + b"\0", 2, int(item.hidden))
        for at, item in enumerate(items, 1)
    ]
    found: list[bytes] = []
    for item in items:
        found += [each for each in item.properties if each not in found]
    wide = len(found) > 127
    uses = b""
    for at, item in enumerate(items, 1):
        if item.properties:
            numbers = [found.index(each) + 1 for each in item.properties]
            uses += struct.pack(">HB", at, len(numbers))
            uses += b"".join(struct.pack(">H" if wide else ">B", number) for number in numbers)
    with_properties = sum(1 for item in items if item.properties)
    uses = box(b"ipma", struct.pack(">I", with_properties) + uses, 0, int(wide))
    links = b""
    for at, item in enumerate(items, 1):
        for kind, to in ((b"dimg", item.made_of), (b"cdsc", (item.about,) if item.about else ())):
            if to:
                links += box(kind, struct.pack(f">HH{len(to)}H", at, len(to), *to))

    def meta(data_at: int) -> bytes:
        places = b""
        for at, item in enumerate(items, 1):
            places += struct.pack(">HHHII", at, 0, 1, data_at, len(item.data))
            data_at += len(item.data)
        parts = [
            box(b"hdlr", bytes(4) + b"pict" + bytes(13), 0),
            box(b"pitm", struct.pack(">H", primary), 0),
            box(b"iloc", b"\x44\x00" + struct.pack(">H", len(items)) + places, 0),
            box(b"iinf", struct.pack(">H", len(items)) + b"".join(kinds), 0),
            box(b"iref", links, 0) if links else b"",
            box(b"iprp", box(b"ipco", b"".join(found)) + uses),
        ]
        return box(b"meta", b"".join(parts), 0)

    data_at = len(start) + len(meta(0)) + 8
    return start + meta(data_at) + box(b"mdat", b"".join(item.data for item in items))
