"""From an upright photo to what a network sees: a tensor, and which part of the photo it shows."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor


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
