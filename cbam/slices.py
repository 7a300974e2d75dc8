"""Long work in slices: whoever runs it may do something else between two of them.

Such work is a generator. It yields the share that is done, in [0, 1], and returns its result.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Generic, TypeVar

from cbam.undisturbed import undisturbed

T = TypeVar("T")
Work = Generator[float, None, T]


@dataclass(frozen=True, eq=False)
class Done(Generic[T]):
    """Work that has ended, and its result."""

    result: T


@undisturbed
def next_slice(work: Work[T]) -> float | Done[T]:
    """Do one slice: the share that is done, or Done with the result."""
    try:
        return next(work)
    except StopIteration as end:
        return Done(end.value)


def finished(work: Work[T]) -> T:
    """Do all slices, one after the other: the result."""
    while True:
        state = next_slice(work)
        if isinstance(state, Done):
            return state.result


def part(work: Work[T], start: float, end: float) -> Work[T]:
    """The same as a part of longer work: its share runs from `start` to `end`."""
    while True:
        state = next_slice(work)
        if isinstance(state, Done):
            result: T = state.result
            return result
        yield start + (end - start) * state
