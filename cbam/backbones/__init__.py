"""Backbones: network code, by name, with any attention."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from cbam.attention import ATTENTION, PLAIN
from cbam.backbones.mobilenet import mobilenet_x07, mobilenet_x10
from cbam.backbones.resnet import (
    PLACEMENTS,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnext50,
    resnext101,
    wide_resnet18_x2,
    wide_resnet18_x15,
)
from cbam.backbones.vgg import vgg16, vgg16_bn
from cbam.errors import BadOption, look_up

__all__ = ["BACKBONES", "Backbone", "blocks", "build"]


@dataclass(frozen=True)
class Backbone:
    """A network for images, for building it and for showing it."""

    make: Callable[..., nn.Module]  # called with attention=, num_classes= and its own options
    title: str
    paper: str
    placement: str = ""  # where it has its attention
    bottlenecks: bool = False  # made of these: `stride_in` makes a difference


HE_2016 = "https://arxiv.org/abs/1512.03385"
WIDE_2016 = "https://arxiv.org/abs/1605.07146"
RESNEXT_2016 = "https://arxiv.org/abs/1611.05431"
MOBILENET_2017 = "https://arxiv.org/abs/1704.04861"
VGG_2014 = "https://arxiv.org/abs/1409.1556"

BEFORE_ADD = PLACEMENTS["block"]
AFTER_RELU = "behind each convolution's ReLU"

BACKBONES: dict[str, Backbone] = {
    "resnet18": Backbone(resnet18, "ResNet-18", HE_2016, BEFORE_ADD),
    "resnet34": Backbone(resnet34, "ResNet-34", HE_2016, BEFORE_ADD),
    "resnet50": Backbone(resnet50, "ResNet-50", HE_2016, BEFORE_ADD, True),
    "resnet101": Backbone(resnet101, "ResNet-101", HE_2016, BEFORE_ADD, True),
    "wide_resnet18_x1.5": Backbone(wide_resnet18_x15, "WRN-18-x1.5", WIDE_2016, BEFORE_ADD),
    "wide_resnet18_x2.0": Backbone(wide_resnet18_x2, "WRN-18-x2.0", WIDE_2016, BEFORE_ADD),
    "resnext50_32x4d": Backbone(resnext50, "ResNeXt-50", RESNEXT_2016, BEFORE_ADD, True),
    "resnext101_32x4d": Backbone(resnext101, "ResNeXt-101", RESNEXT_2016, BEFORE_ADD, True),
    "mobilenet_x1.0": Backbone(mobilenet_x10, "MobileNet", MOBILENET_2017, AFTER_RELU),
    "mobilenet_x0.7": Backbone(mobilenet_x07, "MobileNet-x0.7", MOBILENET_2017, AFTER_RELU),
    "vgg16": Backbone(vgg16, "VGG-16", VGG_2014, AFTER_RELU),
    "vgg16_bn": Backbone(vgg16_bn, "VGG-16-BN", VGG_2014, AFTER_RELU),
}


def build(name: str, attention: str = PLAIN, num_classes: int = 1000, **options: Any) -> nn.Module:
    """A network with fresh weights: images (N, 3, H, W) -> logits (N, num_classes).

    `options` go to the backbone: `attention_options=` and `width=` to each; to ResNets also
    `stem=`, `stride_in=`, `placement=` and `replace_stride_with_dilation=`. Raises UnknownName for
    a backbone or attention that is in no table, BadOption for an impossible number of classes.
    """
    backbone = look_up("backbone", name, BACKBONES)
    look_up("attention", attention, ATTENTION)
    if not isinstance(num_classes, int) or isinstance(num_classes, bool) or num_classes < 1:
        raise BadOption.of("num_classes", num_classes, "a whole number from 1")
    return backbone.make(attention=attention, num_classes=num_classes, **options)


def blocks(network: nn.Module) -> list[str]:
    """Names of the network's blocks in order, such as `layer1.0`, as it says in `block_names`.

    They are what can be explained, and what a gate belongs to. Empty: it does not say.
    """
    return list(vars(network).get("block_names", ()))
