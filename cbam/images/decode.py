"""A file's bytes -> an upright RGB picture, with the limits checked before any pixel is decoded."""

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from PIL import ExifTags, Image, UnidentifiedImageError

from cbam.errors import BrokenImage, ImageTooLarge, NotAnImage
from cbam.images import heic
from cbam.images.bombs import check_structure
from cbam.images.formats import FORMATS, HEIC, Format, format_of
from cbam.images.modes import as_rgb
from cbam.images.png import without_damage
from cbam.images.strangers import AS_JPEG, jpeg_trouble, unread

MAX_PIXELS = 40_000_000
MAX_SIDE_PX = 16_384
CMYK_DIVISOR = 2  # like Format.divisor, for CMYK in any format
ALPHA_DIVISOR = 2  # likewise, for HEIC with transparency, which may have 16 bits a channel
TILES = 2  # as many times the allowed pixels may be decoded for one picture: tiles stick out

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
    """A photo file's bytes -> an upright RGB image in sRGB, without metadata.

    The header is checked before anything is decoded. Only the first frame is read, of HEIC the
    primary picture; colours are converted as the file's profile says; transparency is laid on
    white; the orientation is applied and all other metadata is dropped. There is no smallest size:
    a photo of one pixel is a photo.
    A pixel takes 4 bytes in the end and up to 10 while decoding. Decoders of WebP, CMYK and HEIC
    take up to 20, so such photos may have fewer pixels.
    Raises NotAnImage (none of FORMATS), ImageTooLarge, BrokenImage (truncated, malformed).
    """
    check_structure(data)
    try:
        return _decoded(data, max_pixels, max_side_px)
    except (NotAnImage, BrokenImage):
        for less in without_damage(data):
            with suppress(NotAnImage, BrokenImage):  # the first error says what is wrong
                return _decoded(less, max_pixels, max_side_px)
        raise


def _decoded(data: bytes, max_pixels: int, max_side_px: int) -> Image.Image:
    kind = format_of(data)
    needed = heic.announced(data) if kind is HEIC else 0
    with _opened(data, kind, max_pixels) as image:
        _check_size(image, kind, needed, max_pixels, max_side_px)
        announced = image.size
        try:
            image.load()
            if image.size != announced:
                raise ValueError(f"its header says {announced}, its pixels {image.size}")
            return upright(image)
        except Exception as error:  # struct.error, OSError, ValueError, SyntaxError ...
            raise BrokenImage(
                ((kind is None or kind.title == "JPEG") and jpeg_trouble(data))
                or f"The image is truncated or malformed ({error}). Save it again and send that."
            ) from error


def _opened(data: bytes, kind: Format | None, max_pixels: int) -> Image.Image:
    """The image with its header read. Raises BadImage."""
    try:
        if kind is HEIC:
            return heic.opened(data)
        with quiet():
            names = [name for name in FORMATS if name != "HEIF"]
            return Image.open(io.BytesIO(data), formats=names)
    except UnidentifiedImageError as error:
        raise NotAnImage(_not_ours(data)) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge(
            f"The image is far over {max_pixels / 1e6:g} megapixels. Send a smaller one."
        ) from error
    except Exception as error:  # the parsers raise many kinds on a malformed header
        raise BrokenImage(f"The image's header cannot be read: {error}.") from error


def _not_ours(data: bytes) -> str:
    """What to say of a file in no format that is read here."""
    if HEIC.announced_by(data):
        return f"The file is HEIC, which needs the package pi-heif. {AS_JPEG}"
    return unread(data)


def _check_size(
    image: Image.Image, kind: Format | None, needed: int, max_pixels: int, max_side_px: int
) -> None:
    """Raises ImageTooLarge, and BrokenImage for a picture without a size."""
    width, height = image.size
    kind = kind or FORMATS["JPEG"]
    name, divisor = kind.title, kind.divisor
    if image.mode == "CMYK":
        name, divisor = "CMYK", CMYK_DIVISOR
    elif kind is HEIC and image.has_transparency_data:
        name, divisor = "HEIC with transparency", ALPHA_DIVISOR
    pixels = int(max_pixels / divisor)
    if not width * height:
        raise BrokenImage("The image does not say how large it is. Save it again and send that.")
    if width * height > pixels or max(width, height) > max_side_px:
        raise ImageTooLarge(
            f"The {name} has {width} x {height} pixels; at most "
            f"{pixels / 1e6:g} megapixels and {max_side_px} pixels a side are allowed. "
            "Send a smaller one."
        )
    if needed > TILES * pixels:
        raise ImageTooLarge(
            f"The {name} of {width} x {height} pixels is made from {needed / 1e6:.0f} megapixels; "
            f"at most {TILES * pixels / 1e6:g} are allowed. Save it again and send that."
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings of Pillow's parsers, but make an absurd size an error.

    A file can cause 65,000 warnings, one for each damaged tag, which would fill a server's log.
    """
    with _QUIET, warnings.catch_warnings():  # catch_warnings is not thread-safe
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def upright(image: Image.Image) -> Image.Image:
    """A loaded image of any mode -> RGB, turned as its EXIF orientation says, without metadata.

    The result may share the image's pixels. Raises NotAnImage for numbers that are no picture.
    """
    turn = TURNS.get(_orientation(image))
    rgb = as_rgb(image)
    rgb.info.clear()
    return rgb if turn is None else rgb.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) if the EXIF data cannot be read."""
    try:
        with quiet():
            value = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # struct.error, SyntaxError, ...: the pixels may still be good
        return 1
    return value if isinstance(value, int) else 1
