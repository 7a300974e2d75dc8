"""MobileNet (the first) with attention behind the stem and behind every half of a separable block.

Howard et al. 2017, https://arxiv.org/abs/1704.04861. Woo et al. do not say where MobileNet has its
attention; these 27 places are the ones with which their Table 5 agrees in every cell.
"""

from typing import Any

import torch
from torch import Tensor, nn

from cbam.attention import ATTENTION, PLAIN
from cbam.errors import UnknownName

# Output channels of the 13 separable blocks in units of the stem's, and the blocks that stride.
CHANNELS = (2, 4, 4, 8, 8, 16, 16, 16, 16, 16, 16, 32, 32)
STRIDED = (1, 3, 5, 11)


class Unit(nn.Module):
    """Convolution, norm, ReLU, attention: (N, inplanes, H, W) -> (N, planes, H/s, W/s)."""

    def __init__(self, conv: nn.Conv2d, attention: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.bn = nn.BatchNorm2d(conv.out_channels)
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        refined: Tensor = self.attention(torch.relu(self.bn(self.conv(x))))
        return refined


class MobileNet(nn.Module):
    """Images (N, 3, H, W) of any size -> logits (N, num_classes).

    `attention` is a name in ATTENTION, `attention_options` its own options; `width` the channels of
    the stem before `alpha` multiplies all channel counts (rounded down). `block_names` lists the 27
    units: the stem, and a depthwise and a pointwise one for each of the 13 blocks. Raises
    UnknownName for another attention.
    """

    def __init__(
        self,
        attention: str = PLAIN,
        num_classes: int = 1000,
        attention_options: dict[str, Any] | None = None,
        width: int = 32,
        alpha: float = 1.0,
    ) -> None:
        super().__init__()
        if attention not in ATTENTION:
            raise UnknownName.of("attention", attention, ATTENTION)
        options = attention_options or {}

        def unit(conv: nn.Conv2d) -> Unit:
            return Unit(conv, ATTENTION[attention].make(conv.out_channels, **options))

        planes = int(alpha * width)
        units = [unit(nn.Conv2d(3, planes, 3, stride=2, padding=1, bias=False))]
        for number, times in enumerate(CHANNELS):
            inplanes, planes = planes, int(alpha * width * times)
            stride = 2 if number in STRIDED else 1
            depthwise = nn.Conv2d(
                inplanes, inplanes, 3, stride, padding=1, groups=inplanes, bias=False
            )
            units += [unit(depthwise), unit(nn.Conv2d(inplanes, planes, 1, bias=False))]
        self.features = nn.Sequential(*units)
        self.block_names = [f"features.{index}" for index in range(len(units))]
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(planes, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(torch.flatten(self.avgpool(self.features(x)), 1))
        return logits


def mobilenet_x10(**options: Any) -> MobileNet:
    """MobileNet with alpha 1. Options as in MobileNet."""
    return MobileNet(**options)


def mobilenet_x07(**options: Any) -> MobileNet:
    """MobileNet with alpha 0.7, the paper's smaller one. Options as in MobileNet."""
    return MobileNet(**{"alpha": 0.7, **options})
