"""Inside one block: its features before and after its gates, and how each gate came to its map.

The network runs up to that block only. Questions about the same block of the same models share
a pass.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cbam.attention import Steps
from cbam.cards.card import Card
from cbam.errors import BadOption, OptionClash, UnknownName
from cbam.explain.explanation import Floats, GateMap
from cbam.explain.gate_words import SHUT, Judgement, judge
from cbam.explain.interventions import Changes, Gates, changes
from cbam.images.preprocess import Box
from cbam.trace.cut import Place
from cbam.trace.probe import Probe
from cbam.undisturbed import undisturbed

Pick = Literal["strongest", "open", "shut"]
PICKS: dict[Pick, str] = {
    "strongest": "those with the largest mean absolute value behind the gates",
    "open": "those that the gates let through most, or to which they add most",
    "shut": "those that the gates let through least, or from which they take most",
}
MOST = 32  # channels of one answer


@dataclass(frozen=True)
class FeatureOptions:
    """Which block, and which of its channels. Raises BadOption, UnknownName."""

    block: str = ""  # as in `Explanation.attention`; empty: the last one that has gates
    channels: str | Sequence[int] | None = None  # "7, 12-15" or [7, 12]; None: those of `pick`
    pick: Pick = "strongest"
    count: int = 6  # so many are picked
    gates: Gates | None = None  # what to change about gates, as in `Options.gates`

    def __post_init__(self) -> None:
        if not isinstance(self.block, str):
            raise BadOption.of("block", self.block, "the name of a block, such as 'layer4.1'")
        if self.pick not in get_args(Pick):
            raise UnknownName.of("way to pick channels", self.pick, PICKS)
        whole = isinstance(self.count, (int, np.integer)) and not isinstance(self.count, bool)
        if not whole or not 1 <= self.count <= MOST:
            raise BadOption.of("count", self.count, f"a whole number from 1 to {MOST}")
        if self.gates is not None and not isinstance(self.gates, str | Mapping):
            wanted = "a text such as 'layer1.0.channel=off', or a mapping"
            raise BadOption.of("gates", self.gates, wanted)
        _numbers(self.channels)


def _numbers(channels: str | Sequence[int] | None) -> tuple[int, ...]:
    """The channels that are named, each once. Raises BadOption."""
    wanted = f"at most {MOST} channels' numbers, such as '7, 12-15' or [7, 12]"
    found: list[int] = []
    if isinstance(channels, str):
        for part in filter(None, (each.strip() for each in channels.split(","))):
            first, dash, last = (each.strip() for each in part.partition("-"))
            ends = [first, last if dash else first]
            if not all(end.isascii() and end.isdecimal() and len(end) < 7 for end in ends):
                raise BadOption.of("channels", channels, wanted)
            low, high = map(int, ends)
            if high < low or high - low >= MOST:
                raise BadOption.of("channels", channels, wanted)
            found += range(low, high + 1)
    elif channels is not None:
        if not isinstance(channels, Sequence | np.ndarray):
            raise BadOption.of("channels", channels, wanted)
        for number in channels:
            whole = isinstance(number, (int, np.integer)) and not isinstance(number, bool)
            if not whole or not 0 <= int(number) < 10**6:
                raise BadOption.of("channels", channels, wanted)
            found.append(int(number))
    found = list(dict.fromkeys(found))
    if len(found) > MOST:
        raise BadOption.of("channels", channels, wanted)
    return tuple(found)


class Probed(Protocol):
    """What looking inside needs of a model."""

    @property
    def card(self) -> Card: ...

    @property
    def gates(self) -> Mapping[str, Place]: ...

    def probe(self, gates: tuple[str, ...]) -> Probe:
        """The network up to the module that owns these gates."""


@dataclass(frozen=True)
class FeatureQuestion:
    """Options with every name resolved and checked."""

    models: tuple[Probed, ...]  # those that have gates in their block
    blocks: tuple[str, ...]  # of each model
    changes: tuple[Changes, ...]  # of each model's gates
    channels: tuple[int, ...]  # empty: those of `pick`
    pick: Pick
    count: int


@dataclass(frozen=True, eq=False)
class PathSeen:
    """What one path of a gate sees, and what it adds to the gate's logits."""

    pooled: Floats  # (C,) or (h, w)
    logits: Floats  # along the gate's axes
    hidden: Floats | None  # (hidden,)


@dataclass(frozen=True, eq=False)
class GateSeen:
    """One gate at work. `map` is what its module got; with changed gates not its own."""

    name: str  # "layer1.0.channel"
    map: GateMap
    judgement: Judgement | None  # None: the gate was changed
    paths: Mapping[str, PathSeen]  # by a name in PATHS; empty: the gate does not say
    bias: float  # its map is sigmoid(the sum of its paths' logits + bias)
    window: Mapping[str, Floats]  # of a spatial gate, by path: weights (k, k), norm folded in
    dilation: int  # the window takes every so many-th place

    @property
    def shut(self) -> Floats | None:
        """Which places it shuts: 1 where it lets at most SHUT through, (h, w). None: no places."""
        if self.map.kind.axes != "HW" or self.map.kind.use != "multiplied":
            return None
        return (self.map.values <= SHUT).astype(np.float32)


@dataclass(frozen=True, eq=False)
class ChannelSeen:
    """One channel before and after the gates: (h, w) each."""

    index: int
    before: Floats
    after: Floats
    # Of a channel gate's MLP: how each hidden unit counts for this channel, (hidden,), and the bias
    # that each path adds. None: there is no such gate.
    weights: Floats | None = None
    bias: float | None = None


@dataclass(frozen=True, eq=False)
class Features:
    """One model's features in one block, for one photo."""

    model: str
    photo: Image.Image  # upright RGB
    view: Box  # the part of the photo that the model saw
    block: str
    gates: tuple[GateSeen, ...]  # in the order of the module that has them
    channels: tuple[ChannelSeen, ...]  # in the order in which they were named or picked
    channel_count: int  # of the block
    changed: Mapping[str, str]  # gates that were changed, and how
    timing_ms: dict[str, float]  # "trunk", "head"


def attentive_blocks(gates: Mapping[str, Place]) -> dict[str, tuple[str, ...]]:
    """The gates of each module of attention, by its block; of a second one, by its own path."""
    owners: dict[str, list[str]] = {}
    for name, place in gates.items():
        owners.setdefault(place.owner, []).append(name)
    found: dict[str, tuple[str, ...]] = {}
    for owner, names in owners.items():
        block = gates[names[0]].block
        found[owner if block in found else block] = tuple(names)
    return found


def resolve_features(
    models: Sequence[Probed], options: FeatureOptions | None = None
) -> FeatureQuestion:
    """Resolve options into a question. Models without gates in the block are left out.

    Raises UnknownName for a block where none of the models has gates, for a channel that a block
    does not have, and for gates; OptionClash if none has gates at all or if gates clash.
    """
    options = options or FeatureOptions()
    if not isinstance(options, FeatureOptions):
        raise BadOption.of("options", options, "cbam.explain.features.FeatureOptions(...)")
    known = [(model, blocks) for model in models if (blocks := attentive_blocks(model.gates))]
    if not known:
        names = ", ".join(f"'{model.card.name}'" for model in models)
        raise OptionClash(f"{names}: no gates to look at. Choose a model with attention.")
    chosen = [
        (model, options.block or list(blocks)[-1], blocks)
        for model, blocks in known
        if not options.block or options.block in blocks
    ]
    if not chosen:
        every = dict.fromkeys(block for _, blocks in known for block in blocks)
        raise UnknownName.of("block with gates", options.block, every)
    numbers = _numbers(options.channels)
    for model, block, blocks in chosen:
        count = max(model.gates[name].shape[0] for name in blocks[block])
        has = any("C" in model.gates[name].kind.axes for name in blocks[block])
        if has and numbers and max(numbers) >= count:
            where = f"channel of {block} of '{model.card.name}'"
            raise UnknownName.of(where, max(numbers), [f"0 to {count - 1}"])
    asked = [model for model, *_ in chosen]
    return FeatureQuestion(
        tuple(asked),
        tuple(block for _, block, _ in chosen),
        changes(asked, options.gates),
        numbers,
        options.pick,
        int(options.count),
    )


@undisturbed
def look_many(
    asked: Sequence[tuple[FeatureQuestion, Image.Image]],
) -> list[list[Features] | Exception]:
    """One answer for each question: of every model, its features. They share models' passes.

    All have the same models, blocks and changes. A question that fails gets its exception and does
    not affect the others.
    """
    if not asked:
        return []
    first = asked[0][0]
    found: list[list[Features] | Exception] = [[] for _ in asked]
    for model, block, change in zip(first.models, first.blocks, first.changes, strict=True):
        names = attentive_blocks(model.gates)[block]
        probe = model.probe(names)
        images = torch.stack([model.card.preprocess(photo) for _, photo in asked])
        started = time.perf_counter()
        seen = probe.run(images.contiguous(memory_format=torch.channels_last), change.gates)
        after = seen.after(model.gates)
        trunk_ms = (time.perf_counter() - started) * 1000
        for row, (question, photo) in enumerate(asked):
            mine = found[row]
            if isinstance(mine, Exception):
                continue
            started = time.perf_counter()
            gates = tuple(
                _gate(model, name, seen.maps[name][row], seen.steps[name], row, change)
                for name in names
            )
            before, behind = seen.before[row].numpy(), after[row].numpy()
            try:
                numbers = question.channels or _picked(question, gates, behind)
                channels = tuple(
                    _channel(number, before, behind, seen.steps.values()) for number in numbers
                )
            except UnknownName as error:
                found[row] = error
                continue
            mine.append(
                Features(
                    model.card.name,
                    photo,
                    model.card.preprocess.view(*photo.size),
                    block,
                    gates,
                    channels,
                    len(before),
                    dict(change.said),
                    {"trunk": trunk_ms, "head": (time.perf_counter() - started) * 1000},
                )
            )
    return found


def _gate(
    model: Probed, name: str, values: Tensor, steps: Steps | None, row: int, change: Changes
) -> GateSeen:
    kind = model.gates[name].kind
    gate = GateMap.of(kind, values.float().numpy())
    judgement = None if name in change.gates else judge(gate, model.card, name)
    if steps is None:
        return GateSeen(name, gate, judgement, {}, 0.0, {}, 1)
    window = {} if steps.window is None else dict(zip(steps.paths, steps.window, strict=True))

    def along(values: Tensor) -> Floats:
        return GateMap.of(kind, values[row].float().numpy()).values

    paths = {
        name: PathSeen(
            along(path.pooled),
            along(path.logits),
            None if path.hidden is None else path.hidden[row].numpy(),
        )
        for name, path in steps.paths.items()
    }
    windows = {name: weights.detach().numpy() for name, weights in window.items()}
    return GateSeen(name, gate, judgement, paths, steps.bias, windows, steps.dilation)


def _picked(question: FeatureQuestion, gates: Sequence[GateSeen], after: Floats) -> tuple[int, ...]:
    """The channels that `pick` names, the first one first."""
    strength = np.abs(after).mean(axis=(1, 2))
    order = -strength
    if question.pick != "strongest":
        through = _through([each.map for each in gates], len(after))
        order = -through if question.pick == "open" else through
    # Equally open ones: the stronger goes first.
    return tuple(int(each) for each in np.lexsort((-strength, order))[: question.count])


def _through(gates: Sequence[GateMap], count: int) -> Floats:
    """How much of each channel (C,) the gates let through, on average over places."""
    found = np.ones(count, np.float32)
    for gate in gates:
        vector = gate.vector
        if vector is None:
            continue
        if gate.kind.use == "multiplied":
            found = found * vector
        elif gate.kind.use == "added":
            found = found + vector
    return found


def _channel(
    number: int, before: Floats, after: Floats, steps: Iterable[Steps | None]
) -> ChannelSeen:
    """Raises UnknownName."""
    if number >= len(before):
        raise UnknownName.of("channel", number, [f"0 to {len(before) - 1}"])
    for each in steps:
        if each is not None and each.weights is not None and each.weights_bias is not None:
            weights = each.weights[number].detach().numpy()
            bias = float(each.weights_bias[number])
            return ChannelSeen(number, before[number], after[number], weights, bias)
    return ChannelSeen(number, before[number], after[number])


def look(question: FeatureQuestion, photo: Image.Image) -> list[Features]:
    """Every model's features for a photo (upright RGB). Raises UnknownName."""
    (found,) = look_many([(question, photo)])
    if isinstance(found, Exception):
        raise found
    return found
