"""The image formats we read. A file's content decides, not its name or Content-Type."""

from dataclasses import dataclass
from importlib.util import find_spec


@dataclass(frozen=True)
class Format:
    """A kind of image file."""

    title: str  # as people write it
    media_type: str
    suffixes: tuple[str, ...]
    magic: bytes = b""  # how every such file begins
    brands: frozenset[bytes] = frozenset()  # or one of those that the file's first box names,
    unless: frozenset[bytes] = frozenset()  # and none of these
    divisor: float = 1  # of the megapixel limit: its decoder takes this many times a JPEG's
    also: tuple[str, ...] = ()  # further media types of such files

    def announced_by(self, data: bytes) -> bool:
        """Whether a file that begins like this says that it is of this format."""
        if self.magic:
            return data.startswith(self.magic)
        named = set(brands(data))
        return bool(self.brands & named) and not self.unless & named

    @property
    def accept(self) -> tuple[str, ...]:
        """For a file chooser: media types, and suffixes where few systems know the type."""
        return (self.media_type, *self.also, *(self.suffixes if self.brands else ()))


def brands(data: bytes) -> tuple[bytes, ...]:
    """What a file made of boxes (ISO 14496-12) says that it is, the main brand first; else ()."""
    if data[4:8] != b"ftyp":
        return ()
    end = min(int.from_bytes(data[:4], "big"), MOST_BRANDS * 4, len(data))
    return (data[8:12], *(data[at : at + 4] for at in range(16, end, 4)))


MOST_BRANDS = 64  # files name a dozen

FORMATS = {  # by Pillow's names
    "JPEG": Format("JPEG", "image/jpeg", (".jpg", ".jpeg"), b"\xff\xd8\xff"),
    "PNG": Format("PNG", "image/png", (".png",), b"\x89PNG\r\n\x1a\n"),
    "WEBP": Format("WebP", "image/webp", (".webp",), b"RIFF", divisor=2),
}
AVIF = frozenset((b"avif", b"avis"))  # the brands of a relative that we do not read
HEIC = Format(
    "HEIC",
    "image/heic",
    (".heic", ".heif"),
    brands=frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")),
    unless=AVIF,
    divisor=1.6,
    also=("image/heif",),
)
if find_spec("pi_heif"):  # it has no wheels for some machines
    FORMATS["HEIF"] = HEIC

TITLES = tuple(format.title for format in FORMATS.values())
SUFFIXES = tuple(suffix for format in FORMATS.values() for suffix in format.suffixes)
EITHER = f"{', '.join(TITLES[:-1])} or {TITLES[-1]}"  # for sentences: "JPEG, PNG or WebP"


def format_of(data: bytes) -> Format | None:
    """The format that a file's first bytes announce, if it is one of FORMATS."""
    return next((format for format in FORMATS.values() if format.announced_by(data)), None)
