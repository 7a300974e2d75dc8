"""Backbones: network code, by name, with any attention."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from cbam.attention import PLAIN
from cbam.backbones.resnet import resnet18, resnet34, resnet50, resnet101
from cbam.errors import UnknownName

__all__ = ["BACKBONES", "Backbone", "blocks", "build"]


@dataclass(frozen=True)
class Backbone:
    """A network for images, for building it and for showing it."""

    make: Callable[..., nn.Module]  # called with attention=, num_classes= and its own options
    title: str
    paper: str


HE_2016 = "https://arxiv.org/abs/1512.03385"

BACKBONES: dict[str, Backbone] = {
    "resnet18": Backbone(resnet18, "ResNet-18", HE_2016),
    "resnet34": Backbone(resnet34, "ResNet-34", HE_2016),
    "resnet50": Backbone(resnet50, "ResNet-50", HE_2016),
    "resnet101": Backbone(resnet101, "ResNet-101", HE_2016),
}


def build(name: str, attention: str = PLAIN, num_classes: int = 1000, **options: Any) -> nn.Module:
    """A network with fresh weights: images (N, 3, H, W) -> logits (N, num_classes).

    `options` go to the backbone (`attention_options=`, `width=`, `stem=`, `stride_in=`,
    `replace_stride_with_dilation=`). Raises UnknownName for a backbone or attention that is in no
    table.
    """
    if name not in BACKBONES:
        raise UnknownName.of("backbone", name, BACKBONES)
    return BACKBONES[name].make(attention=attention, num_classes=num_classes, **options)


def blocks(network: nn.Module) -> list[str]:
    """Names of the network's blocks in order, such as `layer1.0`, as it says in `block_names`.

    They are what can be explained, and what a gate belongs to. Empty: it does not say.
    """
    return list(vars(network).get("block_names", ()))
