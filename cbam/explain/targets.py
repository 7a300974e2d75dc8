"""Targets: what a heat map explains, as a function from a head's outputs to one number per image.

A class's logit is one target, and how far a class is ahead of others is another. The score of a
detector's box would be one, too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Target = Callable[[Any], Tensor]  # the outputs for N images -> (N,), differentiable


@dataclass(frozen=True)
class ClassLogit:
    """A class's logit: logits (N, classes) -> (N,)."""

    index: int

    def __call__(self, logits: Tensor) -> Tensor:
        return logits[:, self.index]


@dataclass(frozen=True)
class AnyOf:
    """The log of the summed probability of several classes: logits (N, classes) -> (N,).

    Of the plain softmax: maps are of the logits, so a card's temperature is not in them.
    """

    indices: tuple[int, ...]

    def __call__(self, logits: Tensor) -> Tensor:
        return logits.log_softmax(dim=1)[:, self.indices].logsumexp(dim=1)


@dataclass(frozen=True)
class Against:
    """What speaks against a target: its number with the other sign."""

    target: Target

    def __call__(self, outputs: Any) -> Tensor:
        return -self.target(outputs)


@dataclass(frozen=True)
class Ahead:
    """How far a class's logit is ahead of those of `others`: logits (N, classes) -> (N,).

    It is the mean of the differences, weighted by the others' probabilities; without others, the
    logit itself. Finer-CAM, Zhang et al. 2025, https://arxiv.org/abs/2501.11309, with alpha = 1 as
    in the grad-cam package.
    """

    index: int
    others: tuple[int, ...]

    def __call__(self, logits: Tensor) -> Tensor:
        if not self.others:
            return logits[:, self.index]
        share = logits.softmax(dim=1)[:, self.others]
        ahead = logits[:, self.index, None] - logits[:, self.others]
        return (share * ahead).sum(dim=1) / (share.sum(dim=1) + 1e-9)  # as in the package


@dataclass(frozen=True)
class LogitAndLogProbability:
    """A class's logit plus its log-probability, "ReST": logits (N, classes) -> (N,).

    Shapley-CAM, Cai 2025, https://arxiv.org/abs/2501.06261.
    """

    index: int

    def __call__(self, logits: Tensor) -> Tensor:
        return logits[:, self.index] + logits.log_softmax(dim=1)[:, self.index]


def rivals(logits: Tensor, index: int, count: int = 3) -> tuple[int, ...]:
    """The classes whose logits (classes,) are nearest to that of class `index`, nearest first."""
    distance = (logits.detach() - logits.detach()[index]).abs()
    distance[index] = -1
    nearest: Sequence[int] = distance.argsort(stable=True)[1 : count + 1].tolist()
    return tuple(nearest)
