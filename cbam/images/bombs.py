"""Counts the parts of an image file in its bytes, before any decoder sees them.

A photo has a few dozen segments and at most a dozen scans. A file made to keep a server busy can
have a million: 10 MiB of progressive scans of a large, empty picture took a decoder ten minutes,
and 10 MiB of empty comments took a parser four seconds.
"""

import re

from cbam.errors import BrokenImage
from cbam.images.formats import FORMATS

MAX_PARTS = 50_000  # a parser takes 1 to 5 microseconds for each; 10 MiB of tiny PNG chunks fit
MAX_SCANS = 50  # JPEG; encoders write 1 to 15. One more costs up to 40 ms at 40 megapixels

# Any marker but those within compressed data: FF 00 is an escaped byte, FF D0 to D7 a restart.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_DHT, _SOI, _EOI, _SOS, _DQT, _TEM = 0xC4, 0xD8, 0xD9, 0xDA, 0xDB, 0x01
_SMALLEST_TABLE = 17  # bytes: a Huffman table without symbols


def check_structure(data: bytes) -> None:
    """Refuse a JPEG or PNG that is made of absurdly many parts. Other formats are not checked.

    Raises BrokenImage. All other damage is left to the decoder.
    """
    if data.startswith(FORMATS["JPEG"].magic):
        _check_jpeg(data)
    elif data.startswith(FORMATS["PNG"].magic):
        _check_png(data)


def _check_jpeg(data: bytes) -> None:
    """Walk the segments up to the end of the first image."""
    at, parts, scans = 2, 0, 0
    while True:
        found = _MARKER.search(data, at)
        # Between scans lie compressed data; before the first one, padding is read byte by byte.
        parts += 1 if scans else 1 + (found.start() if found else len(data)) - at
        _check_parts(parts, "JPEG", "segments")
        if not found or (code := found[0][1]) == _EOI:
            return
        at = found.end()
        if code in (_SOI, _TEM):
            continue  # markers without a length
        length = int.from_bytes(data[at : at + 2], "big")
        scans += code == _SOS
        if code in (_DHT, _DQT):
            parts += length // _SMALLEST_TABLE
        if scans > MAX_SCANS:
            raise BrokenImage(
                f"The JPEG has more than {MAX_SCANS} scans. Save it again, not as progressive."
            )
        at += max(length, 2)


def _check_png(data: bytes) -> None:
    """Walk the chunks."""
    at, parts, profiles = len(FORMATS["PNG"].magic), 0, 0
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        profiles += data[at + 4 : at + 8] == b"iCCP"
        if profiles > 1:  # each is unpacked to as much as 1 MB
            raise BrokenImage("The PNG has more than one colour profile. Save it again.")
        parts += 1
        _check_parts(parts, "PNG", "chunks")
        at += 12 + length  # length, kind, data, checksum


def _check_parts(parts: int, format: str, name: str) -> None:
    if parts > MAX_PARTS:
        raise BrokenImage(f"The {format} is made of more than {MAX_PARTS:,} {name}. Save it again.")
