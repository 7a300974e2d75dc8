"""Files that we do not read, by name: what a file is, and what to do with it.

Whoever sends one is told more than "no image". A file's content decides, as everywhere. To know
another kind, add a record to STRANGERS.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from cbam.images.formats import AVIF, EITHER, FORMATS, brands, format_of

AS_JPEG = "Save it as JPEG or PNG and send that."
HEAD = 2048  # bytes in which everything but text shows what it is


@dataclass(frozen=True)
class Stranger:
    """A kind of file that we do not read."""

    title: str  # with its article: "a PDF document"
    knows: Callable[[bytes], object]  # of a file's first HEAD bytes: whether it is one
    advice: str = AS_JPEG
    suffixes: tuple[str, ...] = ()  # of pictures: what their files are called


def _starts(*magics: bytes, at: int = 0) -> Callable[[bytes], bool]:
    """Whether one of these stands at this place."""
    return lambda head: head.startswith(magics, at)


def _brand(*names: bytes) -> Callable[[bytes], bool]:
    """Whether it is an ISO media file of one of these kinds."""
    return lambda head: not set(brands(head)).isdisjoint(names)


def _says(pattern: bytes) -> Callable[[bytes], object]:
    """Whether it is text that begins like this, whatever its case and the space before it."""
    found = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:" + pattern + rb")", re.IGNORECASE | re.DOTALL)
    return found.match


def _is_text(head: bytes) -> bool:
    """Whether it holds no control characters but white space."""
    return not re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]", head)


FRAME = "Save one frame as JPEG or PNG and send that."
EXPORT = "Export it as JPEG or PNG and send that."
UNPACK = "Unpack it and send the photo itself."
THE_FILE = "Send the photo's file itself."
SOUND = "Send a photo."

TEXT = Stranger("text", _is_text, THE_FILE)
# The first that knows a file names it.
STRANGERS = (
    Stranger("an empty file", lambda head: not head, "Send the photo again: nothing arrived."),
    Stranger("AVIF", _brand(*AVIF), suffixes=(".avif",)),
    Stranger("a GIF", _starts(b"GIF8"), FRAME, (".gif",)),
    Stranger("a BMP", _starts(b"BM"), suffixes=(".bmp", ".dib")),
    Stranger("a Photoshop file", _starts(b"8BPS"), EXPORT, (".psd", ".psb")),
    Stranger(
        "a camera's RAW file",
        lambda head: (
            head.startswith((b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FOVb"))
            or (head.startswith(b"II*\0") and head[8:10] == b"CR")
            or _brand(b"crx ")(head)
        ),
        "Develop it, or send the JPEG that the camera made beside it.",
        (".cr2", ".cr3", ".raf", ".orf", ".rw2", ".x3f", ".nef", ".arw", ".dng"),
    ),
    Stranger(
        "a TIFF, or a camera's RAW file",
        _starts(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
        suffixes=(".tif", ".tiff"),
    ),
    Stranger(
        "JPEG 2000",
        _starts(b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
        suffixes=(".jp2", ".j2k", ".jpx", ".jpf"),
    ),
    Stranger("JPEG XL", _starts(b"\0\0\0\x0cJXL \r\n\x87\n", b"\xff\x0a"), suffixes=(".jxl",)),
    Stranger("JPEG XR", _starts(b"II\xbc"), suffixes=(".jxr", ".wdp", ".hdp")),
    Stranger("an icon", _starts(b"\0\0\1\0", b"\0\0\2\0", b"icns"), suffixes=(".ico", ".icns")),
    Stranger("a QOI picture", _starts(b"qoif"), suffixes=(".qoi",)),
    Stranger("an OpenEXR picture", _starts(b"v/1\1"), EXPORT, (".exr",)),
    Stranger("a Radiance HDR picture", _starts(b"#?RADIANCE", b"#?RGBE"), EXPORT, (".hdr",)),
    Stranger("a DirectDraw texture", _starts(b"DDS "), EXPORT, (".dds",)),
    Stranger("a GIMP picture", _starts(b"gimp xcf"), EXPORT, (".xcf",)),
    Stranger("a DICOM picture", _starts(b"DICM", at=128), EXPORT, (".dcm",)),
    Stranger("a FITS picture", _starts(b"SIMPLE  ="), EXPORT, (".fits",)),
    Stranger(
        "a PBM, PGM or PPM picture",
        lambda head: re.match(rb"P[1-7][\s#]", head),
        suffixes=(".pbm", ".pgm", ".ppm", ".pnm", ".pam"),
    ),
    Stranger("a PDF document", lambda head: b"%PDF-" in head[:1024], EXPORT),
    Stranger("a PostScript document", _starts(b"%!PS", b"\xc5\xd0\xd3\xc6"), EXPORT),
    Stranger(
        "a video", _brand(b"qt  ", b"isom", b"iso2", b"mp41", b"mp42", b"M4V ", b"avc1"), FRAME
    ),
    Stranger(
        "a video",
        lambda head: (
            head.startswith((b"\x1aE\xdf\xa3", b"\0\0\1\xba", b"\0\0\1\xb3", b"FLV\1", b"0&\xb2u"))
            or (head.startswith(b"RIFF") and head[8:12] == b"AVI ")
            or _brand(b"3gp4", b"3gp5", b"3gp6", b"3g2a", b"dash", b"mp4v", b"iso5", b"iso6")(head)
        ),
        FRAME,
    ),
    Stranger(
        "a sound",
        lambda head: (
            head.startswith((b"ID3", b"\xff\xfb", b"\xff\xf3", b"fLaC", b"OggS", b"FORM"))
            or (head.startswith(b"RIFF") and head[8:12] == b"WAVE")
            or _brand(b"M4A ", b"M4B ")(head)
        ),
        SOUND,
    ),
    Stranger(
        "a zip file, or a document or app that is one",
        _starts(b"PK\3\4", b"PK\5\6"),
        UNPACK,
    ),
    Stranger("a gzip file", _starts(b"\x1f\x8b"), UNPACK),
    Stranger(
        "an archive",
        lambda head: (
            head.startswith((b"7z\xbc\xaf\x27\x1c", b"Rar!", b"BZh", b"\xfd7zXZ", b"(\xb5/\xfd"))
            or head[257:262] == b"ustar"
        ),
        UNPACK,
    ),
    Stranger("a NumPy array", _starts(b"\x93NUMPY"), "Save its pixels as PNG and send that."),
    Stranger("a Parquet file", _starts(b"PAR1"), THE_FILE),
    Stranger("a program", _starts(b"MZ", b"\x7fELF", b"\xcf\xfa\xed\xfe"), SOUND),
    Stranger("an old Word, Excel or PowerPoint file", _starts(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")),
    Stranger(
        "a Git LFS pointer, not the photo",
        _says(rb"version https://git-lfs"),
        "Fetch the photo with `git lfs pull` and send that.",
    ),
    Stranger(
        "a data: URL, which is text",
        _says(rb"data:[\w.+-]*/?[\w.+-]*[;,]"),
        "Decode the base64 after its comma and send the bytes.",
    ),
    Stranger(
        "base64 text of a photo",
        _says(rb"(?:/9j/|iVBORw0KGgo|UklGR|R0lGOD|AAAA[\w+/]{4}Z0eX)"),
        "Decode it and send the bytes.",
    ),
    Stranger(
        "an SVG drawing",
        lambda head: _says(rb"<(?:\?xml|!--|!DOCTYPE svg|svg)")(head) and b"<svg" in head.lower(),
        EXPORT,
    ),
    Stranger(
        "a web page (HTML)",
        lambda head: (
            _says(rb"<(?:!DOCTYPE html|html|head|body)")(head)
            or (_says(rb"<(?:\?xml|!--)")(head) and b"<html" in head.lower())
        ),
        "Perhaps a page came where the photo was expected: save the photo itself and send that.",
    ),
    Stranger("XML", _says(rb"<\?xml"), THE_FILE),
    Stranger("JSON", lambda head: _says(rb"[{\[]")(head) and _is_text(head), THE_FILE),
    Stranger("empty: nothing but zeros", lambda head: not head.strip(b"\0"), "Copy it again."),
    TEXT,
)
# Endings of pictures that we do not read, so that a data set's reader can say so.
PICTURE_SUFFIXES = tuple(suffix for kind in STRANGERS for suffix in kind.suffixes)

# Frame markers of a JPEG (ITU-T T.81, table B.1) that few decoders take.
_FRAMES = {
    0xC3: "lossless",
    0xC5: "hierarchical",
    0xC6: "hierarchical",
    0xC7: "lossless and hierarchical",
    0xC9: "arithmetic-coded",
    0xCA: "arithmetic-coded",
    0xCB: "lossless and arithmetic-coded",
    0xCD: "hierarchical and arithmetic-coded",
    0xCE: "hierarchical and arithmetic-coded",
    0xCF: "lossless, hierarchical and arithmetic-coded",
    0xF7: "JPEG-LS",
}
_NO_FRAME = (0xC4, 0xC8, 0xCC)  # among SOF's codes: tables, an extension, conditioning


def stranger(data: bytes) -> Stranger | None:
    """What a file is, if we know it and do not read it."""
    head = data[:HEAD]
    return next((kind for kind in STRANGERS if kind.knows(head)), None)


def is_plain_text(data: bytes) -> bool:
    """Whether it is text and nothing more special, such as a name or an address."""
    return stranger(data) is TEXT


def unread(data: bytes) -> str:
    """Why a file that no decoder of ours knows is refused: one or two sentences for its sender."""
    if data.startswith(FORMATS["JPEG"].magic):
        return jpeg_trouble(data) or "The JPEG's header is cut off or damaged. Send it again."
    known = format_of(data)
    # RIFF may hold anything, such as sounds; WebP says its name four bytes later.
    if known and (not data.startswith(b"RIFF") or data[8:12] == b"WEBP"):
        return f"The {known.title}'s header is cut off or damaged. Send it again."
    kind = stranger(data)
    if kind is None:
        return f"The {len(data):,} bytes are not a {EITHER} image. Send one of these."
    return f"This is {kind.title}, not a {EITHER} image. {kind.advice}"


def jpeg_trouble(data: bytes) -> str:
    """Why a JPEG can be whole and still not be decoded; empty: nothing is known."""
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        code = data[at + 1]
        if code == 0xFF:
            at += 1
            continue
        if (0xC0 <= code <= 0xCF and code not in _NO_FRAME) or code == 0xF7:
            return _frame_trouble(code, data[at + 4], data[at + 9])
        if code == 0xDA:
            break
        at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
    return ""


def _frame_trouble(code: int, bits: int, components: int) -> str:
    if bits != 8:
        return f"The JPEG has {bits} bits a channel; 8 can be read. Save it with 8 bits."
    if code in _FRAMES:
        return f"The JPEG is {_FRAMES[code]}, which few programs can read. {AS_JPEG}"
    if components not in (1, 3, 4):
        return f"The JPEG has {components} channels; 1, 3 or 4 can be read. {AS_JPEG}"
    return ""
