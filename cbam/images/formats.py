"""The image formats we read. A file's content decides, not its name or Content-Type."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """A kind of image file."""

    title: str  # as people write it
    media_type: str
    suffixes: tuple[str, ...]
    magic: bytes  # how every such file begins
    divisor: int = 1  # of the megapixel limit: its decoder takes this many times a JPEG's


FORMATS = {  # by Pillow's names
    "JPEG": Format("JPEG", "image/jpeg", (".jpg", ".jpeg"), b"\xff\xd8\xff"),
    "PNG": Format("PNG", "image/png", (".png",), b"\x89PNG\r\n\x1a\n"),
    "WEBP": Format("WebP", "image/webp", (".webp",), b"RIFF", divisor=2),
}
TITLES = tuple(format.title for format in FORMATS.values())
SUFFIXES = tuple(suffix for format in FORMATS.values() for suffix in format.suffixes)
EITHER = f"{', '.join(TITLES[:-1])} or {TITLES[-1]}"  # for sentences: "JPEG, PNG or WebP"


def format_of(data: bytes) -> Format | None:
    """The format that a file's first bytes announce, if it is one of FORMATS."""
    return next((format for format in FORMATS.values() if data.startswith(format.magic)), None)
