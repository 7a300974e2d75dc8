"""PNG files with damage that no viewer minds: in chunks that the pixels do not need."""

import zlib
from collections.abc import Callable, Iterator

from cbam.images.formats import FORMATS

NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # for the pixels


def without_damage(data: bytes) -> Iterator[bytes]:
    """Copies of a PNG to try when it cannot be decoded, each with fewer chunks; none of others.

    The first lacks the ancillary chunks whose checksum is wrong, as in browsers, and the second
    holds only what the pixels need.
    """
    if data.startswith(FORMATS["PNG"].magic):
        whole = _only(data, lambda kind, right: right or not kind[0] & 0x20)
        bare = _only(data, lambda kind, right: kind in NEEDED)
        yield from dict.fromkeys(each for each in (whole, bare) if len(each) < len(data))


def _only(data: bytes, wanted: Callable[[bytes, bool], bool]) -> bytes:
    """The PNG with the chunks that `wanted` takes, by their kind and whether they are whole."""
    at = len(FORMATS["PNG"].magic)
    parts = [data[:at]]
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")  # length, kind, data, checksum
        checksum = int.from_bytes(data[end - 4 : end], "big")
        if wanted(data[at + 4 : at + 8], zlib.crc32(data[at + 4 : end - 4]) == checksum):
            parts.append(data[at:end])
        at = end
    return b"".join([*parts, data[at:]])
