"""VGG-16 with attention behind each convolution's ReLU.

Simonyan and Zisserman 2014, https://arxiv.org/abs/1409.1556. Parameter names are torchvision's, so
that its state dicts load strictly into the plain networks.
"""

from typing import Any

import torch
from torch import Tensor, nn

from cbam.attention import ATTENTION, PLAIN
from cbam.errors import UnknownName

# Channels of each stage in units of the first one's, and its convolutions.
STAGES = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))


class Activation(nn.Module):
    """ReLU, then attention: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        refined: Tensor = self.attention(torch.relu(x))
        return refined


class VGG(nn.Module):
    """Images (N, 3, H, W) of any size -> logits (N, num_classes).

    `attention` is a name in ATTENTION, `attention_options` its own options; `width` the channels of
    the first stage, 64 of them with 4096 units in the classifier; `norm` puts a BatchNorm behind
    each convolution. `block_names` lists the 13 activations. Raises UnknownName for another
    attention.
    """

    def __init__(
        self,
        attention: str = PLAIN,
        num_classes: int = 1000,
        attention_options: dict[str, Any] | None = None,
        width: int = 64,
        norm: bool = False,
    ) -> None:
        super().__init__()
        if attention not in ATTENTION:
            raise UnknownName.of("attention", attention, ATTENTION)
        options = attention_options or {}
        layers: list[nn.Module] = []
        self.block_names: list[str] = []
        planes = 3
        for times, depth in STAGES:
            for _ in range(depth):
                layers.append(nn.Conv2d(planes, width * times, 3, padding=1))
                planes = width * times
                if norm:
                    layers.append(nn.BatchNorm2d(planes))
                self.block_names.append(f"features.{len(layers)}")
                layers.append(Activation(ATTENTION[attention].make(planes, **options)))
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        hidden = 64 * width
        self.classifier = nn.Sequential(
            nn.Linear(49 * planes, hidden),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(hidden, num_classes),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.classifier:
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return logits


def vgg16(**options: Any) -> VGG:
    """VGG-16 without norms, as SSD begins with. Options as in VGG."""
    return VGG(**options)


def vgg16_bn(**options: Any) -> VGG:
    """VGG-16 with a norm behind each convolution: it trains from scratch. Options as in VGG."""
    return VGG(**{"norm": True, **options})
