"""Change what gates say: a cut network whose gates are told, the rest computed as ever.

This intervenes in a trained network without retraining it. Later gates see the features that a
changed one let through. A network is traced once with a place between every gate and its owner,
where `keep * map + given` is computed; what to keep and to give are inputs. So another change needs
no new trace, and as in `cut.py`, nothing is stored on a module.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from cbam.attention import Gate
from cbam.errors import UnknownName
from cbam.trace.cut import Between, Cut, cut_at


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float32)


@dataclass(frozen=True, eq=False)
class Change:
    """A gate's owner gets `keep * map + given` in place of the gate's own map.

    Both numbers may vary: they fit one photo's map (C, h, w), or those of a batch (N, C, h, w).
    `paths` are weights of the gate's paths, in their order; empty: each counts as ever.
    """

    keep: Tensor = field(default_factory=lambda: _number(1.0))
    given: Tensor = field(default_factory=lambda: _number(0.0))
    paths: tuple[float, ...] = ()

    @classmethod
    def held(cls, value: Tensor | float) -> "Change":
        """It says this, whatever the photo: a number, or a map of a shape that fits."""
        return cls(_number(0.0), value if isinstance(value, Tensor) else _number(value))

    @classmethod
    def strength(cls, share: float, open_value: float) -> "Change":
        """It works at a share of its strength: 1 is its own map, 0 leaves all features as they are.

        `open_value` is the value that does so: 1 for a gate that is multiplied.
        """
        return cls(_number(share), _number((1 - share) * open_value))

    @classmethod
    def path(cls, name: str, paths: Sequence[str]) -> "Change":
        """One of its paths decides alone."""
        return cls(paths=tuple(float(each == name) for each in paths))

    @classmethod
    def painted(cls, values: Tensor) -> "Change":
        """It says these values, and its own where they are NaN."""
        own = values.isnan()
        return cls(own.float(), values.masked_fill(own, 0.0))

    def but(self, where: Tensor, other: "Change") -> "Change":
        """This change, and where the mask is true the other one."""
        keep = torch.where(where, other.keep, self.keep)
        return replace(self, keep=keep, given=torch.where(where, other.given, self.given))

    def inputs(self, paths: Sequence[str]) -> tuple[Tensor, ...]:
        """What the traced network takes for a gate with these paths."""
        weights = (torch.tensor(self.paths or [1.0] * len(paths)),) if paths else ()
        return self.keep, self.given, *weights


UNCHANGED = Change()


def _between(gate: Gate, values: Sequence[Any], *features: Any) -> Any:
    keep, given, *weights = values
    own = gate.weighed(*features, *weights) if weights else gate.forward(*features)
    return own * keep + given


def _inputs(gate: Gate) -> tuple[str, ...]:
    return ("keep", "given", "paths") if gate.paths else ("keep", "given")


CHANGEABLE = Between(_inputs, _between)


def changeable(network: nn.Module, layer: str | Sequence[str]) -> Cut:
    """The network cut as by `cut_at`, for `changed`: every gate can be told what to say.

    Its trunk and its head cannot run without that. Raises UnknownName, CannotCut.
    """
    return cut_at(network, layer, CHANGEABLE)


def full_values(cut: Cut, images: Tensor) -> list[Tensor]:
    """What the trunk of a `changeable` cut takes after the images to change nothing.

    Each in full, for the first of the images (N, 3, H, W): (1, C, h, w) as the gate's map, and
    (paths,).
    """
    _, maps = changed(cut, {}).run_trunk(images[:1])
    found: list[Tensor] = []
    for name in cut.trunk_gates:
        _, _, *weights = UNCHANGED.inputs(cut.places[name].paths)
        found += [torch.ones_like(maps[name]), torch.zeros_like(maps[name]), *weights]
    return found


def is_told(cut: Cut) -> bool:
    """Whether its gates have been told what to say, as `changed` does; then it can be done anew."""
    return isinstance(cut.trunk, _Told)


def changed(cut: Cut, changes: Mapping[str, Change]) -> Cut:
    """A cut that `changeable` made, with these changes; the gates that they leave out stay.

    It is used as any other cut, and can be changed again: these changes go then. Its gate maps are
    those that the owners got. Raises UnknownName for a gate that the network does not have.
    """
    for name in changes:
        if name not in cut.places:
            raise UnknownName.of("gate", name, cut.places)

    def values(gates: Sequence[str]) -> list[Tensor]:
        return [
            value
            for name in gates
            for value in changes.get(name, UNCHANGED).inputs(cut.places[name].paths)
        ]

    return replace(
        cut,
        trunk=_Told(_untold(cut.trunk), values(cut.trunk_gates)),
        head=_Told(_untold(cut.head), values(cut.head_gates)),
        passed=tuple(changed(each, changes) for each in cut.passed),
    )


class _Told(nn.Module):
    """A trunk or a head that is given what its gates are to say."""

    def __init__(self, part: Callable[..., tuple[Any, ...]], values: Sequence[Tensor]) -> None:
        super().__init__()
        self.part, self.values = part, values

    def forward(self, x: Tensor) -> tuple[Any, ...]:
        return self.part(x, *self.values)


def _untold(part: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    return part.part if isinstance(part, _Told) else part
