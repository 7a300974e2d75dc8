"""Where a detector's boxes come from: heat maps of single boxes, and of single sides of them.

As for classes, the network is cut in trunk and head, and only the head is differentiated: from the
number that a place put out for this one box to the activation at the cut. No hook is set.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cbam import render
from cbam.cards.detector import DetectorCard
from cbam.detectors import OF, DetectorNetwork, Found, block_name
from cbam.errors import OptionClash, UnknownName
from cbam.explain.explainer import gate_maps
from cbam.explain.explanation import BlockAttention, Floats
from cbam.explain.formulas import FUSIONS, from_zero, fused, gradcam
from cbam.images.preprocess import Box
from cbam.trace.cut import Cut
from cbam.undisturbed import undisturbed

BOXES_AT_ONCE = 8  # rows of one pass through the head
MOST_LAYERS = 4  # whose maps become one
OVERLAP = 0.5  # least IoU of two models' boxes around the same thing


@dataclass(frozen=True)
class BoxMethod:
    """A formula for a box's heat map, and how to present it."""

    title: str
    paper: str
    note: str  # one plain sentence: what the map means
    run: Callable[[Tensor, Tensor], Tensor]  # activation, gradient: (n, C, h, w) -> (n, h, w)


def hirescam(activation: Tensor, gradient: Tensor) -> Tensor:
    """Activation times gradient cell by cell, what speaks for the number alone: (N, h, w).

    HiRes-CAM, Draelos and Carin 2020, https://arxiv.org/abs/2011.08891. Of a box's score it is what
    the released code of ODAM computes: Zhao and Chan, ICLR 2023, https://arxiv.org/abs/2304.06354.
    """
    return (activation * gradient).sum(dim=1).relu()


def layercam(activation: Tensor, gradient: Tensor) -> Tensor:
    """Activation times positive gradients cell by cell: (N, h, w).

    Layer-CAM, Jiang et al. 2021, https://ieeexplore.ieee.org/document/9462463.
    """
    return (activation * gradient.relu()).sum(dim=1).relu()


BOX_METHODS: dict[str, BoxMethod] = {
    "hirescam": BoxMethod(
        "HiRes-CAM",
        "https://arxiv.org/abs/2304.06354",
        "Activation times gradient cell by cell: the cells that raised this box's score (ODAM).",
        hirescam,
    ),
    "layercam": BoxMethod(
        "Layer-CAM",
        "https://ieeexplore.ieee.org/document/9462463",
        "Only positive gradients count, cell by cell.",
        layercam,
    ),
    "gradcam": BoxMethod(
        "Grad-CAM",
        "https://arxiv.org/abs/1610.02391",
        "One weight for a channel everywhere: it also lights up other things of the same kind, so "
        "it does not tell one box from another.",
        gradcam,
    ),
}


@dataclass(frozen=True)
class DetectOptions:
    """What to find and to explain. The defaults are those of the API, the command and Python."""

    score: float = 0.3  # least score of a box
    iou: float = 0.5  # of two boxes of one class with more overlap, the surer one stays
    limit: int = 20  # most boxes of a model
    maps: int = 1  # heat maps: of so many boxes, the surest ones
    box: tuple[float, float, float, float] | None = None  # or of the box that overlaps most with it
    label: str | None = None  # of this class, where a `box` is given; None: of any
    of: str = "score"  # a name in OF
    method: str = "hirescam"  # a name in BOX_METHODS
    layer: str | None = None  # a block, or several, "layer2.1,layer3.1"; None: the last that can be
    attention: bool = True  # gate maps too


@dataclass(frozen=True)
class Detection:
    """One box: x0, y0, x1, y1 in pixels of the upright photo."""

    box: tuple[float, float, float, float]
    index: int
    label: str
    score: float  # in [0, 1]


@dataclass(frozen=True, eq=False)
class BoxMap:
    """One box's heat map over the whole photo, and how much of it lies in the box.

    Neither share means much alone. `energy_uniform` is the box's share of the photo: that of a map
    which is the same everywhere. `energy_of_box` is that of a map which fills exactly the box's
    cells: coarse cells cannot reach 1.
    """

    detection: int  # position in the list of boxes
    map: Floats  # (h, w), raw; zero where nothing speaks for it
    energy_in_box: float | None  # share of the map inside the box; None: the map is zero
    energy_uniform: float
    energy_of_box: float


@dataclass(frozen=True, eq=False)
class Detected:
    """One detector's answer about one photo."""

    model: str
    photo: Image.Image
    detections: tuple[Detection, ...]  # the surest first
    heatmaps: tuple[BoxMap, ...]
    of: str
    method: str
    layer: str
    attention: tuple[BlockAttention, ...]
    timing_ms: dict[str, float]  # "trunk", "head"

    def overlay(self, heatmap: BoxMap, opacity: float = 0.7) -> Image.Image:
        """The photo with one of the heat maps on it; the same size as the photo."""
        whole = Box(0, 0, *self.photo.size)
        return render.overlay(self.photo, heatmap.map, whole, opacity)


class Detecting(Protocol):
    """What finding needs of a detector."""

    @property
    def card(self) -> DetectorCard: ...

    @property
    def network(self) -> nn.Module: ...

    @property
    def asked(self) -> DetectorNetwork:
        """The same network, as what finds and explains with it knows it."""

    def cut(self, layer: str) -> Cut:
        """The network cut behind a block."""

    @property
    def layers(self) -> Sequence[str]: ...

    @property
    def default_layer(self) -> str: ...


def check_names(options: DetectOptions, methods: Iterable[str] = BOX_METHODS) -> None:
    """Raises UnknownName, OptionClash: what no detector can answer.

    `methods`: all that whoever asks may name.
    """
    if options.method not in BOX_METHODS:
        raise UnknownName.of("method for boxes", options.method, methods)
    if options.of not in OF:
        raise UnknownName.of("number of a box", options.of, OF)
    for name, value in (("score", options.score), ("iou", options.iou)):
        if not 0 <= value <= 1:
            raise OptionClash(f"'{name}' is {value:g}; it has to lie between 0 and 1.")


def check_label(card: DetectorCard, options: DetectOptions) -> None:
    """Raises UnknownName: the class that is asked for is none of this detector's."""
    if options.label is not None and options.label not in card.labels:
        raise UnknownName.of(f"class of '{card.name}'", options.label, card.labels)


@undisturbed
def find(model: Detecting, photo: Image.Image, options: DetectOptions) -> Detected:
    """One detector's boxes on a photo (upright RGB), heat maps of some, and its gate maps.

    Raises UnknownName, OptionClash.
    """
    check_names(options)
    check_label(model.card, options)
    frame, labels = model.card.frame, model.card.labels
    layers = layers_of(model, options.layer)
    *earlier, cut = (model.cut(layer) for layer in layers)
    image = frame(photo)[None].to(memory_format=torch.channels_last)
    height, width = image.shape[2:]
    started = time.perf_counter()
    activation, maps = cut.run_trunk(image)
    trunk_done = time.perf_counter()
    with torch.inference_mode():
        output, head_maps = cut.run_head(activation)
        found = model.asked.found(
            output[0], width, height, options.score, options.iou, options.limit
        )
    detections = in_photo(found, frame.scales(*photo.size), labels)
    chosen = chosen_boxes(detections, options)
    # A pass of the trunk for each further layer: kept cuts stay as many as there are blocks.
    levels = [(each, each.run_trunk(image)[0]) for each in earlier] + [(cut, activation)]
    formula = BOX_METHODS[options.method].run
    heat = of_layers(
        [
            box_maps(each, level, model.asked, found.some(chosen), options.of, formula)
            for each, level in levels
        ]
    )
    heatmaps = tuple(
        box_map(which, each, detections[which].box, photo.size)
        for which, each in zip(chosen, heat.numpy(), strict=True)
    )
    ended = time.perf_counter()
    gates = {**maps, **head_maps} if options.attention else {}
    return Detected(
        model=model.card.name,
        photo=photo,
        detections=detections,
        heatmaps=heatmaps,
        of=options.of,
        method=options.method,
        layer=",".join(layers),
        attention=tuple(
            replace(each, block=block_name(each.block)) for each in gate_maps(gates, cut.places)
        ),
        timing_ms={
            "trunk": (trunk_done - started) * 1000,
            "head": (ended - trunk_done) * 1000,
        },
    )


def layers_of(model: Detecting, asked: str | None) -> tuple[str, ...]:
    """The blocks that an option names, in the network's order. Raises UnknownName, OptionClash."""
    if asked is None:
        return (model.default_layer,)
    names = [name.strip() for name in asked.split(",")]
    if len(names) > MOST_LAYERS:
        raise OptionClash(f"{len(names)} layers are too many; ask for {MOST_LAYERS} at most.")
    for name in names:
        if name not in model.layers:
            raise UnknownName.of(f"layer of '{model.card.name}'", name, model.layers)
    return tuple(name for name in model.layers if name in names)


def in_photo(
    found: Found, scales: tuple[float, float, float, float], labels: Sequence[str]
) -> tuple[Detection, ...]:
    """What a network found, in the photo's pixels; `scales` as `Frame.scales` gives them."""
    boxes = (found.boxes / torch.tensor(scales)).tolist()
    return tuple(
        Detection((box[0], box[1], box[2], box[3]), index, labels[index], score)
        for box, index, score in zip(
            boxes, found.labels.tolist(), found.scores.tolist(), strict=True
        )
    )


def box_maps(
    cut: Cut,
    activation: Tensor,
    network: DetectorNetwork,
    found: Found,
    of: str = "score",
    formula: Callable[[Tensor, Tensor], Tensor] = hirescam,
) -> Tensor:
    """One image's activation (1, C, h, w) -> a raw map for each of n boxes: (n, h, w).

    `found`: the boxes; `of`: what is explained of them, a name in OF. Several share a pass of the
    head.
    """
    maps = [torch.zeros(0, *activation.shape[2:])]
    count = len(found.boxes)
    for first in range(0, count, BOXES_AT_ONCE):
        some = found.some(range(first, min(first + BOXES_AT_ONCE, count)))
        # Not a view of one row: each box has its own gradient. And no inference tensor.
        leaf = activation.expand(len(some.boxes), -1, -1, -1).clone().requires_grad_()
        output, _ = cut.run_head(leaf)
        (gradient,) = torch.autograd.grad(network.numbers(output, some, of).sum(), leaf)
        maps.append(formula(leaf.detach(), gradient))
    return torch.cat(maps)


def of_layers(maps: Sequence[Tensor]) -> Tensor:
    """Maps of the same n boxes at several layers (n, h, w) -> one map each, as fine as the finest.

    One layer's maps stay as they are. Of several, the highest value of a cell counts, as the
    authors of Layer-CAM advise; zero, where nothing speaks for a box, stays zero.
    """
    if len(maps) == 1:
        return maps[0]
    size = max((each.shape[1:] for each in maps), key=lambda shape: shape[0] * shape[1])
    return fused(maps, size, FUSIONS["max"], from_zero)


def box_map(
    detection: int,
    values: Floats,
    box: tuple[float, float, float, float],
    size: tuple[int, int],
) -> BoxMap:
    """A map with its share inside a box, and the two controls; `size` of the photo in pixels."""
    width, height = size
    rows, columns = values.shape
    cells = np.outer(
        _covered(box[1] / height * rows, box[3] / height * rows, rows),
        _covered(box[0] / width * columns, box[2] / width * columns, columns),
    ).astype(np.float32)
    inside = _inside(box, size)
    return BoxMap(
        detection,
        values,
        _energy(values, inside),
        float(inside.mean()),
        _energy(cells, inside) or 0.0,
    )


def read_box(text: str) -> tuple[float, float, float, float]:
    """`x0,y0,x1,y1` as numbers. Raises OptionClash if it is no box."""
    try:
        x0, y0, x1, y1 = (float(part) for part in text.split(","))
    except ValueError:
        x0 = y0 = x1 = y1 = math.nan
    if not (x0 < x1 and y0 < y1 and all(map(math.isfinite, (x0, y0, x1, y1)))):
        raise OptionClash(
            f"'{text[:80]}' is no box. Give x0,y0,x1,y1 in pixels of the upright photo: the left "
            "and upper side, then the right and lower one."
        )
    return x0, y0, x1, y1


def overlap(
    one: tuple[float, float, float, float], other: tuple[float, float, float, float]
) -> float:
    """Intersection over union of two boxes, in [0, 1]."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(0.0, width) * max(0.0, height)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return shared / (areas - shared) if areas > shared else 0.0


def counterparts(mine: Detected, other: Detected) -> tuple[int | None, ...]:
    """For each of `mine`'s boxes, the other model's box around the same thing, or None.

    Of the same class, with an IoU of OVERLAP at least; the surest box chooses first, and each of
    the other's boxes is taken once.
    """
    free = dict(enumerate(other.detections))
    found: list[int | None] = []
    for each in mine.detections:
        able = {
            number: overlap(each.box, theirs.box)
            for number, theirs in free.items()
            if theirs.index == each.index
        }
        best = max(able, key=lambda number: able[number], default=None)
        if best is not None and able[best] < OVERLAP:
            best = None
        found.append(best)
        if best is not None:
            del free[best]
    return tuple(found)


def chosen_boxes(detections: Sequence[Detection], options: DetectOptions) -> list[int]:
    """Positions of the boxes to explain."""
    if options.box is None:
        return [*range(min(options.maps, len(detections)))]
    given = options.box
    shares = [
        overlap(each.box, given) if options.label in (None, each.label) else 0.0
        for each in detections
    ]
    best = max(range(len(shares)), key=lambda which: shares[which], default=None)
    return [best] if best is not None and shares[best] >= OVERLAP else []


def _covered(start: float, end: float, count: int) -> Floats:
    """How much of each of `count` unit cells lies between `start` and `end`: (count,)."""
    at = np.arange(count, dtype=np.float32)
    shares: Floats = np.clip(np.minimum(at + 1, end) - np.maximum(at, start), 0, 1)
    return shares.astype(np.float32)


SIDE_PX = 224  # of the picture on which energy is measured: finer than any map


def _inside(box: tuple[float, float, float, float], size: tuple[int, int]) -> Floats:
    """How much of each pixel of a SIDE_PX picture of the photo lies in the box."""
    width, height = (side / SIDE_PX for side in size)
    return np.outer(
        _covered(box[1] / height, box[3] / height, SIDE_PX),
        _covered(box[0] / width, box[2] / width, SIDE_PX),
    ).astype(np.float32)


def _energy(values: Floats, inside: Floats) -> float | None:
    """The share of the enlarged map that lies inside; None if the map is zero."""
    large = render.enlarged(values, SIDE_PX, SIDE_PX)
    total = float(large.sum())
    if not math.isfinite(total) or total <= 0:
        return None
    return float((large * inside).sum() / total)
