"""Detectors: network code on our backbones, by name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from cbam.detectors.faster_rcnn import FasterRCNN
from cbam.detectors.fcos import FCOS
from cbam.detectors.found import BODY, OF, SIDES, Found
from cbam.detectors.ssd import SSD, stairnet

__all__ = [
    "BODY",
    "DETECTORS",
    "FCOS",
    "OF",
    "SIDES",
    "SSD",
    "DetectorKind",
    "DetectorNetwork",
    "FasterRCNN",
    "Found",
    "block_name",
]


class DetectorNetwork(Protocol):
    """What every detector's network can do, beside being an nn.Module.

    Called with images (N, 3, H, W) it returns one tensor (N, P, ...), which it alone understands.
    `cuttable`: the blocks behind which it can be cut in two.
    """

    cuttable: list[str]

    def found(
        self, output: Tensor, width: int, height: int, score: float, iou: float, limit: int
    ) -> Found:
        """The boxes in one image's output."""

    def numbers(self, output: Tensor, found: Found, of: str) -> Tensor:
        """What is explained of each box, differentiable in the output: (n,)."""

    def learn(
        self, images: list[Tensor], targets: list[dict[str, Tensor]], marked: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The losses, by name."""


@dataclass(frozen=True)
class DetectorKind:
    """A kind of detector, for building it and for showing it."""

    make: Callable[..., nn.Module]  # called with a backbone, num_classes and its own options
    title: str
    phrase: str  # for the page: what it does, in a sentence
    paper: str
    square: bool = False  # photos are bent to squares
    in_head: bool = False  # its attention stands before the classifiers, not in the backbone
    frozen: bool = False  # its head can be trained alone, on kept features


DETECTORS: dict[str, DetectorKind] = {
    "fcos": DetectorKind(
        FCOS,
        "FCOS",
        "One stage: every place of a few maps says what is there and how far its sides are.",
        "https://arxiv.org/abs/1904.01355",
        frozen=True,
    ),
    "ssd": DetectorKind(
        SSD,
        "SSD",
        "One stage: every place of six maps says what is in some boxes around it.",
        "https://arxiv.org/abs/1512.02325",
        square=True,
    ),
    "stairnet": DetectorKind(
        stairnet,
        "StairNet",
        "SSD whose fine maps learn from the coarse ones what they are looking at.",
        "https://arxiv.org/abs/1709.05788",
        square=True,
        in_head=True,
    ),
    "faster_rcnn": DetectorKind(
        FasterRCNN,
        "Faster R-CNN",
        "Two stages: the first proposes regions, the second says what is in each.",
        "https://arxiv.org/abs/1506.01497",
    ),
}


def block_name(path: str) -> str:
    """A detector's block as people name it: `layer3.1` for `backbone.body.layer3.1`."""
    return path.removeprefix("backbone.").removeprefix("body.")
