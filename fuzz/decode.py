"""Fuzz what becomes of an upload: bytes -> upright RGB -> a network's input, coverage-guided.

    pip install -e '.[fuzz]'
    python fuzz/decode.py -max_total_time=600 corpus/     # libFuzzer's options

Whatever the bytes, there is an image within the limits or a BadImage. Anything else ends the run
and leaves the input as crash-*. Atheris sees Python's branches (ours and Pillow's), not those of
the C decoders behind them; Pillow fuzzes these itself.
"""

import random
import sys
import warnings
import zlib

import atheris

with atheris.instrument_imports(include=["PIL", "cbam.images.decode", "cbam.images.bombs"]):
    from PIL import Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin  # noqa: F401

    from cbam.errors import BadImage
    from cbam.images.decode import decode
    from cbam.images.preprocess import Preprocess

MAX_PIXELS = 250_000
PREPROCESS = Preprocess(32, "crop")


def one_input(data: bytes) -> None:
    """Decode and preprocess; only a BadImage may be raised."""
    try:
        image = decode(data, max_pixels=MAX_PIXELS)
    except BadImage:
        return
    if image.mode != "RGB" or image.width * image.height > MAX_PIXELS or image.info:
        raise AssertionError(f"{image!r} with {image.info}")
    if PREPROCESS(image).shape != (3, 32, 32):
        raise AssertionError("not what a network takes")


def with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks' checksums are right: without, few mutations get past them."""
    fixed, at = bytearray(data), 8
    while at + 12 <= len(fixed):
        end = at + 8 + int.from_bytes(fixed[at : at + 4], "big")
        if end + 4 > len(fixed):
            break
        fixed[end : end + 4] = zlib.crc32(fixed[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(fixed)


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """libFuzzer's mutation; for a PNG, mostly with its checksums put right again."""
    changed = bytes(atheris.Mutate(data, max_size))
    if changed.startswith(b"\x89PNG") and random.Random(seed).random() < 0.8:
        changed = with_checksums(changed)
    return changed


if __name__ == "__main__":
    warnings.simplefilter("error")  # decode() lets none through
    atheris.Setup(sys.argv, one_input, custom_mutator=mutate)
    atheris.Fuzz()
