"""`python -m benchmarks`: the table of ratios beside the peers."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console

from benchmarks import maps, memory, methods, service
from benchmarks.machine import facts
from benchmarks.subjects import Plan
from benchmarks.table import SECTIONS, Report, Row
from cbam.errors import UnknownName

app = typer.Typer(pretty_exceptions_enable=False)

MEASURES: dict[str, Callable[[Plan], Iterator[Row]]] = {
    module.SECTION: module.measure for module in (maps, methods, service, memory)
}


def chosen(only: str) -> list[str]:
    """`peers,memory` -> those sections, in the table's order; empty: all. Raises UnknownName."""
    names = [name for each in only.split(",") if (name := each.strip())]
    for name in names:
        if name not in SECTIONS:
            raise UnknownName.of("section of the benchmark", name, SECTIONS)
    return [name for name in SECTIONS if not names or name in names]


@app.command()
def bench(
    only: Annotated[
        str, typer.Option(help="sections, comma-separated: peers,methods,service,memory")
    ] = "",
    quick: Annotated[
        bool, typer.Option("--quick", help="tiny networks: whether it runs, not how fast")
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="what takes minutes for one number, too")
    ] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="print Markdown")] = False,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("-o", "--output", help="Markdown file to write; JSON goes beside it"),
    ] = None,
) -> None:
    """Measure CBAM Lens beside its peers: every row a ratio from one run. Extra: bench.

    Exit status 1 if something failed. A missed target is a result, not a failure.
    """
    plan = replace(Plan.quick() if quick else Plan(), full=full)
    aside = Console(stderr=True, highlight=False)
    where = facts()  # first: its load is not of our making
    if plan.tiny:
        where["size"] = "tiny networks, few rounds: the numbers only show that everything ran"
    rows: list[Row] = []
    for section in chosen(only):
        for row in MEASURES[section](plan):
            rows.append(row)
            aside.print("  ".join(row.cells()[:3]), markup=False, soft_wrap=True)
    report = Report(where, rows)
    if output is not None:
        output.write_text(report.to_markdown(), encoding="utf-8")
        output.with_suffix(".json").write_text(report.to_json(), encoding="utf-8")
        aside.print(f"wrote {output} and {output.with_suffix('.json')}")
    if markdown or output is None:
        print(report.to_markdown())  # noqa: T201
    if report.failed:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
