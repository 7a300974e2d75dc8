"""Any mode of Pillow's -> RGB, in sRGB: a picture that looks as its maker meant it.

Transparency is laid on white.
"""

from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

from cbam.images import colour
from cbam.images.arrays import WORD, to_levels, white_of

STRIP_PIXELS = 1_000_000  # converted at a time


def as_rgb(image: Image.Image) -> Image.Image:
    """A loaded image as RGB, sharing its pixels if they are RGB in sRGB already.

    Grey of more than 8 bits goes to 65,535 in a file; of an image without a file, `white_of` says
    how far. Raises NotAnImage for grey numbers that are no picture.
    """
    transparent = image.has_transparency_data
    convert = colour.conversion(image)
    if image.mode == "RGB" and not transparent and not convert:
        return image._new(image.im)  # convert() copies: 160 MB at 40 megapixels
    white = _white(image)
    rgb = Image.new("RGB", image.size)
    rows = max(1, STRIP_PIXELS // image.width)
    for y in range(0, image.height, rows):  # in strips: no second copy of the whole
        strip = image.crop((0, y, image.width, min(y + rows, image.height)))
        rgb.paste(_strip_as_rgb(strip, transparent, convert, white), (0, y))
    return rgb


def _white(image: Image.Image) -> float:
    """What white is in an image of one wide channel; 0 for all others."""
    if image.mode[0] not in "IF":
        return 0.0
    if image.mode.startswith("I;16") and image.format:
        return WORD
    return white_of(np.asarray(image))


def _strip_as_rgb(
    strip: Image.Image, transparent: bool, convert: colour.Conversion | None, white: float
) -> Image.Image:
    """A few rows of any mode as RGB, on white where they are `transparent`."""
    alpha = None
    space = colour.space(strip.mode)
    if white:
        values, clear = np.asarray(strip), strip.info.get("transparency")
        if transparent and isinstance(clear, int):
            alpha = Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8))
        strip = Image.fromarray(to_levels(values, white))
    elif transparent:
        strip = strip.convert("LA" if strip.mode == "La" else "RGBA").convert("RGBA")
        alpha = strip.getchannel("A")
    if convert is not None:
        strip = convert(strip if strip.mode == space else strip.convert(space))
    elif strip.mode == "LAB":
        strip = _lab().apply(strip)
    strip = strip.convert("RGB")
    if alpha is not None:
        strip = Image.composite(strip, Image.new("RGB", strip.size, "white"), alpha)
    return strip


@lru_cache(1)
def _lab() -> ImageCms.ImageCmsTransform:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(lab, srgb, "LAB", "RGB", colour.INTENT)
