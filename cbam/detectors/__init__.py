"""Detectors: network code on our backbones, by name."""

from collections.abc import Callable
from dataclasses import dataclass

from cbam.detectors.fcos import BODY, FCOS

__all__ = ["BODY", "DETECTORS", "FCOS", "DetectorKind"]


@dataclass(frozen=True)
class DetectorKind:
    """A kind of detector, for building it and for showing it."""

    make: Callable[..., FCOS]  # called with a backbone, num_classes and its own options
    title: str
    phrase: str  # for the page: what it does, in a sentence
    paper: str


DETECTORS: dict[str, DetectorKind] = {
    "fcos": DetectorKind(
        FCOS,
        "FCOS",
        "One stage: every place of two maps says what is there and how far its sides are.",
        "https://arxiv.org/abs/1904.01355",
    ),
}
