"""Files made to hurt whoever opens them, built from a few lines each; nothing is stored.

`FILES` is every one of them by name: how it is built and what the service may answer. None may cost
more than the caps of test_hostile_files.py. `LARGEST` are the largest files that the limits allow.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from heic import Item, grid, heic, picture, size
from PIL import Image, PngImagePlugin

ORIENTATION = 0x0112
BODY = 10 * 2**20 - 10_000  # as much as fits an upload


@dataclass(frozen=True)
class Hostile:
    """A file, built when asked for, and the statuses that are right answers to it."""

    build: Callable[[], bytes]
    statuses: tuple[int, ...]


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """An image as a file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int = 48, height: int = 32, seed: int = 0) -> Image.Image:
    """Random pixels: nothing in the file can be left out unnoticed."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


# JPEG


def segment(marker: int, data: bytes = b"") -> bytes:
    """A JPEG segment: marker, length, data."""
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data


def after_start(jpeg: bytes, inserted: bytes) -> bytes:
    """A JPEG with these bytes right after its first two."""
    return jpeg[:2] + inserted + jpeg[2:]


def jpeg_that_says(width: int, height: int) -> bytes:
    """A JPEG whose header announces a size."""
    whole = bytearray(encoded(noise()))
    at = whole.index(b"\xff\xc0") + 5
    whole[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(whole)


def jpeg_of_scans(side: int, scans: int) -> bytes:
    """A progressive grey JPEG without a picture: every scan is one long run of empty blocks."""
    blocks = (-(-side // 8)) ** 2
    run = "0" + "1" * 14  # the code of the longest run (EOB14), and its 14 bits: 32,767 blocks
    bits = run * (blocks // 32_767 + 1)
    bits += "1" * (-len(bits) % 8)
    scan = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    one = segment(0xDA, b"\x01\x01\x00\x01\x3f\x00") + scan
    return (
        b"\xff\xd8"
        + segment(0xDB, b"\0" + bytes([1] * 64))
        + segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + b"\x01\x11\x00")
        + segment(0xC4, b"\x00" + bytes([1] + [0] * 15) + b"\x00")
        + segment(0xC4, b"\x10" + bytes([1] + [0] * 15) + b"\xe0")
        + segment(0xDA, b"\x01\x01\x00\x00\x00\x00")
        + bytes(-(-blocks // 8))
        + one * scans
        + b"\xff\xd9"
    )


def many_tables(marker: int, table: bytes) -> bytes:
    """A JPEG with as many tables of a kind as fit, 64 KiB of them a segment."""
    full = segment(marker, table * (65_000 // len(table)))
    return after_start(encoded(noise()), full * (BODY // len(full)))


def profile(total: int) -> bytes:
    """A JPEG with an ICC profile of this many bytes, in segments."""
    count = -(-total // 65_000)
    parts = (
        segment(0xE2, b"ICC_PROFILE\0" + bytes([index % 255 + 1, min(count, 255)]) + bytes(65_000))
        for index in range(count)
    )
    return after_start(encoded(noise()), b"".join(parts))


# PNG


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    """A PNG chunk: length, kind, data, checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int = 48,
    height: int = 32,
    *,
    depth: int = 8,
    colour: int = 2,
    interlaced: bool = False,
    before: bytes = b"",
    after: bytes = b"",
    pixels: bytes | None = None,
) -> bytes:
    """A black PNG by hand, with other chunks before and after its pixels."""
    if pixels is None:
        channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
        row = 1 + -(-width * channels * depth // 8)
        passes = 3 if interlaced else 1  # more bytes than Adam7 needs: the rest is ignored
        pixels = zlib.compress(bytes(row * height * passes), 9)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + before
        + chunk(b"IDAT", pixels)
        + after
        + chunk(b"IEND")
    )


def packed_zeros(megabytes: int) -> bytes:
    """Zeros as zlib packs them: a thousandth of their size."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(1_000_000)) for _ in range(megabytes)) + packer.flush()


def apng(frames: int) -> bytes:
    """An animated PNG of this many frames, each of one pixel."""
    pixel = zlib.compress(b"\0\1\2\3")
    body = [chunk(b"acTL", struct.pack(">II", frames, 0))]
    body.append(chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 48, 32, 0, 0, 1, 10, 0, 0)))
    rest = []
    for frame in range(1, frames):
        at = 2 * frame
        control = struct.pack(">IIIIIHHBB", at - 1, 1, 1, 0, 0, 1, 10, 0, 0)
        rest += [chunk(b"fcTL", control), chunk(b"fdAT", struct.pack(">I", at) + pixel)]
    return png(before=b"".join(body), after=b"".join(rest))


# HEIC


def heic_of_tiles(side: int, rows: int = 1) -> bytes:
    """A picture of 64 x 64 pixels from rows of 100 tiles, which say that they are this large."""
    tile = picture(said=size(side, side))
    tile.hidden = True
    count = 100 * rows
    return heic(grid(100, rows, 64, 64, [*range(2, count + 2)]), *[tile] * count)


# WebP


def riff(chunks: bytes) -> bytes:
    """A WebP file of these chunks."""
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks


def webp_chunk(kind: bytes, data: bytes) -> bytes:
    """A WebP chunk: kind, length, data, padded."""
    return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def webp_that_says(width: int, height: int) -> bytes:
    """A WebP whose extended header announces a size."""
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    picture = encoded(noise(), "WEBP")[12:]
    return riff(webp_chunk(b"VP8X", bytes(4) + canvas) + picture)


def webp_with_length(at: int, length: int) -> bytes:
    """A WebP whose chunk at this place says that it is that long."""
    whole = bytearray(encoded(noise(), "WEBP"))
    whole[at : at + 4] = struct.pack("<I", length)
    return bytes(whole)


def webp_of_frames(frames: int) -> bytes:
    """An animated WebP of one pixel and this many frames."""
    two = [Image.new("RGBA", (1, 1), colour) for colour in ("red", "blue")]
    whole = encoded(two[0], "WEBP", save_all=True, append_images=two[1:], lossless=True)
    last = whole.rindex(b"ANMF")
    return riff(whole[12:] + whole[last:] * (frames - 2))


# EXIF


def exif_bomb(total: int, tags: int) -> bytes:
    """EXIF data whose tags all claim nearly the whole of it."""
    entries = b"".join(struct.pack("<HHLL", 1000 + n, 1, total - 1000, 0) for n in range(tags))
    data = b"II*\0\x08\0\0\0" + struct.pack("<H", tags) + entries + bytes(4)
    return data + bytes(max(0, total - len(data)))


def turned(value: bytes, kind: int = 3) -> bytes:
    """A JPEG whose orientation has this type and these four bytes."""
    tiff = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHL", ORIENTATION, kind, 1) + value + bytes(4)
    return after_start(encoded(noise()), segment(0xE1, b"Exif\0\0" + tiff))


# Polyglots and other formats


def zipped() -> bytes:
    """A ZIP archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("evil.js", "alert(1)")
    return buffer.getvalue()


def with_text(kind: type[PngImagePlugin.PngInfo] = PngImagePlugin.PngInfo) -> bytes:
    """A PNG with a script in its comment."""
    text = kind()
    text.add_text("Comment", "<script>alert(document.domain)</script>")
    return encoded(noise(), "PNG", pnginfo=text)


SCRIPT = b"<script>alert(1)</script>"
SVG = b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"
XXE = b"<?xml version='1.0'?><!DOCTYPE s [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><svg>&x;</svg>"

OK, BROKEN, FOREIGN = (200,), (422,), (415,)


def _truncated() -> dict[str, Hostile]:
    """Three formats, each cut off at ten places."""
    found = {}
    for kind in ("JPEG", "PNG", "WEBP"):
        for tenth in range(10):

            def build(kind: str = kind, tenth: int = tenth) -> bytes:
                whole = encoded(noise(), kind)
                return whole[: max(4, len(whole) * tenth // 10)]

            found[f"{kind} cut off at {tenth} tenths"] = Hostile(build, (415, 422))
    return found


FILES: dict[str, Hostile] = {
    **_truncated(),
    # Nothing, and nearly nothing
    "empty": Hostile(lambda: b"", BROKEN),
    "one byte": Hostile(lambda: b"\xff", FOREIGN),
    "JPEG's first three bytes": Hostile(lambda: b"\xff\xd8\xff", FOREIGN),
    "PNG's first eight bytes": Hostile(lambda: b"\x89PNG\r\n\x1a\n", (415, 422)),
    "WebP's first twelve bytes": Hostile(lambda: b"RIFF\0\0\0\0WEBP", FOREIGN),
    "10 MB of zeros": Hostile(lambda: bytes(BODY), FOREIGN),
    "10 MB of FF after a JPEG's start": Hostile(lambda: b"\xff\xd8" + b"\xff" * BODY, BROKEN),
    # Other formats, whatever their names
    "SVG": Hostile(lambda: SVG, FOREIGN),
    "HEIC of 100 tiles of 16 megapixels": Hostile(lambda: heic_of_tiles(4000), BROKEN),
    "HEIC of 900 small tiles": Hostile(lambda: heic_of_tiles(64, 9), OK),
    "HEIC of 900 pictures": Hostile(lambda: heic(*[Item()] * 900), OK),
    "HEIC of a million boxes": Hostile(lambda: heic() + b"\0\0\0\x08free" * 1_000_000, OK),
    "HEIC that says 4000 x 4000": Hostile(lambda: heic(picture(said=size(4000, 4000))), BROKEN),
    "SVG that reads a file": Hostile(lambda: XXE, FOREIGN),
    "HTML": Hostile(lambda: b"<!doctype html>" + SCRIPT, FOREIGN),
    "PDF": Hostile(lambda: encoded(noise(), "PDF"), FOREIGN),
    "EPS": Hostile(lambda: encoded(noise(), "EPS"), FOREIGN),
    "GIF": Hostile(lambda: encoded(noise(), "GIF"), FOREIGN),
    "TIFF": Hostile(lambda: encoded(noise(), "TIFF"), FOREIGN),
    "BMP": Hostile(lambda: encoded(noise(), "BMP"), FOREIGN),
    "ICO": Hostile(lambda: encoded(noise(32, 32), "ICO"), FOREIGN),
    "PPM": Hostile(lambda: encoded(noise(), "PPM"), FOREIGN),
    "PSD": Hostile(lambda: b"8BPS\0\1" + bytes(6) + b"\0\3\0\0\0\1\0\0\0\1\0\x08\0\3", FOREIGN),
    "JPEG 2000": Hostile(lambda: encoded(noise(), "JPEG2000"), FOREIGN),
    "HEIC's first 24 bytes": Hostile(lambda: b"\0\0\0\x18ftypheic\0\0\0\0heicmif1", BROKEN),
    "ZIP": Hostile(zipped, FOREIGN),
    "gzip": Hostile(lambda: b"\x1f\x8b\x08" + bytes(100), FOREIGN),
    "ELF": Hostile(lambda: b"\x7fELF" + bytes(100), FOREIGN),
    "pickle": Hostile(lambda: b"\x80\x04cos\nsystem\n(S'id'\ntR.", FOREIGN),
    # Two things at once: a photo is a photo, the rest is not looked at
    "JPEG and ZIP": Hostile(lambda: encoded(noise()) + zipped(), OK),
    "PNG and ZIP": Hostile(lambda: encoded(noise(), "PNG") + zipped(), OK),
    "PNG with HTML inside": Hostile(with_text, OK),
    "PNG with HTML behind": Hostile(lambda: encoded(noise(), "PNG") + SCRIPT, OK),
    "JPEG with HTML in a comment": Hostile(lambda: encoded(noise(), comment=SCRIPT), OK),
    "GIF header and a script": Hostile(lambda: b"GIF89a/*" + bytes(20) + b"*/=1;alert(1)", FOREIGN),
    "JPEG header and a script": Hostile(lambda: b"\xff\xd8\xff\xe0\x2f\x2a" + SCRIPT, BROKEN),
    "PDF header before a JPEG": Hostile(lambda: b"%PDF-1.7\n" + encoded(noise()), FOREIGN),
    # Bombs: small files of many pixels
    "9000 x 9000 in one bit": Hostile(lambda: encoded(Image.new("1", (9000, 9000)), "PNG"), BROKEN),
    "20000 x 20000 in one bit": Hostile(
        lambda: png(20_000, 20_000, depth=1, colour=0, pixels=packed_zeros(50)), BROKEN
    ),
    "interlaced 9000 x 9000": Hostile(
        lambda: png(9000, 9000, depth=1, colour=0, interlaced=True), BROKEN
    ),
    "34 bytes of WebP, 16383 x 16383": Hostile(
        lambda: riff(b"VP8L\x0d\0\0\0\x2f\xfe\xbf\xff\x1f\x07\x10\x11\x11\x88\x88\xfe\x07\0"),
        BROKEN,
    ),
    "PNG that says 2^31 - 1": Hostile(lambda: png(2**31 - 1, 2**31 - 1, pixels=b""), BROKEN),
    "PNG that says 2^32 - 1": Hostile(lambda: png(2**32 - 1, 2**32 - 1, pixels=b""), BROKEN),
    "PNG that says 0 x 0": Hostile(lambda: png(0, 0, pixels=b""), FOREIGN),
    "PNG that says 1 x 40 million": Hostile(lambda: png(1, 40_000_000, pixels=b""), BROKEN),
    "PNG of 6000 x 6000, no pixels": Hostile(lambda: png(6000, 6000, pixels=b""), BROKEN),
    "JPEG that says 65535 x 65535": Hostile(lambda: jpeg_that_says(65_535, 65_535), BROKEN),
    "JPEG that says 0 x 0": Hostile(lambda: jpeg_that_says(0, 0), FOREIGN),
    "JPEG that says 5000 x 5000": Hostile(lambda: jpeg_that_says(5000, 5000), (200, 422)),
    "WebP that says 2^24 x 2^24": Hostile(lambda: webp_that_says(2**24, 2**24), BROKEN),
    "WebP that says 5000 x 5000": Hostile(lambda: webp_that_says(5000, 5000), BROKEN),
    # Bombs: megabytes of nothing
    "PNG text of 50 MB": Hostile(
        lambda: png(before=chunk(b"zTXt", b"a\0\0" + packed_zeros(50))), OK
    ),
    "PNG international text of 50 MB": Hostile(
        lambda: png(before=chunk(b"iTXt", b"a\0\1\0\0\0" + packed_zeros(50))), OK
    ),
    "PNG text of 50 MB behind the pixels": Hostile(
        lambda: png(after=chunk(b"zTXt", b"a\0\0" + packed_zeros(50)) * 20), OK
    ),
    "PNG texts of 1 MB, a thousand": Hostile(
        lambda: png(before=chunk(b"zTXt", b"a\0\0" + packed_zeros(1)) * 1000), OK
    ),
    "PNG text of 9 MB, not packed": Hostile(
        lambda: png(before=chunk(b"tEXt", b"a\0" + b"b" * 9_000_000)), (200, 422)
    ),
    "PNG profile of 50 MB": Hostile(
        lambda: png(before=chunk(b"iCCP", b"a\0\0" + packed_zeros(50))), (200, 422)
    ),
    "PNG profiles of 1 MB, nine thousand": Hostile(
        lambda: png(before=chunk(b"iCCP", b"a\0\0" + packed_zeros(1)) * 9000), BROKEN
    ),
    "PNG pixels of 200 MB": Hostile(lambda: png(pixels=packed_zeros(200)), (200, 422)),
    "JPEG profile of 9 MB": Hostile(lambda: profile(9_000_000), OK),
    # Many small parts
    "JPEG of 100 thousand scans": Hostile(lambda: jpeg_of_scans(6300, 100_000), BROKEN),
    "JPEG of 51 scans": Hostile(lambda: jpeg_of_scans(64, 50), BROKEN),
    "JPEG of 50 scans": Hostile(lambda: jpeg_of_scans(2000, 49), OK),
    "JPEG of 2 million comments": Hostile(
        lambda: after_start(encoded(noise()), segment(0xFE) * (BODY // 4)), BROKEN
    ),
    "JPEG padded with 10 MB of FF": Hostile(
        lambda: after_start(encoded(noise()), b"\xff" * (BODY - 10_000)), BROKEN
    ),
    "JPEG of 600 thousand Huffman tables": Hostile(lambda: many_tables(0xC4, bytes(17)), BROKEN),
    "JPEG of 150 thousand quantisation tables": Hostile(
        lambda: many_tables(0xDB, b"\0" + bytes([1] * 64)), BROKEN
    ),
    "JPEG of 800 thousand Photoshop resources": Hostile(
        lambda: many_tables(0xED, b"Photoshop 3.0\0" + b"8BIM\0\0\0\0\0\0\0\0" * 5400), (200, 422)
    ),
    "PNG of 800 thousand chunks": Hostile(
        lambda: png(before=chunk(b"abCd") * (BODY // 12)), BROKEN
    ),
    "PNG of 800 thousand pieces of pixels": Hostile(
        lambda: png(after=chunk(b"IDAT") * (BODY // 12)), BROKEN
    ),
    "APNG of 5000 frames": Hostile(lambda: apng(5000), OK),
    "APNG of 60 thousand frames": Hostile(lambda: apng(60_000), BROKEN),
    "APNG that says 2^31 frames": Hostile(
        lambda: png(before=chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))), (200, 422)
    ),
    "animated WebP": Hostile(lambda: webp_of_frames(50), OK),
    "WebP of 180 thousand frames": Hostile(lambda: webp_of_frames(180_000), OK),
    "WebP of a million chunks": Hostile(
        lambda: riff(
            webp_chunk(b"VP8X", bytes(4) + b"\x2f\0\0\x1f\0\0")
            + webp_chunk(b"JUNK", b"") * 1_000_000
            + encoded(noise(), "WEBP")[12:]
        ),
        (200, 422),
    ),
    # Lengths that lie
    "WebP whose file is longer than it is": Hostile(lambda: webp_with_length(4, 2**32 - 1), BROKEN),
    "WebP whose picture is longer than it is": Hostile(
        lambda: webp_with_length(16, 2**32 - 1), (415, 422)
    ),
    "WebP whose picture has no length": Hostile(lambda: webp_with_length(16, 0), (415, 422)),
    "PNG whose chunk is longer than the file": Hostile(
        lambda: png()[:33] + b"\xff\xff\xff\xffIDAT" + png()[41:], (200, 422)
    ),
    "JPEG whose segment is longer than the file": Hostile(
        lambda: after_start(encoded(noise())[:300], b"\xff\xe1\xff\xff"), BROKEN
    ),
    "JPEG whose segment has length 0": Hostile(
        lambda: after_start(encoded(noise()), b"\xff\xe1\0\0"), (200, 422)
    ),
    "PNG with a wrong checksum": Hostile(lambda: png()[:-14] + b"\0\0" + png()[-12:], (200, 422)),
    "PNG without pixels": Hostile(lambda: png()[:33] + chunk(b"IEND"), BROKEN),
    "PNG of colour type 7": Hostile(lambda: png(colour=2)[:25] + b"\7" + png()[26:], FOREIGN),
    # EXIF
    "EXIF that is noise": Hostile(
        lambda: after_start(encoded(noise()), segment(0xE1, b"Exif\0\0" + b"\x9b" * 500)), OK
    ),
    "EXIF whose tags overlap": Hostile(
        lambda: after_start(encoded(noise()), segment(0xE1, b"Exif\0\0" + exif_bomb(65_000, 5000))),
        (200, 422),
    ),
    "EXIF of 9 MB whose tags overlap": Hostile(
        lambda: png(before=chunk(b"eXIf", exif_bomb(9_000_000, 60_000))), (200, 422)
    ),
    "EXIF that points at itself": Hostile(
        lambda: after_start(
            encoded(noise()),
            segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\1\0\x69\x87\4\0\1\0\0\0\x08\0\0\0\x08\0\0\0"),
        ),
        OK,
    ),
    "orientation 0": Hostile(lambda: turned(b"\0\0\0\0"), OK),
    "orientation 65535": Hostile(lambda: turned(b"\xff\xff\0\0"), OK),
    "orientation as text": Hostile(lambda: turned(b"6\0\0\0", kind=2), OK),
    "orientation as a fraction": Hostile(lambda: turned(b"\xff\xff\xff\xff", kind=5), OK),
}

LARGEST: dict[str, Callable[[], bytes]] = {
    "RGB": lambda: png(6300, 6300),
    "RGBA": lambda: png(6300, 6300, colour=6),
    "RGBA, interlaced": lambda: png(6300, 6300, colour=6, interlaced=True),
    "grey and alpha": lambda: png(6300, 6300, colour=4),
    "16 bits": lambda: png(6300, 6300, depth=16, colour=0),
    "16 bits, RGBA": lambda: png(6300, 6300, depth=16, colour=6),
    "one bit": lambda: png(6300, 6300, depth=1, colour=0),
    "16384 x 2400": lambda: png(16_384, 2400),
    "JPEG": lambda: encoded(Image.new("RGB", (6300, 6300))),
    "JPEG on its side": lambda: encoded(Image.new("RGB", (6300, 6300)), exif=_on_its_side()),
    "progressive JPEG": lambda: encoded(
        Image.new("RGB", (6300, 6300)), progressive=True, subsampling=0
    ),
    "progressive CMYK": lambda: encoded(Image.new("CMYK", (4400, 4400)), progressive=True),
    "50 scans": lambda: jpeg_of_scans(6300, 49),
    "WebP": lambda: encoded(Image.new("RGB", (4400, 4400)), "WEBP", method=0),
    "WebP, empty": lambda: encoded(Image.new("RGBA", (4400, 4400)), "WEBP", lossless=True),
}


def _on_its_side() -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    return exif
