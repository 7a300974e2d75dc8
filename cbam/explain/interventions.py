"""What to change about gates, as a text or a mapping -> one change for each gate of a model.

    layer1.0.channel=off, layer4.*.spatial=mean, *=0.5, layer3.1.channel[7]=at:0.2

An entry names gates and says what becomes of them. `*` stands for any part of a name. Channels
stand in brackets: `[7]`, or `[0-15]`. One grammar holds for Python, the command, the API, the page:

* `own`: as it is · `off`: it leaves the features as they are · a number: that share of its strength
* `mean`: its mean over many photos, from the model's card · `at:0.3`: this value everywhere
* `avg`, `max`: that path of it alone · `mask:10./11.`: rows of cells that it shuts (0), opens (1)
  or leaves to it (.), over the view, on a grid of any size

`open` and `mean` alone are short for `*=off` and `*=mean`. An entry that says more parts of a name
goes before one that says fewer, and one with channels before one without; two that say as many are
a clash.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from cbam.cards.card import Card
from cbam.errors import BadOption, OptionClash, UnknownName
from cbam.trace.cut import Place
from cbam.trace.intervene import Change

PRESETS = {"open": "*=off", "mean": "*=mean"}
Gates = str | Mapping[str, Any]  # Options.gates
OWN = "own"
HOW = (
    *(OWN, "off", "mean", "avg", "max"),
    *("a strength from 0 to 1", "at:NUMBER", "mask: and rows of 0, 1 and . with / between"),
)
_PLACES = re.compile(r"(?P<name>[^\[\]]+)(?:\[(?P<first>\d{1,6})(?:-(?P<last>\d{1,6}))?\])?")
_MASK = re.compile(r"mask:[01.]+(?:/[01.]+)*")
LARGEST = 100.0  # the largest value that a gate may be told to say


class Changeable(Protocol):
    """What changing gates needs of a model."""

    @property
    def card(self) -> Card: ...

    @property
    def gates(self) -> Mapping[str, Place]: ...


@dataclass(frozen=True)
class Changes:
    """What becomes of one model's gates. Two are equal if they say the same."""

    said: tuple[tuple[str, str], ...] = ()  # gate, with its channels if not all -> how
    gates: Mapping[str, Change] = field(default_factory=dict, compare=False)
    arrays: tuple[int, ...] = ()  # arrays have no text: each is another one

    def __bool__(self) -> bool:
        return bool(self.said)


@dataclass(frozen=True, eq=False)
class _Entry:
    """One entry: which gates, which of their channels, what becomes of them."""

    places: str  # as it was written
    name: str
    channels: tuple[int, int] | None
    how: str
    array: Tensor | None = None

    @property
    def rank(self) -> tuple[bool, int]:
        """Entries of a higher rank go before others."""
        said = sum("*" not in part for part in self.name.split("."))
        return "*" not in self.name, said

    def names(self, gate: str) -> bool:
        pattern = ".*".join(re.escape(part) for part in self.name.split("*"))
        return re.fullmatch(pattern, gate) is not None


def changes(models: Sequence[Changeable], gates: Gates | None) -> tuple[Changes, ...]:
    """What becomes of each model's gates. Models without a gate that is named stay as they are.

    Raises UnknownName for a gate that none of them has, for a channel that it does not have and for
    what cannot be done to a gate; OptionClash for two entries that contradict each other, and where
    no gate that is named can be changed in this way.
    """
    entries = _parsed(gates)
    if not entries:  # nor is there a reason to ask a model where its gates are
        return (Changes(),) * len(models)
    for entry in entries:
        named = [
            (model, name, place)
            for model in models
            for name, place in model.gates.items()
            if entry.names(name)
        ]
        if not named:
            known = dict.fromkeys(name for model in models for name in model.gates)
            raise UnknownName.of("gate", entry.name, known or ["none: these models have no gates"])
        reasons = [_unfit(entry, *each) for each in named]
        if all(reasons):
            raise next(reason for reason in reasons if reason)
    return tuple(_of_model(model, entries) for model in models)


def _of_model(model: Changeable, entries: Sequence[_Entry]) -> Changes:
    found: dict[str, Change] = {}
    said: dict[str, str] = {}
    arrays: list[int] = []
    for name, place in model.gates.items():
        change = Change()
        fitting = [
            each for each in entries if each.names(name) and not _unfit(each, model, name, place)
        ]
        for entry in _in_order(name, fitting):
            made = _change(entry, model.card, name, place)
            if entry.channels is None:
                change, said_as = made, name
            else:
                first, last = entry.channels
                where = torch.zeros(place.shape[0], 1, 1, dtype=torch.bool)
                where[first : last + 1] = True
                change, said_as = change.but(where, made), entry.places.replace(entry.name, name)
            said.pop(said_as, None)
            if not _nothing(entry) or entry.channels is not None:
                said[said_as] = entry.how
                arrays += [id(entry.array)] if entry.array is not None else []
        if any(key == name or key.startswith(f"{name}[") for key in said):
            found[name] = change
    return Changes(tuple(said.items()), MappingProxyType(found), tuple(arrays))


def _in_order(name: str, entries: Sequence[_Entry]) -> list[_Entry]:
    """Those that count for a gate: of all its channels one, then those of chosen channels."""
    whole = [each for each in entries if each.channels is None]
    top = max((each.rank for each in whole), default=None)
    whole = [each for each in whole if each.rank == top]
    _no_clash(name, whole)
    parts = sorted((each for each in entries if each.channels is not None), key=lambda e: e.rank)
    for rank in {each.rank for each in parts}:
        peers = [each for each in parts if each.rank == rank]
        for at, each in enumerate(peers):
            _no_clash(name, [each, *(other for other in peers[at + 1 :] if _overlap(each, other))])
    return whole[:1] + parts


def _overlap(one: _Entry, other: _Entry) -> bool:
    assert one.channels
    assert other.channels
    return one.channels[0] <= other.channels[1] and other.channels[0] <= one.channels[1]


def _no_clash(name: str, entries: Sequence[_Entry]) -> None:
    """Raises OptionClash if entries of one rank say different things about a gate."""
    for other in entries[1:]:
        first = entries[0]
        if first.how != other.how or first.array is not other.array:
            raise OptionClash(
                f"'{first.places}={first.how}' and '{other.places}={other.how}' both speak of "
                f"'{name}'. Name the gate itself to decide: '{name}={other.how}'."
            )


def _nothing(entry: _Entry) -> bool:
    """Whether the gate stays as it is."""
    return entry.how == OWN or _share(entry.how) == 1


def _unfit(entry: _Entry, model: Changeable, name: str, place: Place) -> Exception | None:
    """Why a gate cannot be changed in this way, if so: the error to raise."""
    kind, how = place.kind, entry.how
    able: str = ""
    if entry.channels is not None:
        if "C" not in kind.axes:
            able = "it has no channels of its own; leave out the brackets"
        elif entry.channels[1] >= place.shape[0]:
            return UnknownName.of(f"channel of '{name}'", entry.channels[1], _range(place.shape[0]))
        elif how in place.paths:
            able = "a path decides for all channels; leave out the brackets"
        elif entry.array is not None or how.startswith("mask:"):
            able = "a mask or an array is for all channels; leave out the brackets"
    if how in ("avg", "max") and how not in place.paths:
        able = f"it has no path '{how}' of its own; its paths: {', '.join(place.paths) or 'none'}"
    elif how.startswith("mask:") and "HW" not in kind.axes:
        able = "it has no places; a mask is for a gate with a map over the photo"
    elif how == "mean" and name not in model.card.gate_means:
        able = "its model's card holds no mean of it; choose 'off' or a strength"
    elif (how == "off" or _share(how) is not None) and kind.open is None:
        able = "no value of it leaves the features as they are; choose 'mean' or 'at:NUMBER'"
    elif entry.array is not None and not _fits(entry.array, place):
        sizes = zip(place.shape, "CHW", strict=True)
        shape = tuple(size for size, axis in sizes if axis in kind.axes)
        able = f"its map has the shape {shape}, the array {tuple(entry.array.shape)}"
    if not able:
        return None
    return OptionClash(f"'{name}={how}' of '{model.card.name}' cannot be done: {able}.")


def _range(count: int) -> list[str]:
    return [f"0 to {count - 1}"]


def _fits(array: Tensor, place: Place) -> bool:
    """Whether an array can be a gate's map; along places, of any grid."""
    axes = place.kind.axes
    if array.ndim != len(axes) or not array.numel():
        return False
    return "C" not in axes or array.shape[axes.index("C")] == place.shape[0]


def _change(entry: _Entry, card: Card, name: str, place: Place) -> Change:
    """What an entry makes of a gate that it fits."""
    how = entry.how
    if entry.array is not None:
        return Change.painted(_on_map(entry.array, place))
    if how.startswith("mask:"):
        top = 1.0 if place.kind.open is None else place.kind.open
        cells = {"0": 0.0, "1": top, ".": float("nan")}
        rows = [[cells[cell] for cell in row] for row in how.removeprefix("mask:").split("/")]
        return Change.painted(_enlarged(torch.tensor(rows)[None], place))
    if how in place.paths:
        return Change.path(how, place.paths)
    if how == "mean":
        return Change.held(card.gate_means[name])
    if how.startswith("at:"):
        return Change.held(float(how.removeprefix("at:")))
    share = {OWN: 1.0, "off": 0.0}.get(how, _share(how))
    assert share is not None
    return Change.strength(share, 0.0 if place.kind.open is None else place.kind.open)


def _on_map(array: Tensor, place: Place) -> Tensor:
    """An array along the kind's axes -> a map of a shape that fits (C, h, w)."""
    axes = place.kind.axes
    shape = [array.shape[axes.index(axis)] if axis in axes else 1 for axis in "CHW"]
    return _enlarged(array.reshape(shape), place)


def _enlarged(values: Tensor, place: Place) -> Tensor:
    """A grid of any size (c, rows, columns) -> the gate's own, each cell as it is."""
    size = place.shape[1:]
    return values if values.shape[1:] == size else F.interpolate(values[None], size)[0]


def _share(how: str) -> float | None:
    """The strength that a text says, 0 to 1; None: it says something else."""
    return float(how) if re.fullmatch(r"0|1|0?\.\d{1,6}|1\.0{1,6}|0\.", how) else None


def _parsed(gates: Gates | None) -> list[_Entry]:
    """A text or a mapping as entries. Raises UnknownName."""
    if not gates:
        return []
    if isinstance(gates, str):
        pairs: list[tuple[str, Any]] = []
        for part in gates.split(","):
            text = PRESETS.get(part.strip(), part.strip())
            if text:
                places, equals, how = text.partition("=")
                if not equals:
                    known = (*PRESETS, "GATE=" + "|".join(HOW[:5]), "such as layer1.0.channel=off")
                    raise UnknownName.of("change of gates", text, known)
                pairs.append((places.strip(), how.strip()))
    else:
        pairs = [(str(places).strip(), how) for places, how in gates.items()]
    return [_entry(places, how) for places, how in pairs]


def _entry(places: str, how: Any) -> _Entry:
    """One entry; `how` may also be a number (a strength) or an array. Raises UnknownName."""
    found = _PLACES.fullmatch(places)
    if not found:
        raise UnknownName.of(
            "gate", places, ("layer1.0.channel", "layer4.*.spatial", "layer1.0.channel[7]", "*")
        )
    name, first, last = found["name"], found["first"], found["last"]
    channels = None if first is None else (int(first), int(last or first))
    array = None
    if isinstance(how, (int, float)):
        text = f"{how:g}"
    elif isinstance(how, str):
        text = how
    else:
        try:
            array = torch.as_tensor(how, dtype=torch.float32)
        except (TypeError, ValueError, RuntimeError) as error:
            wanted = "a text such as 'off', a number from 0 to 1, or an array of numbers"
            raise BadOption.of(f"gates of '{name}'", how, wanted) from error
        text = "an array of " + " x ".join(map(str, array.shape))
    if array is None and not _known(text):
        raise UnknownName.of(f"change of the gate '{places[:80]}'", text, HOW)
    if channels and channels[0] > channels[1]:
        raise UnknownName.of("range of channels", places, (f"{name}[{last}-{first}]",))
    return _Entry(places, name, channels, text, array)


def _known(how: str) -> bool:
    """Whether the text is something that can become of a gate."""
    if how in HOW[:5] or _share(how) is not None:
        return True
    if how.startswith("mask:"):
        rows = how.removeprefix("mask:").split("/")
        return _MASK.fullmatch(how) is not None and len({len(row) for row in rows}) == 1
    number = re.fullmatch(r"at:(-?\d{1,4}(?:\.\d{0,6})?|-?\.\d{1,6})", how)
    return number is not None and abs(float(number[1])) <= LARGEST
