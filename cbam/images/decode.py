"""From uploaded bytes to what a network sees: checked, upright RGB, then a tensor and its view."""

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from cbam.errors import BrokenImage, ImageTooLarge, NotAnImage
from cbam.images.bombs import check_structure
from cbam.images.formats import FORMATS
from cbam.images.strangers import jpeg_trouble, unread

MAX_PIXELS = 40_000_000
MAX_SIDE_PX = 16_384
CMYK_DIVISOR = 2  # like Format.divisor, for CMYK in any format
STRIP_PIXELS = 1_000_000  # converted at a time

# What turns a photo with this EXIF orientation upright.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_QUIET = threading.Lock()


def decode(
    data: bytes, *, max_pixels: int = MAX_PIXELS, max_side_px: int = MAX_SIDE_PX
) -> Image.Image:
    """An upload's bytes -> an upright RGB image without metadata.

    The header is checked before anything is decoded. Only the first frame is read; transparency is
    laid on white; the EXIF orientation is applied and all other metadata is dropped. There is no
    smallest size: a photo of one pixel is a photo.
    A pixel takes 4 bytes in the end and up to 10 while decoding. WebP and CMYK take up to 16, so
    they may have only half as many pixels.
    Raises NotAnImage (none of FORMATS), ImageTooLarge, BrokenImage (truncated, malformed).
    """
    check_structure(data)
    try:
        with _quiet():
            image = Image.open(io.BytesIO(data), formats=tuple(FORMATS))
    except UnidentifiedImageError as error:
        raise NotAnImage(unread(data)) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge(
            f"The image is far over {max_pixels / 1e6:g} megapixels. Send a smaller one."
        ) from error
    except Exception as error:  # Pillow's parsers raise many kinds on a malformed header
        raise BrokenImage(f"The image's header cannot be read: {error}.") from error
    with image:
        width, height = image.size
        kind = FORMATS.get(image.format or "", FORMATS["JPEG"])  # "MPO": a JPEG of many pictures
        cmyk = image.mode == "CMYK"
        name, divisor = ("CMYK", CMYK_DIVISOR) if cmyk else (kind.title, kind.divisor)
        pixels = max_pixels // divisor
        if width * height > pixels or max(width, height) > max_side_px:
            raise ImageTooLarge(
                f"The {name} has {width} x {height} pixels; at most "
                f"{pixels / 1e6:g} megapixels and {max_side_px} pixels a side are allowed. "
                "Send a smaller one."
            )
        try:
            image.load()
            return _upright(image)
        except Exception as error:  # likewise: struct.error, OSError, ValueError, SyntaxError ...
            raise BrokenImage(
                (kind.title == "JPEG" and jpeg_trouble(data))
                or f"The image is truncated or malformed ({error}). Save it again and send that."
            ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warnings of Pillow's parsers, but make an absurd size an error.

    A file can cause 65,000 warnings, one for each damaged tag, which would fill a server's log.
    """
    with _QUIET, warnings.catch_warnings():  # catch_warnings is not thread-safe
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def upright_rgb(image: Image.Image) -> Image.Image:
    """Any mode Pillow reads -> a new RGB image, turned as its EXIF orientation says."""
    image.load()
    upright = _upright(image)
    return upright.copy() if upright.im is image.im else upright


def _upright(image: Image.Image) -> Image.Image:
    """`upright_rgb` of a loaded image that the caller gives up: the result may share its pixels."""
    turn = TURNS.get(_orientation(image))
    rgb = _rgb(image)
    rgb.info.clear()
    return rgb if turn is None else rgb.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) if the EXIF data cannot be read."""
    try:
        with _quiet():
            value = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # struct.error, SyntaxError, ...: the pixels may still be good
        return 1
    return value if isinstance(value, int) else 1


def _rgb(image: Image.Image) -> Image.Image:
    """A loaded image as RGB, sharing its pixels if they are RGB already."""
    transparent = image.has_transparency_data
    if image.mode == "RGB" and not transparent:
        return image._new(image.im)  # convert() copies: 160 MB at 40 megapixels
    rgb = Image.new("RGB", image.size)
    rows = max(1, STRIP_PIXELS // image.width)
    for y in range(0, image.height, rows):  # in strips: no second copy of the whole
        strip = image.crop((0, y, image.width, min(y + rows, image.height)))
        rgb.paste(_strip_as_rgb(strip, transparent), (0, y))
    return rgb


def _strip_as_rgb(strip: Image.Image, transparent: bool) -> Image.Image:
    """A few rows of any mode as RGB, on white where they are `transparent`."""
    if strip.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion would clip at 255
        grey = np.asarray(strip, dtype=np.float32)
        strip = Image.fromarray((grey / 257).clip(0, 255).astype(np.uint8))
    if transparent:
        strip = strip.convert("RGBA")
        strip = Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip)
    return strip.convert("RGB")
