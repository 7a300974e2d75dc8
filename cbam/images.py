"""From uploaded bytes to what a network sees: checked, upright RGB, then a tensor and its view."""

import io
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from cbam.errors import BrokenImage, ImageTooLarge, NotAnImage

FORMATS = ("JPEG", "PNG", "WEBP")  # by content; a name or a Content-Type says nothing

MAX_PIXELS = 40_000_000
MAX_SIDE_PX = 16_384


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels of the upright photo: x0 <= x < x1, y0 <= y < y1."""

    x0: int
    y0: int
    x1: int
    y1: int

    def scaled(self, scale: float, width: int, height: int) -> "Box":
        """The same part of the photo drawn `scale` times as large, inside width x height."""
        x0, y0 = round(self.x0 * scale), round(self.y0 * scale)
        x1, y1 = min(width, round(self.x1 * scale)), min(height, round(self.y1 * scale))
        return Box(x0, y0, max(x1, x0 + 1), max(y1, y0 + 1))


def decode(
    data: bytes, *, max_pixels: int = MAX_PIXELS, max_side_px: int = MAX_SIDE_PX
) -> Image.Image:
    """An upload's bytes -> an upright RGB image without metadata.

    The header is checked before anything is decoded. Only the first frame counts; transparency is
    laid on white; the EXIF orientation is applied, everything else that the file says is dropped.
    Raises NotAnImage (no JPEG, PNG or WebP), ImageTooLarge, BrokenImage (truncated, malformed).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our limit is below
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise NotAnImage(
            f"The {len(data):,} bytes are no JPEG, PNG or WebP image. Send one of these."
        ) from error
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(f"The image is far over {max_pixels / 1e6:g} megapixels.") from error
    except Exception as error:  # Pillow's parsers raise many kinds on a malformed header
        raise BrokenImage(f"The image's header cannot be read: {error}.") from error
    with image:
        width, height = image.size
        if width * height > max_pixels or max(width, height) > max_side_px:
            raise ImageTooLarge(
                f"The image has {width} x {height} pixels; at most {max_pixels / 1e6:g} megapixels "
                f"and {max_side_px} pixels a side are allowed. Send a smaller one."
            )
        try:
            image.load()
            return upright_rgb(image)
        except Exception as error:  # likewise: struct.error, OSError, ValueError, SyntaxError ...
            raise BrokenImage(
                f"The image is truncated or malformed ({error}). Save it anew and send that."
            ) from error


def upright_rgb(image: Image.Image) -> Image.Image:
    """Any mode Pillow reads -> RGB, turned as its EXIF orientation says."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion would clip at 255
        grey = np.asarray(image, dtype=np.float32)
        image = Image.fromarray((grey / 257).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    rgb = image.convert("RGB")
    rgb.info.clear()
    return rgb


@dataclass(frozen=True)
class Preprocess:
    """What a model expects: size, fit and normalisation, as its card says.

    `fit` "stretch" squeezes the whole frame into the square, as Imagenette's photos were made;
    "crop" is ImageNet's usual way: shorter side to `size_px * resize_ratio`, then the centre.
    """

    size_px: int
    fit: Literal["stretch", "crop"] = "crop"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    resize_ratio: float = 1.0

    def view(self, width: int, height: int) -> Box:
        """The part of a photo of this size that the model sees, in the photo's pixels."""
        if self.fit == "stretch":
            return Box(0, 0, width, height)
        side = max(1, round(min(width, height) / self.resize_ratio))
        x0, y0 = (width - side) // 2, (height - side) // 2
        return Box(x0, y0, x0 + side, y0 + side)

    def resized(self, image: Image.Image) -> Image.Image:
        """The view as the model sees it, before normalisation: size_px x size_px, RGB."""
        box = self.view(*image.size)
        return image.resize(
            (self.size_px, self.size_px),
            Image.Resampling.BILINEAR,  # Pillow's is antialiased
            (box.x0, box.y0, box.x1, box.y1),
        )

    def __call__(self, image: Image.Image) -> Tensor:
        """Upright RGB -> float32 (3, size_px, size_px), normalised."""
        pixels = np.asarray(self.resized(image), dtype=np.float32) / 255  # (S, S, 3)
        mean = np.asarray(self.mean, dtype=np.float32)
        std = np.asarray(self.std, dtype=np.float32)
        return torch.from_numpy((pixels - mean) / std).permute(2, 0, 1)
