"""What the gates are for: how often a network is right when they no longer answer the photo.

A gate's map is replaced by its mean over other photos ("mean": it still scales every channel and
place, but knows nothing of this photo), by the mean's mean ("number": it scales everything alike),
or by the value that leaves the features as they are ("open"; mostly 1). No weight changes.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from cbam.attention import Kind
from cbam.evaluate.gate_values import GateValues, seen
from cbam.evaluate.pairs import paired_difference
from cbam.model import Model
from cbam.trace.cut import Cut
from cbam.trace.intervene import Change, changeable, changed
from cbam.trace.rewrite import Folded, fuse

# A way to hold a gate: its means over the photos of both halves, for each photo the number of the
# half that it is not in (N,), and the gate's kind -> a map that fits a batch of N photos.
WAYS: dict[str, Callable[[Tensor, Tensor, Kind], Tensor]] = {
    "mean": lambda means, other, kind: means[other],
    "number": lambda means, other, kind: means.flatten(1).mean(dim=1)[other].view(-1, 1, 1, 1),
    "open": lambda means, other, kind: torch.full((len(other), 1, 1, 1), kind.open or 0.0),
}
SINGLE_WAYS = ("mean", "open")  # for one gate at a time
ALL = "all"

T = TypeVar("T")
Held = tuple[str, str]  # which gates are held, and in which way
AS_IT_IS: Held = ("", "")
Tops = dict[Held, Tensor]  # the top classes of a batch (N,)
Ways = Mapping[str, Mapping[str, Tensor]]  # by way, a map for every gate


@dataclass(frozen=True, eq=False)
class Answers:
    """A network's answers to the photos, as it is and with gates held."""

    targets: NDArray[np.int64]  # (photos,): the true classes
    own: NDArray[np.int64]  # (photos,): the top class as it is
    held: Mapping[Held, NDArray[np.int64]]  # the same with gates held

    def metrics(self) -> dict[str, Any]:
        """Accuracy as it is, and for all gates that were held what each way changes.

        By way the difference in accuracy and its 95 % interval; `changed` is the share of photos
        that get another answer when the gates are held at their mean.
        """
        right = (self.own == self.targets).astype(np.float32)
        found: dict[str, Any] = {"top1": float(right.mean())}
        for (gates, way), top in self.held.items():
            held = (top == self.targets).astype(np.float32)
            values = found.setdefault(gates, {})
            values[way] = list(paired_difference(held, right))
            if way == "mean":
                values["changed"] = float((top != self.own).mean())
        return found


def kinds_of_gates(cut: Cut) -> dict[str, list[str]]:
    """Which gates are held together: those of each kind, and all if there are several kinds."""
    groups: dict[str, list[str]] = {}
    for name in applied(cut):
        groups.setdefault(cut.places[name].kind.name, []).append(name)
    return groups if len(groups) < 2 else {**groups, ALL: applied(cut)}


def applied(cut: Cut) -> list[str]:
    """The gates that are applied to the features; others are steps on the way to one of these."""
    return [name for name, place in cut.places.items() if place.kind.open is not None]


def hold_kinds(model: Model, values: GateValues, ways: Collection[str] = tuple(WAYS)) -> Answers:
    """Hold all gates of a kind, or all gates, in each of these ways.

    The photos are those of `values`; each is judged with the means of the half that it is not in.
    """
    cut = _fused(changeable(model.network, model.layers[-1]), {})

    def answer(images: Tensor, held: Ways) -> Tops:
        found = {AS_IT_IS: _top(changed(cut, {}), images)}
        for group, names in kinds_of_gates(cut).items():
            for way in ways:
                found[group, way] = _top(_held(cut, names, held[way]), images)
        return found

    return _answers(model, values, None, answer)


def hold_one_by_one(model: Model, values: GateValues, count: int | None = None) -> Answers:
    """As `hold_kinds`, but one gate at a time, in SINGLE_WAYS, on `count` of the photos.

    Up to a gate's block the network computes what it always does, so only what comes behind is
    computed again.
    """
    folded: Folded = {}
    whole = changeable(model.network, model.layers)
    behind = [_fused(cut, folded, head=True) for cut in whole.passed]
    whole = _fused(whole, folded)
    before = dict(zip(model.layers[1:], behind, strict=True))  # block -> the cut before it

    def answer(images: Tensor, held: Ways) -> Tops:
        plain = changed(whole, {})
        activation, passed = plain.run_trunk(images)
        found = {AS_IT_IS: _head_top(plain, activation)}
        for name in applied(whole):
            start = before.get(whole.places[name].block)  # None: its block is the first
            for way in SINGLE_WAYS:
                part = _held(start or whole, [name], held[way])
                if start is None:
                    found[name, way] = _top(part, images)
                else:
                    found[name, way] = _head_top(part, passed[start.layer])
        return found

    return _answers(model, values, count, answer)


def _answers(
    model: Model, values: GateValues, count: int | None, answer: Callable[[Tensor, Ways], Tops]
) -> Answers:
    """The answers to `count` of the photos, batch by batch.

    `answer` takes images and, by way, a map for every gate.
    """
    positions = evenly(range(len(values.photos)), count)
    judged = [values.photos[position] for position in positions]
    means = {name: torch.stack([half[name].mean for half in values.halves]) for name in values.sums}
    kinds = {name: place.kind for name, place in model.cut().places.items()}
    found: dict[Held, list[Tensor]] = {}
    done = 0
    for batch in seen(model, judged, []):
        here = positions[done : done + len(batch.photos)]
        other = 1 - torch.tensor(here) % 2  # the half that the photo is not in
        held = {
            way: {name: hold(both, other, kinds[name]) for name, both in means.items()}
            for way, hold in WAYS.items()
        }
        for key, top in answer(batch.images, held).items():
            found.setdefault(key, []).append(top)
        done += len(here)
    columns = {key: torch.cat(tops).numpy() for key, tops in found.items()}
    targets = np.array([labelled.target for labelled in judged])
    return Answers(targets, columns.pop(AS_IT_IS), columns)


def _held(cut: Cut, names: Sequence[str], maps: Mapping[str, Tensor]) -> Cut:
    """The cut whose gates of these names say what `maps` say, for each photo of a batch."""
    return changed(cut, {name: Change.held(maps[name]) for name in names})


def _top(cut: Cut, images: Tensor) -> Tensor:
    """The top class of each image: (N,)."""
    activation, _ = cut.run_trunk(images)
    return _head_top(cut, activation)


def _head_top(cut: Cut, activation: Tensor) -> Tensor:
    """The top class of each activation: (N,)."""
    with torch.inference_mode():
        logits, _ = cut.run_head(activation)
    top: Tensor = logits.argmax(dim=1)
    return top


def _fused(cut: Cut, folded: Folded, head: bool = False) -> Cut:
    """The same in fewer passes over memory: its trunk, or its head."""
    part = cut.head if head else cut.trunk
    assert isinstance(part, fx.GraphModule)
    fused = fuse(part, folded)
    return replace(cut, head=fused) if head else replace(cut, trunk=fused)


def evenly(items: Sequence[T], count: int | None) -> Sequence[T]:
    """`count` of the items, evenly spread over them; all if None or more than there are."""
    if count is None or count >= len(items):
        return items
    return [items[int(position)] for position in np.linspace(0, len(items) - 1, count)]
