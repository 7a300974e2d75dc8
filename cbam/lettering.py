"""Words in pictures: whole, whatever their length and script, in a font that every machine has."""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from PIL import ImageDraw, ImageFont

SPACING = 1.25  # from line to line, in font sizes
KEPT = "\u00a0"  # a space at which no line ends
# Where a line may end: at spaces, behind these signs, and before and behind a sign that is spelt.
_PIECES = re.compile(r" +|\\(?:u[0-9a-f]{4}|U[0-9a-f]{8})|[^ /_\\-]+[/_-]*|[/_-]+|\\")
_LATIN = re.compile(r"LATIN (SMALL|CAPITAL) LETTER ([A-Z]{1,2}|SHARP S)(?: WITH .*)?")
_MISSING = "\uffff"  # no font has a sign for it


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, which needs no file of the machine's."""
    return ImageFont.load_default(size)


def printable(text: str) -> str:
    """The text with signs that the font has: others lose their accents, or are spelt `\\u732b`."""
    text = "".join(" " if char in "\t\n\r" else char for char in unicodedata.normalize("NFC", text))
    return "".join(char if _is_drawn(char) else _instead(char) for char in text)


def wrapped(text: str, size: int, width: float) -> list[str]:
    """The text in lines of at most `width` pixels; at least one line, and no sign is lost.

    Lines end at spaces and behind hyphens; only a word that is wider by itself is broken.
    """
    lines, line = [], ""
    pieces = _PIECES.findall(printable(text))
    while pieces:
        piece = pieces.pop(0)
        if text_width((line + piece).rstrip(" "), size) <= width:
            line += piece
            continue
        if line.strip(" "):
            lines.append(line.strip(" "))
            line = ""
            pieces.insert(0, piece.lstrip(" "))
            continue
        fitting = next(
            (n for n in range(len(piece), 1, -1) if text_width(piece[:n], size) <= width), 1
        )
        lines.append(piece[:fitting])
        if piece[fitting:]:
            pieces.insert(0, piece[fitting:])
    return [each.replace(KEPT, " ") for each in [*lines, line.strip(" ")] if each] or [""]


def text_width(text: str, size: int) -> float:
    """The width of one line, in pixels."""
    return font(size).getlength(text.replace(KEPT, " "))


def height(lines: int, size: int) -> int:
    """The height of so many lines, in pixels."""
    return round(lines * size * SPACING)


def write(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], lines: Sequence[str], size: int, fill: str
) -> None:
    """Draw lines one below the other; `at` is the upper left corner of the first."""
    x, y = at
    for number, line in enumerate(lines):
        draw.text((x, y + height(number, size)), line, fill=fill, font=font(size))


def _instead(char: str) -> str:
    """For a sign that the font lacks: what it is made of, without accents, or its number."""
    parts = [
        part for part in unicodedata.normalize("NFKD", char) if not unicodedata.combining(part)
    ]
    if parts and all(part != char and _is_drawn(part) for part in parts):
        return "".join(parts)
    if named := _LATIN.fullmatch(unicodedata.name(char, "")):  # as "L WITH STROKE" or "AE"
        plain = "SS" if named[2] == "SHARP S" else named[2]
        return plain.lower() if named[1] == "SMALL" else plain
    return f"\\U{ord(char):08x}" if ord(char) > 0xFFFF else f"\\u{ord(char):04x}"


@lru_cache(4096)
def _is_drawn(char: str) -> bool:
    """Whether the font has a sign for it: it is not drawn as what is missing is."""
    if char in (" ", KEPT):
        return True
    if not char.isprintable() or unicodedata.combining(char):
        return False
    return _drawing(char) not in (_drawing(_MISSING), b"")


def _drawing(char: str) -> bytes:
    return bytes(font(20).getmask(char))
