"""HEIC, as phones write it: what its boxes announce, then decoding by libheif (pi-heif).

libheif refuses a picture that is larger than its item says. It does not mind a small picture made
of a thousand large ones, of which it decodes each, or one that is cut from a large one. So all
that has to be decoded is added up here before.

ISO 23008-12, annex B, and ISO 14496-12, 8.11 say what the boxes mean.
"""

import io
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from PIL import Image

from cbam.errors import BrokenImage

CODED, MADE = b"hvc1", (b"grid", b"iden")  # kinds of items: by HEVC; of others, which they need
MOST_NESTED = 4  # a turned picture of a grid of tiles is as deep as cameras go
MOST_BOXES = 5_000  # in one box; libheif reads 1,000 items
ALPHA = (b"auxiliary:alpha", b"auxid:1")  # auxiliary pictures of this type are decoded, too


@dataclass
class _Item:
    """A part of the file: a picture, or one that others are made of."""

    kind: bytes = b""
    pixels: int = 0  # as it says itself; 0: it does not
    needs: list[int] = field(default_factory=list)  # numbers of items that are decoded for it
    properties: list[int] = field(default_factory=list)
    alpha_of: list[int] = field(default_factory=list)


def opened(data: bytes) -> Image.Image:
    """The primary picture: its header now, its pixels with `load`, upright by its own boxes.

    EXIF data say a second time how it is turned, and are left out. Raises what libheif raises on a
    malformed file.
    """
    from pi_heif import HeifImageFile  # it loads libheif: only for those who need it

    image: Image.Image = HeifImageFile(io.BytesIO(data))
    for name in ("exif", "xmp"):
        image.info.pop(name, None)
    return image


def announced(data: bytes) -> int:
    """The pixels of all the pictures that are decoded to show a file's primary one.

    Raises BrokenImage if the boxes do not hold together, or if a picture does not say its size.
    """
    try:
        primary, items = _read(data)
        return _pixels(items, primary, MOST_NESTED, {})
    except (IndexError, KeyError, ValueError) as error:
        raise BrokenImage(
            "The HEIC's boxes do not hold together, or they hold a picture of another kind. Save "
            "it again, best as JPEG."
        ) from error


def _pixels(items: dict[int, _Item], number: int, deeper: int, known: dict[int, int]) -> int:
    """The pixels decoded for one item. Raises KeyError, ValueError."""
    if number not in known:
        item = items[number]
        if deeper < 0 or (item.kind != CODED and item.kind not in MADE):
            raise ValueError(item.kind)
        if item.kind == CODED and not item.pixels:
            raise ValueError("no size")
        needed = [_pixels(items, each, deeper - 1, known) for each in item.needs]
        known[number] = item.pixels + sum(needed)
    return known[number]


def _read(data: bytes) -> tuple[int, dict[int, _Item]]:
    """The number of the primary item, and all items. Raises IndexError, KeyError, ValueError."""
    found: list[tuple[int, int]] = []
    with suppress(IndexError, ValueError):  # some phones append what is no box
        found += ((at, stop) for kind, at, stop in _boxes(data, 0, len(data)) if kind == b"meta")
    ((start, end),) = found
    primary, items, held = 0, dict[int, _Item](), list[tuple[bytes, int, int]]()
    boxes = [*_boxes(data, start + 4, end)]  # behind its version
    for kind, start, end in boxes:
        reader = _Reader(data, start, end)
        if kind == b"pitm":
            version = reader.version()
            primary = reader.number(4 if version else 2)
        elif kind == b"iinf":
            reader.skip(4 if reader.version() else 2)
            for _, at, stop in _boxes(data, reader.at, end):
                _add_item(items, _Reader(data, at, stop))
    for kind, start, end in boxes:
        if kind == b"iref":
            wide = 4 if data[start] else 2
            for name, at, stop in _boxes(data, start + 4, end):
                reader = _Reader(data, at, stop)
                number, count = reader.number(wide), reader.number(2)
                to = [reader.number(wide) for _ in range(count)]
                if name == b"dimg":
                    items[number].needs += to
                elif name == b"auxl":
                    items[number].alpha_of += to
        elif kind == b"iprp":
            for name, at, stop in _boxes(data, start, end):
                if name == b"ipco":
                    held += _boxes(data, at, stop)
                elif name == b"ipma":
                    _add_properties(items, _Reader(data, at, stop))
    for number, item in items.items():
        for index in item.properties:
            kind, start, end = held[index - 1]
            if kind == b"ispe":
                reader = _Reader(data, start + 4, end)
                item.pixels = max(item.pixels, reader.number(4) * reader.number(4))
            elif kind == b"auxC" and any(name in data[start:end] for name in ALPHA):
                for owner in item.alpha_of:
                    items[owner].needs.append(number)
    return primary, items


def _add_item(items: dict[int, _Item], reader: "_Reader") -> None:
    """An `infe` box: an item's number and kind."""
    version = reader.version()
    number = reader.number(4 if version > 2 else 2)
    reader.skip(2)
    items[number] = _Item(reader.bytes(4) if version > 1 else b"")


def _add_properties(items: dict[int, _Item], reader: "_Reader") -> None:
    """An `ipma` box: which properties each item has, by their places in `ipco`, from 1."""
    version, wide = reader.version(), reader.flags & 1
    for _ in range(reader.number(4)):
        item = items[reader.number(4 if version else 2)]
        for _ in range(reader.number(1)):
            index = reader.number(2) & 0x7FFF if wide else reader.number(1) & 0x7F
            if index:
                item.properties.append(index)


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of the content of each box. Raises ValueError."""
    for _ in range(MOST_BOXES):
        if start == end:
            return
        reader = _Reader(data, start, end)
        size, kind = reader.number(4), reader.bytes(4)
        size = reader.number(8) if size == 1 else size or end - start
        if not reader.at - start <= size <= end - start:
            raise ValueError(size)
        yield kind, reader.at, start + size
        start += size
    raise ValueError("too many boxes")


class _Reader:
    """Reads numbers one after another, and nothing behind the end. Raises IndexError."""

    def __init__(self, data: bytes, start: int, end: int) -> None:
        self.data, self.at, self.end, self.flags = data, start, end, 0

    def bytes(self, count: int) -> bytes:
        at = self.at
        self.skip(count)
        return self.data[at : self.at]

    def number(self, count: int) -> int:
        return int.from_bytes(self.bytes(count), "big")

    def version(self) -> int:
        version, self.flags = self.number(1), self.number(3)
        return version

    def skip(self, count: int) -> None:
        self.at += count
        if self.at > self.end:
            raise IndexError(self.at)
