"""Contestants that run in turn, round by round, so that what else the machine does hits all."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks.table import Row, Side, Target

Run = Callable[[], object]
Clock = Callable[[], float]  # seconds

MIN_ROUNDS = 3


@dataclass(frozen=True)
class Race:
    """What a race measured. A name is either in `ms` or, with the reason, in `missing`."""

    section: str
    ms: Mapping[str, tuple[float, ...]]  # by contestant, a value a round
    outputs: Mapping[str, object]  # what each returned when it ran first
    missing: Mapping[str, str] = field(default_factory=dict)

    def row(
        self,
        what: str,
        upper: str,
        lower: str,
        target: Target | None = None,
        difference: float | None = None,
    ) -> Row:
        """`upper` / `lower` of this race; missing if one of them is."""
        sides = [Side(name, self.ms.get(name, ())) for name in (upper, lower)]
        reason = self.missing.get(upper) or self.missing.get(lower) or ""
        return Row(self.section, what, sides[0], sides[1], target, difference, reason)


def race(
    section: str,
    contestants: Mapping[str, Run],
    rounds: int,
    limit_s: float = float("inf"),
    *,
    missing: Mapping[str, str] | None = None,
    clock: Clock = time.perf_counter,
) -> Race:
    """Run all contestants `rounds` times, in a new order each time.

    Before that each runs once untimed, unless there is just one round: then it is long, and is
    timed itself. After `limit_s` seconds no round is begun, except the first MIN_ROUNDS. Who raises
    is out, with the reason.
    """
    started = clock()
    outputs: dict[str, object] = {}
    first_ms: dict[str, float] = {}
    out = dict(missing or {})
    ms: dict[str, list[float]] = {}
    with _cheap_collections():
        for name, run in contestants.items():
            try:
                outputs[name], first_ms[name] = _timed(run, clock)
            except Exception as error:  # of code that isn't ours, in a run of minutes
                out[name] = f"failed: {type(error).__name__}: {error}"
        names = list(outputs)
        for number in range(rounds if rounds > 1 else 0):
            if number >= MIN_ROUNDS and clock() - started > limit_s:
                break
            turn = number % max(1, len(names))
            for name in names[turn:] + names[:turn]:
                ms.setdefault(name, []).append(_timed(contestants[name], clock)[1])
    if rounds == 1:
        ms = {name: [value] for name, value in first_ms.items()}
    return Race(section, {name: tuple(values) for name, values in ms.items()}, outputs, out)


@contextmanager
def _cheap_collections() -> Iterator[None]:
    """Have `gc.collect` leave alone what is there already: torch's objects alone take 0.2 s."""
    gc.freeze()
    try:
        yield
    finally:
        gc.collect()
        gc.unfreeze()


def _timed(run: Run, clock: Clock) -> tuple[object, float]:
    """What it returned, and the milliseconds that it took."""
    gc.collect()  # here, so that nobody pays for what others left
    started = clock()
    output = run()
    return output, (clock() - started) * 1000
