"""Backbones: network code, by name, with any attention."""

from collections.abc import Callable
from typing import Any

from torch import nn

from cbam.backbones.resnet import resnet18, resnet34, resnet50, resnet101
from cbam.errors import UnknownName

__all__ = ["BACKBONES", "blocks", "build"]

BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnet101": resnet101,
}


def build(name: str, attention: str = "none", num_classes: int = 1000, **options: Any) -> nn.Module:
    """A network with fresh weights: images (N, 3, H, W) -> logits (N, num_classes).

    `options` go to the backbone (`attention_options=`, `width=`, `stem=`, `stride_in=`).
    Raises UnknownName for a backbone or attention that is in no table.
    """
    if name not in BACKBONES:
        raise UnknownName.of("backbone", name, BACKBONES)
    return BACKBONES[name](attention=attention, num_classes=num_classes, **options)


def blocks(network: nn.Module) -> list[str]:
    """Names of the network's blocks in order: `layer1.0` ... `layer4.1`."""
    return [
        f"{stage}.{index}"
        for stage, modules in network.named_children()
        if stage.startswith("layer") and isinstance(modules, nn.Sequential)
        for index in range(len(modules))
    ]
