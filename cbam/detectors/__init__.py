"""Detectors: network code on our backbones, by name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cbam.detectors.faster_rcnn import faster_rcnn as make_faster_rcnn
from cbam.detectors.fcos import BODY, FCOS

__all__ = ["BODY", "DETECTORS", "EXPLAINED", "FCOS", "DetectorKind"]


@dataclass(frozen=True)
class DetectorKind:
    """A kind of detector, for building it and for showing it."""

    make: Callable[..., Any]  # called with a backbone, num_classes and its own options
    title: str
    phrase: str  # for the page: what it does, in a sentence
    paper: str
    explained: bool = True  # recipes train it, cards name it, its boxes can be explained


DETECTORS: dict[str, DetectorKind] = {
    "fcos": DetectorKind(
        FCOS,
        "FCOS",
        "One stage: every place of two maps says what is there and how far its sides are.",
        "https://arxiv.org/abs/1904.01355",
    ),
    "faster_rcnn": DetectorKind(
        make_faster_rcnn,
        "Faster R-CNN",
        "Two stages: the first proposes regions, the second says what is in each.",
        "https://arxiv.org/abs/1506.01497",
        explained=False,
    ),
}

EXPLAINED = tuple(name for name, kind in DETECTORS.items() if kind.explained)
