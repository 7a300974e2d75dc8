"""What a detector sees of a photo: the whole of it, shrunk or enlarged."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

STRIDE_PX = 32  # of a backbone's last stage


@dataclass(frozen=True)
class Frame:
    """What a detector expects: the longer side in pixels, a multiple of 32, and normalisation.

    Both sides become the nearest multiples of 32, so that every cell of every map shows a part of
    the photo and none shows padding. This bends the photo's shape by some percent, as the random
    crops do with which classifiers are trained. `square`: each side becomes `size_px`, any number
    of pixels, whatever the photo's shape, as SSD does.
    """

    size_px: int
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    square: bool = False

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the network's input for a photo of this size."""
        if self.square:
            return self.size_px, self.size_px
        scale = self.size_px / max(width, height) / STRIDE_PX
        return _stepped(width * scale), _stepped(height * scale)

    def scales(self, width: int, height: int) -> tuple[float, float, float, float]:
        """What takes a box x0, y0, x1, y1 in the photo's pixels to the network's input."""
        seen = self.size(width, height)
        return (seen[0] / width, seen[1] / height) * 2

    def __call__(self, image: Image.Image) -> Tensor:
        """Upright RGB -> float32 (3, H, W), normalised."""
        resized = image.resize(self.size(*image.size), Image.Resampling.BILINEAR)  # antialiased
        pixels = np.asarray(resized, dtype=np.float32) / 255
        mean = np.asarray(self.mean, dtype=np.float32)
        std = np.asarray(self.std, dtype=np.float32)
        return torch.from_numpy((pixels - mean) / std).permute(2, 0, 1)


def _stepped(cells: float) -> int:
    """The nearest whole number of cells, at least one, in pixels."""
    return max(1, round(cells)) * STRIDE_PX
