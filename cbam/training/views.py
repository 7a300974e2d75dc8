"""Random views of a batch of photos, drawn and cut on the device that trains."""

import math

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample

ASPECT = math.log(4 / 3)  # of a crop: from 3:4 to 4:3
GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow and torchvision


def random_views(
    photos: Tensor,
    size_px: int,
    crop_scale_min: float,
    jitter: float,
    draw: torch.Generator,
    aspects: Tensor | None = None,
) -> Tensor:
    """A random crop of each photo, resized and half of them mirrored, its colours jittered.

    uint8 (B, 3, H, W) -> uint8 (B, 3, size_px, size_px). A crop has `crop_scale_min` to all of the
    photo's area: Szegedy et al. 2014, https://arxiv.org/abs/1409.4842, as torchvision's
    RandomResizedCrop, but bilinear, and averaged over 2 x 2 points where a view has half the
    photo's size or less: for sizes near the photos' own. `aspects` (B,), width / height, are those
    that the photos had before they were squeezed; by default, those that they have.
    """
    count, _, height, width = photos.shape
    shape = width / height if aspects is None else aspects
    points = 2 if 2 * size_px <= max(height, width) else 1

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, device=photos.device, generator=draw)

    area, aspect = uniform(crop_scale_min, 1), torch.exp(uniform(-ASPECT, ASPECT))
    # Shares of the photo's width and height; a crop that would not fit is cut to the photo.
    wide = (area * aspect / shape).sqrt().clamp(max=1)
    high = (area / aspect * shape).sqrt().clamp(max=1)
    mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    theta = torch.zeros(count, 2, 3, device=photos.device)
    theta[:, 0, 0], theta[:, 0, 2] = wide * mirror, (1 - wide) * uniform(-1, 1)
    theta[:, 1, 1], theta[:, 1, 2] = high, (1 - high) * uniform(-1, 1)
    grid = affine_grid(theta, [count, 3, points * size_px, points * size_px], align_corners=False)
    views = grid_sample(photos.float(), grid, padding_mode="border", align_corners=False)
    views = avg_pool2d(views, points)
    if jitter:
        factors = torch.stack([uniform(1 - jitter, 1 + jitter) for _ in range(3)])
        views = jittered(views, *factors.view(3, count, 1, 1, 1))
    return views.round().clamp(0, 255).to(torch.uint8)


def jittered(views: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """float (B, 3, s, s) in 0..255, with factors (B, 1, 1, 1) each; 1 leaves a photo as it is."""
    views = (views * brightness).clamp(0, 255)
    views = _blend(views, _grey(views).mean(dim=(2, 3), keepdim=True), contrast)
    return _blend(views, _grey(views), saturation)


def _grey(views: Tensor) -> Tensor:
    """(B, 3, s, s) -> (B, 1, s, s)"""
    return torch.einsum("c,bchw->bhw", views.new_tensor(GREY), views).unsqueeze(1)


def _blend(views: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return (factor * views + (1 - factor) * other).clamp(0, 255)
