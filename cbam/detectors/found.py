"""What a detector found, and what can be asked about it: the same for all kinds of detectors."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BODY = "backbone.body."  # how the names of a ResNet's modules begin in a detector
SIDES = ("left", "top", "right", "bottom")
OF = ("score", *SIDES)  # what can be explained: the class's logit, or how far a side is away


@dataclass(frozen=True, eq=False)
class Found:
    """What a detector found in one image, the surest first."""

    boxes: Tensor  # (n, 4): x0, y0, x1, y1 in pixels of the network's input
    scores: Tensor  # (n,) in [0, 1]
    labels: Tensor  # (n,): classes
    places: Tensor  # (n,): which of the network's places, or of its proposals, says so
    anchors: Tensor  # (n, 4): the box that this place starts from, in pixels
    chances: Tensor  # (n, classes): what the place says of every class, each in [0, 1]
    size: tuple[int, int]  # width and height of the network's input

    def some(self, which: Sequence[int] | Tensor) -> "Found":
        """Those boxes alone, in this order."""
        rows = (
            torch.as_tensor([*which], dtype=torch.int64) if not isinstance(which, Tensor) else which
        )
        return Found(
            self.boxes[rows],
            self.scores[rows],
            self.labels[rows],
            self.places[rows],
            self.anchors[rows],
            self.chances[rows],
            self.size,
        )


def reaches(boxes: Tensor, anchors: Tensor, of: str) -> Tensor:
    """How far one side of each box (n, 4) is from its anchor's centre: (n,), in pixels.

    Positive outwards, as FCOS counts: a larger number is a larger box, whichever side it is.
    """
    side = SIDES.index(of)
    centres = (anchors[:, side % 2] + anchors[:, side % 2 + 2]) / 2
    outwards = boxes[:, side] - centres
    return outwards if side > 1 else -outwards
