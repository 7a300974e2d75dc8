"""Files that we do not read are named, with what to do."""

import base64
import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cbam.errors import BadImage, BrokenImage, NotAnImage
from cbam.images.decode import decode
from cbam.images.formats import EITHER
from cbam.images.strangers import PICTURE_SUFFIXES, STRANGERS, jpeg_trouble, stranger


def saved(kind: str, **options: Any) -> bytes:
    """A small picture in one of Pillow's formats."""
    buffer = io.BytesIO()
    Image.radial_gradient("L").convert("RGB").save(buffer, kind, **options)
    return buffer.getvalue()


def media(brand: bytes, *compatible: bytes) -> bytes:
    """The beginning of an ISO media file."""
    names = brand + b"\0\0\0\0" + b"".join(compatible)
    return struct.pack(">I", 8 + len(names)) + b"ftyp" + names + b"\0\0\0\x08mdat" * 40


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("photo.jpg", b"x")
    return buffer.getvalue()


def array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


JPEG = saved("JPEG")
CASES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "an empty file"),
    "gif": (saved("GIF"), "a GIF"),
    "bmp": (saved("BMP"), "a BMP"),
    "tiff": (saved("TIFF"), "a TIFF"),
    "ico": (saved("ICO"), "an icon"),
    "ppm": (saved("PPM"), "a PBM, PGM or PPM picture"),
    "dds": (saved("DDS"), "a DirectDraw texture"),
    "pdf": (saved("PDF"), "a PDF document"),
    "eps": (saved("EPS"), "a PostScript document"),
    "psd": (b"8BPS\0\1" + bytes(40), "a Photoshop file"),
    "cr2": (b"II*\0\x10\0\0\0CR\2\0" + bytes(40), "a camera's RAW file"),
    "cr3": (media(b"crx ", b"isom"), "a camera's RAW file"),
    "raf": (b"FUJIFILMCCD-RAW 0201" + bytes(40), "a camera's RAW file"),
    "jp2": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40), "JPEG 2000"),
    "j2k": (b"\xff\x4f\xff\x51" + bytes(40), "JPEG 2000"),
    "jxl": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), "JPEG XL"),
    "jxl stream": (b"\xff\x0a" + bytes(40), "JPEG XL"),
    "svg": (b'<?xml version="1.0"?>\n<!-- by hand -->\n<svg xmlns="x">', "an SVG drawing"),
    "bare svg": (b"\xef\xbb\xbf <SVG viewBox='0 0 1 1'/>", "an SVG drawing"),
    "html": (b"\n<!DOCTYPE html><html><body><svg></svg>", "a web page (HTML)"),
    "xml": (b"<?xml version='1.0'?><a/>", "XML"),
    "json": (b'{"image": "x"}', "JSON"),
    "text": ("ein Bild für dich".encode(), "text"),
    "binary": (bytes(range(1, 200)), ""),
    "zeros": (bytes(5000), "empty: nothing but zeros"),
    "mp4": (media(b"isom", b"iso2", b"avc1"), "a video"),
    "mov": (media(b"qt  "), "a video"),
    "webm": (b"\x1aE\xdf\xa3" + bytes(40), "a video"),
    "avi": (b"RIFF\x10\0\0\0AVI LIST", "a video"),
    "wav": (b"RIFF\x10\0\0\0WAVEfmt ", "a sound"),
    "zip": (zipped(), "a zip file"),
    "gzip": (gzip.compress(JPEG), "a gzip file"),
    "npy": (array(), "a NumPy array"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer"),
    "data url": (b"data:image/jpeg;base64," + base64.b64encode(JPEG), "a data: URL"),
    "base64 jpeg": (base64.b64encode(JPEG), "base64 text of a photo"),
    "base64 png": (base64.b64encode(saved("PNG")), "base64 text of a photo"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_stranger_is_named_with_what_to_do(name: str):
    data, title = CASES[name]
    with pytest.raises(NotAnImage) as refused:
        decode(data)
    said = str(refused.value)
    assert title in said
    assert f"not a {EITHER} image" in said
    assert said.count(". ") == 1  # what it is, then what to do
    assert said.endswith(".")


def test_every_kind_of_stranger_has_advice_and_titles_are_told_apart():
    for kind in STRANGERS:
        assert kind.advice.endswith(".")
        assert kind.advice[0].isupper()
    assert len(set(PICTURE_SUFFIXES)) == len(PICTURE_SUFFIXES)
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in PICTURE_SUFFIXES)


@pytest.mark.parametrize(
    ("data", "title"),
    [
        (media(b"avif", b"mif1"), "AVIF"),
        (media(b"mif1", b"avif"), "AVIF"),
    ],
)
def test_what_phones_save_is_known_by_its_brands(data: bytes, title: str):
    assert stranger(data).title.startswith(title)


def with_frame(code: int, bits: int = 8, components: int = 3) -> bytes:
    """The JPEG with another frame header."""
    at = JPEG.index(b"\xff\xc0")
    changed = bytearray(JPEG)
    changed[at + 1], changed[at + 4], changed[at + 9] = code, bits, components
    return bytes(changed)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (with_frame(0xC1, bits=12), "12 bits"),
        (with_frame(0xC0, bits=12), "12 bits"),
        (with_frame(0xC3), "lossless"),
        (with_frame(0xC5), "hierarchical"),
        (with_frame(0xF7), "JPEG-LS"),
        (with_frame(0xC0, components=2), "2 channels"),
    ],
)
def test_a_jpeg_of_a_rare_kind_says_which(data: bytes, words: str):
    with pytest.raises(BadImage, match=words) as refused:
        decode(data)
    assert "Save it" in str(refused.value)


def test_an_arithmetic_coded_jpeg_is_named_where_the_decoder_fails():
    assert "arithmetic-coded" in jpeg_trouble(with_frame(0xC9))
    assert jpeg_trouble(JPEG) == ""


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_photo_that_broke_off_in_its_header_is_still_called_what_it_is(kind: str):
    title = {"WEBP": "WebP"}.get(kind, kind)
    with pytest.raises((NotAnImage, BrokenImage), match=f"The {title}'s header|truncated|header"):
        decode(saved(kind)[:14])


def test_a_stranger_is_named_at_once_however_long_it_is(make_photo: Callable[..., Image.Image]):
    # Ten megabytes of one letter: a pattern that looks at all of it would show.
    with pytest.raises(NotAnImage, match="This is text"):
        decode(b" " * 10_000_000)
    assert stranger(zlib.compress(bytes(10_000))) is None
