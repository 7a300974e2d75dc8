"""From a plan and the names of sections to the table."""

from collections.abc import Callable, Iterator, Mapping

from benchmarks import maps, memory, methods, service
from benchmarks.machine import facts
from benchmarks.subjects import Plan
from benchmarks.table import SECTIONS, Report, Row
from cbam.errors import UnknownName

Measure = Callable[[Plan], Iterator[Row]]

MEASURES: dict[str, Measure] = {
    maps.SECTION: maps.measure,
    methods.SECTION: methods.measure,
    service.SECTION: service.measure,
    memory.SECTION: memory.measure,
}


def chosen(only: str) -> list[str]:
    """`peers,memory` -> those sections, in the table's order; empty: all. Raises UnknownName."""
    names = [name for each in only.split(",") if (name := each.strip())]
    for name in names:
        if name not in SECTIONS:
            raise UnknownName.of("section of the benchmark", name, SECTIONS)
    return [name for name in SECTIONS if not names or name in names]


def run(
    plan: Plan, measures: Mapping[str, Measure], on_row: Callable[[Row], None] = lambda row: None
) -> Report:
    """Measure section after section; `on_row` hears of every row as it comes."""
    where = facts()  # first: its load is not of our making
    if plan.tiny:
        where["size"] = "tiny networks, few rounds: the numbers only show that everything ran"
    rows: list[Row] = []
    for measure in measures.values():
        for row in measure(plan):
            rows.append(row)
            on_row(row)
    return Report(where, rows)
