"""SimAM: a gate for every value, computed from the features alone; it has no parameters.

Yang, Zhang, Li, Xie, "SimAM: A Simple, Parameter-Free Attention Module for Convolutional Neural
Networks", ICML 2021, https://proceedings.mlr.press/v139/yang21o.html. The authors' code,
https://github.com/ZjjConan/SimAM, has no licence; this follows the paper.
"""

import math

import torch
from torch import Tensor, nn

from cbam.attention.gates import Gate, Kind

LOWEST = 1 / (
    1 + math.exp(-0.5)
)  # sigmoid(1/2): the gate of a value that equals its channel's mean


class EnergyGate(Gate):
    """How far each value stands out from its channel: (N, C, H, W) -> (N, C, H, W) in [0.62, 1].

    `sigmoid(d / (4 (v + lambda)) + 1/2)`, where d is the squared distance to the channel's mean and
    v its variance (divided by H W - 1). This is the paper's inverse energy, eq. 5 and 6. On a map
    of one place, where the variance is 0 / 0, every gate is the lowest.
    """

    kind = Kind(
        "volume",
        "CHW",
        "what and where",
        "has one value per channel and place: how far this value stands out from its channel. It "
        "never goes below 0.62, so it never closes.",
        lowest=LOWEST,
        neutral=None,
        text="energy",
    )

    def __init__(self, lam: float) -> None:
        super().__init__()
        self.lam = lam

    def forward(self, x: Tensor) -> Tensor:
        distance = (x - x.mean(dim=(2, 3), keepdim=True)).square()
        places = torch.ones_like(x[:1, :1]).sum(dim=(2, 3), keepdim=True)  # (1, 1, 1, 1): H W
        variance = distance.sum(dim=(2, 3), keepdim=True) / (places - 1).clamp(min=1)
        return torch.sigmoid(distance / (4 * (variance + self.lam)) + 0.5)


class SimAM(nn.Module):
    """Weaken what does not stand out: (N, C, H, W) -> (N, C, H, W).

    `lam` is the paper's lambda: 1e-4 is the authors' default, their ImageNet networks had 0.1.
    `channels` is not needed: there is nothing to learn.
    """

    def __init__(self, channels: int, lam: float = 1e-4) -> None:
        super().__init__()
        self.volume = EnergyGate(lam)

    def forward(self, x: Tensor) -> Tensor:
        weakened: Tensor = x * self.volume(x)
        return weakened
