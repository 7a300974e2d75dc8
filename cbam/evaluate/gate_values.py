"""What the gates say over many photos: mean and spread, and whether they see the object.

A gate that says the same for every photo only scales the features: it could be part of the weights.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import islice
from operator import add
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cbam.attention import Kind
from cbam.data.labelled import Labelled, Unread, nothing_read, opened
from cbam.evaluate.localisation import Mask, on_grid
from cbam.evaluate.pairs import paired_difference
from cbam.explain.gate_words import STILL, near_ends
from cbam.images.preprocess import Box
from cbam.model import Model
from cbam.trace.cut import Maps

BATCH = 32


@dataclass(frozen=True, eq=False)
class Sums:
    """A gate's values added up over photos, so that millions of them need no memory.

    Sums over different photos can be added: `Sums.of(these) + Sums.of(those)`.
    """

    photos: int
    total: Tensor  # the gate's shape, (C, 1, 1) or (1, h, w); float64
    squares: Tensor
    within: float  # the spread within each photo
    saturated: float  # the share of saturated values in each photo

    @classmethod
    def of(cls, maps: Tensor, kind: Kind) -> "Sums":
        """The sums over a batch of gate maps (N, ...). Without ends no value is near one."""
        values = maps.double()
        flat = values.flatten(1)
        ends = torch.from_numpy(near_ends(flat.numpy(), kind))
        return cls(
            len(maps),
            values.sum(dim=0),
            values.square().sum(dim=0),
            float(flat.std(dim=1, correction=0).sum()),
            float(ends.double().mean(dim=1).sum()),
        )

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(
            self.photos + other.photos,
            self.total + other.total,
            self.squares + other.squares,
            self.within + other.within,
            self.saturated + other.saturated,
        )

    @property
    def mean(self) -> Tensor:
        """The mean over photos, in the gate's shape: float32."""
        return (self.total / self.photos).float()

    def values(self) -> dict[str, float]:
        """What a card says of the gate.

        `mean` over everything; `over_photos`: how much one channel or place moves from photo to
        photo (standard deviation, mean over channels or places); `within_photo`: how much the
        channels or places of one photo differ (the same, mean over photos); `saturated`: the share
        of values near an end of the gate's range; `dead`: the share of channels or places that say
        the same for every photo.
        """
        mean = self.total / self.photos
        moves = (self.squares / self.photos - mean.square()).clamp(min=0).sqrt()
        return {
            "mean": float(mean.mean()),
            "over_photos": float(moves.mean()),
            "within_photo": self.within / self.photos,
            "saturated": self.saturated / self.photos,
            "dead": float((moves < STILL).double().mean()),
        }


@dataclass(frozen=True, eq=False)
class Seen:
    """A batch of photos as the model takes them, and the part of each that it sees."""

    photos: Sequence[Labelled]
    images: Tensor  # (N, 3, S, S)
    views: Sequence[tuple[Box, int, int]]  # with the photo's width and height

    def boxes(self, side: int) -> Iterator[Mask | None]:
        """For each photo which of side x side cells lie in an object's box; None: it has none."""
        for labelled, (view, width, height) in zip(self.photos, self.views, strict=True):
            masks = [on_grid(each, view, width, height, side) for each in labelled.regions]
            yield np.logical_or.reduce(masks) if masks else None


def seen(model: Model, photos: Iterable[Labelled], unread: list[Unread]) -> Iterator[Seen]:
    """The photos in batches of BATCH; those that cannot be read are added to `unread`."""
    preprocess = model.card.preprocess
    readable = opened(photos, unread)
    while batch := list(islice(readable, BATCH)):
        images = torch.stack([preprocess(photo) for _, photo in batch])
        views = [(preprocess.view(*photo.size), *photo.size) for _, photo in batch]
        labelled = [each for each, _ in batch]
        yield Seen(labelled, images.to(memory_format=torch.channels_last), views)


def area_under_curve(values: NDArray[Any], inside: Mask) -> float:
    """Area under the ROC curve: how often a place inside has a higher value than one outside.

    `values` and `inside` of one shape, with places of both sorts; equal values count half. 1: every
    place inside is above all others; 0.5: the values do not tell inside from outside.
    Mann and Whitney 1947, by ranks.
    """
    from scipy.stats import rankdata  # comes with the grad-cam package

    ranks = rankdata(values.ravel())[inside.ravel()]
    within, without = len(ranks), inside.size - len(ranks)
    return float((ranks.sum() - within * (within + 1) / 2) / (within * without))


def closeness(side: int) -> NDArray[np.float64]:
    """A map (side, side) that never saw the photo: it is highest in the centre."""
    steps = np.arange(side) - (side - 1) / 2
    nearness: NDArray[np.float64] = -np.hypot(steps[:, None], steps[None, :])
    return nearness


@dataclass(frozen=True, eq=False)
class GateValues:
    """What every gate says over some photos, by the gate's name."""

    photos: Sequence[Labelled]  # those that could be read
    halves: tuple[Mapping[str, Sums], Mapping[str, Sums]]  # of every other photo, and of the rest
    areas: Mapping[str, list[float]] = field(default_factory=dict)  # of each photo with a box
    blind: Mapping[str, list[float]] = field(default_factory=dict)  # the centre's, on the same

    @property
    def sums(self) -> dict[str, Sums]:
        """Over all photos."""
        even, odd = self.halves
        return {name: even[name] + odd[name] if name in odd else even[name] for name in even}

    @property
    def means(self) -> dict[str, Tensor]:
        """Every gate's mean over photos."""
        return {name: sums.mean for name, sums in self.sums.items()}

    def metrics(self) -> dict[str, dict[str, Any]]:
        """By gate what `Sums.values` tells; for a gate over places whether it looks at the object.

        `inside_box` is its mean area under the ROC curve inside against outside the boxes, `centre`
        that of the photo's centre, `against_centre` the difference with its 95 % interval.
        """
        found: dict[str, dict[str, Any]] = {}
        for name, sums in self.sums.items():
            found[name] = dict(sums.values())
            if mine := self.areas.get(name):
                areas = np.array(mine, np.float32), np.array(self.blind[name], np.float32)
                found[name]["inside_box"], found[name]["centre"] = (
                    float(each.mean()) for each in areas
                )
                found[name]["against_centre"] = list(paired_difference(*areas))
        return found


def gate_values(model: Model, photos: Sequence[Labelled], unread: list[Unread]) -> GateValues:
    """Run the photos through the model once and see what its gates say.

    Photos that cannot be read are added to `unread`. Raises BadData if none can be read.
    """
    cut = model.cut()
    halves: tuple[dict[str, list[Sums]], dict[str, list[Sums]]] = ({}, {})
    areas: dict[str, list[float]] = {}
    blind: dict[str, list[float]] = {}
    readable: list[Labelled] = []
    for batch in seen(model, photos, unread):  # BATCH is even: each begins with the first half
        readable += batch.photos
        _, maps = cut.run_trunk(batch.images)
        for name in cut.trunk_gates:
            for half, which in zip(halves, (maps[name][::2], maps[name][1::2]), strict=True):
                if len(which):
                    half.setdefault(name, []).append(Sums.of(which, cut.places[name].kind))
        _judge_places({name: maps[name] for name in cut.trunk_gates}, batch, areas, blind)
    if not readable:
        raise nothing_read(unread)
    even, odd = ({name: reduce(add, each) for name, each in half.items()} for half in halves)
    return GateValues(readable, (even, odd), areas, blind)


def _judge_places(
    maps: Maps, batch: Seen, areas: dict[str, list[float]], blind: dict[str, list[float]]
) -> None:
    """Adds each photo's area under the ROC curve to `areas`, and the centre's to `blind`."""
    grids: dict[int, list[Mask | None]] = {}
    for name, values in maps.items():
        rows, side = values.shape[-2:]
        if rows != side or side == 1:  # a gate that does not vary over places
            continue
        centre = closeness(side)
        planes = values.mean(dim=1).numpy()
        boxes = grids.setdefault(side, list(batch.boxes(side)))
        for plane, inside in zip(planes, boxes, strict=True):
            if inside is not None and inside.any() and not inside.all():
                areas.setdefault(name, []).append(area_under_curve(plane, inside))
                blind.setdefault(name, []).append(area_under_curve(centre, inside))
