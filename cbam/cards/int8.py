"""Weights at rest: int8 per output channel, symmetric around zero, with float32 scales."""

import torch
from torch import Tensor

STORAGE = "int8 per output channel, float32 scales"  # as cards say it
QUANTISE_FROM = 16_384  # elements; smaller tensors stay float32: they weigh next to nothing
SCALE = ".int8_scale"


def quantise(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """float32 state dict -> the one that is stored.

    Kernels and matrices become int8 per output channel, symmetric around zero, each with a float32
    vector of scales beside it; small tensors stay as they are.
    """
    stored: dict[str, Tensor] = {}
    for name, value in weights.items():
        if value.ndim < 2 or value.numel() < QUANTISE_FROM:
            stored[name] = value.detach().clone().contiguous()
            continue
        rows = value.detach().float().flatten(1)  # (output channels, rest)
        scale = rows.abs().amax(dim=1).clamp(min=1e-12) / 127
        levels = (rows / scale[:, None]).round().clamp(-127, 127)
        stored[name] = levels.to(torch.int8).view(value.shape).contiguous()
        stored[name + SCALE] = scale
    return stored


def widen(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """The stored state dict -> float32, as the network takes it."""
    weights: dict[str, Tensor] = {}
    for name, value in stored.items():
        if name.endswith(SCALE):
            continue
        scale = stored.get(name + SCALE)
        if scale is not None:
            value = (value.float().flatten(1) * scale[:, None]).view(value.shape)
        weights[name] = value
    return weights
