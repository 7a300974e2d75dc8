"""What an explanation is: plain values that travel from the engine to pictures, pages and JSON."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cbam import render
from cbam.images.preprocess import Box

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Prediction:
    """One class and how probable the model finds it (softmax)."""

    index: int
    label: str
    probability: float


@dataclass(frozen=True)
class HeatMap:
    """The heat map of one class: (h, w), raw, zero where nothing speaks for the class.

    Of several layers it has the size of the model's input and values in [0, 1].
    """

    index: int
    label: str
    map: Floats


@dataclass(frozen=True)
class BlockAttention:
    """The gates of one block: channel (C,) and spatial (h, w), each in (0, 1), or None."""

    block: str
    channel: Floats | None
    spatial: Floats | None


@dataclass(frozen=True)
class Explanation:
    """One model's answer on one photo."""

    model: str
    photo: Image.Image  # upright RGB
    view: Box  # the part of the photo that the model saw
    predictions: tuple[Prediction, ...]  # the most probable first
    target: Prediction  # the class explained
    method: str
    layer: str  # several: "layer3.1,layer4.1"
    heatmaps: tuple[HeatMap, ...]  # the target's first, then those that came free
    attention: tuple[BlockAttention, ...]  # empty if the model has no gates
    timing_ms: dict[str, float]  # "trunk", "head"
    versus: tuple[Prediction, ...] = ()  # classes that the map contrasts the target with

    @property
    def heatmap(self) -> Floats:
        """The target's heat map: (h, w), raw."""
        return self.heatmaps[0].map

    def overlay(self, opacity: float = 0.7) -> Image.Image:
        """The photo with the heat map on the view; the same size as the photo."""
        return render.overlay(self.photo, self.heatmap, self.view, opacity)
