"""What an explanation is: plain values that travel from the engine to pictures, pages and JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cbam import render
from cbam.attention import Kind
from cbam.images.preprocess import Box

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Prediction:
    """A class or an everyday word, and how probable the model finds it.

    Probabilities are the softmax of the logits, divided by the card's temperature.
    """

    index: int  # of a word: its most probable class
    label: str
    probability: float
    indices: tuple[int, ...] = ()  # of a word: its classes, whose probabilities are summed


@dataclass(frozen=True, eq=False)
class HeatMap:
    """The heat map of one class: (h, w), raw, zero where nothing speaks for the class.

    For several layers, it has the size of the model's input and values in [0, 1].
    """

    index: int
    label: str
    map: Floats


@dataclass(frozen=True, eq=False)
class GateMap:
    """A gate's output for one photo, along its kind's axes only: (C,), (h, w), (C, h, w) ..."""

    kind: Kind
    values: Floats

    @classmethod
    def of(cls, kind: Kind, output: Floats) -> "GateMap":
        """From a gate's output for one image: (C, h, w), with size 1 along axes that it lacks."""
        along = tuple(slice(None) if axis in kind.axes else 0 for axis in "CHW")
        return cls(kind, output[along].copy())

    @property
    def vector(self) -> Floats | None:
        """One value per channel (C,), averaged over places; None if it has no channels.

        It can be drawn as bars.
        """
        return self._pooled(*"HW") if "C" in self.kind.axes else None

    @property
    def plane(self) -> Floats | None:
        """One value per place (h, w), averaged over channels; None if it has no places.

        It can be laid over the photo. A side along which the gate does not vary has size 1.
        """
        if self.kind.axes == "C":
            return None
        pooled = self._pooled("C")
        missing = tuple(at for at, axis in enumerate("HW") if axis not in self.kind.axes)
        return np.expand_dims(pooled, missing)

    @property
    def span(self) -> tuple[float, float]:
        """Between which values its bars are drawn: its kind's range; without one, what they are.

        The neutral value is always inside.
        """
        kind = self.kind
        shown = self.vector if self.vector is not None else self.values
        there = [float(shown.min()), float(shown.max())]
        there += [] if kind.neutral is None else [kind.neutral]
        low = min(there) if kind.lowest is None else kind.lowest
        high = max(there) if kind.highest is None else kind.highest
        return low, high

    @property
    def base(self) -> float:
        """Where its bars begin: at its lowest value, or without one at the neutral."""
        if self.kind.lowest is None and self.kind.neutral is not None:
            return self.kind.neutral
        return self.span[0]

    def _pooled(self, *axes: str) -> Floats:
        """The mean over those of these axes that it has."""
        gone = tuple(at for at, axis in enumerate(self.kind.axes) if axis in axes)
        return self.values.mean(axis=gone) if gone else self.values


@dataclass(frozen=True, eq=False)
class BlockAttention:
    """One block's gates by the name of their kind, in the order in which its module holds them."""

    block: str
    gates: Mapping[str, GateMap]

    @property
    def channel(self) -> Floats | None:
        """The channel gate's values (C,) in (0, 1), or None."""
        return self.gates["channel"].values if "channel" in self.gates else None

    @property
    def spatial(self) -> Floats | None:
        """The spatial gate's values (h, w) in (0, 1), or None."""
        return self.gates["spatial"].values if "spatial" in self.gates else None


@dataclass(frozen=True, eq=False)
class Explanation:
    """One model's answer about one photo.

    It equals itself alone, like all that holds arrays here: compare what you care about.
    """

    model: str
    photo: Image.Image  # upright RGB
    view: Box  # the part of the photo that the model saw
    predictions: tuple[Prediction, ...]  # the most probable first
    target: Prediction  # the class or word explained
    method: str
    layer: str  # several: "layer3.1,layer4.1"
    heatmaps: tuple[HeatMap, ...]  # the target's first, then those that came free
    attention: tuple[BlockAttention, ...]  # empty if the model has no gates
    timing_ms: dict[str, float]  # "trunk", "head"
    versus: tuple[Prediction, ...] = ()  # classes that the map contrasts the target with
    words: tuple[Prediction, ...] = ()  # the predictions in everyday words: "cat"
    classes: int = 0  # number of classes that the model knows
    none_of_these: bool = False  # the photo may show none of them
    # Gates that were changed, and how: "layer1.0.channel" -> "off". Then this is an intervention.
    changed: Mapping[str, str] = field(default_factory=dict)
    fuse: str = "mean"  # how the maps of several layers became one

    @property
    def heatmap(self) -> Floats:
        """The target's heat map: (h, w), raw."""
        return self.heatmaps[0].map

    def overlay(self, opacity: float = 0.7) -> Image.Image:
        """The photo with the heat map on the view; the same size as the photo."""
        return render.overlay(self.photo, self.heatmap, self.view, opacity)
