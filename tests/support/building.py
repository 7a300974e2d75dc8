"""Networks without weights, and networks as if they were trained."""

from typing import TypeVar

import torch
from torch import nn

import cbam
from cbam.attention.gc import Added

M = TypeVar("M", bound=nn.Module)


def without_weights(name: str, attention: str = "none", **options: object) -> nn.Module:
    """A network in full size whose tensors have shapes only: quick."""
    with torch.device("meta"):
        return cbam.build(name, attention=attention, **options).eval()


def lively(module: M) -> M:
    """In eval mode, and what starts at a plain value off it.

    Else fresh spatial gates are 0.5 everywhere, and GC adds nothing.
    """
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.bias, -0.3, 0.3)
            nn.init.uniform_(part.running_mean, -0.3, 0.3)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
        if isinstance(part, Added):
            nn.init.normal_(part.mlp[-1].weight)
    return module.eval()
