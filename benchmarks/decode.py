"""What decoding a photo costs beside Pillow alone: `python -m benchmarks.decode`.

Each kind of file is decoded in turn by `decode` and by Pillow's `load`, many times, so that other
work on the machine disturbs both alike. Printed are the median of the pairs' ratios and both
medians in milliseconds.
"""

import argparse
import io
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from cbam.images import colour
from cbam.images.decode import decode


def photo(width: int, height: int) -> Image.Image:
    """Smooth shapes with some noise, as photos have."""
    random = np.random.default_rng(0)
    blobs = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    smooth = np.asarray(blobs.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    noise = random.normal(0, 6, (height, width, 1)).astype(np.int16)
    return Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, **options: Any) -> bytes:
    """The image as a JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88, **options)
    return buffer.getvalue()


def by_pillow(data: bytes) -> None:
    """Only the pixels."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()


def seconds(call: Callable[[bytes], object], data: bytes) -> float:
    """How long one call takes."""
    started = time.perf_counter()
    call(data)
    return time.perf_counter() - started


def main() -> None:
    """Print a line for each kind of file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=25)
    parser.add_argument("--size", type=int, nargs=2, default=(2000, 1500))
    options = parser.parse_args()
    image = photo(*options.size)
    white, *primaries = colour.PRIMARIES[12]
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = {
        "JPEG": encoded(image),
        "JPEG, turned": encoded(image, exif=exif),
        "JPEG with an sRGB profile": encoded(image, icc_profile=srgb),
        "JPEG in Display P3": encoded(image, icc_profile=colour.profile_of(white, primaries, None)),
    }
    megapixels = options.size[0] * options.size[1] / 1e6
    for name, data in kinds.items():
        seconds(decode, data)  # what is made once, such as a profile's conversion
        pairs = [(seconds(decode, data), seconds(by_pillow, data)) for _ in range(options.pairs)]
        ratio = statistics.median(ours / theirs for ours, theirs in pairs)
        ours, theirs = (statistics.median(side) * 1000 for side in zip(*pairs, strict=True))
        print(  # noqa: T201
            f"{name}: {ratio:.2f} x Pillow ({ours:.1f} / {theirs:.1f} ms; "
            f"{(ours - theirs) / megapixels:.1f} ms more a megapixel)"
        )


if __name__ == "__main__":
    main()
