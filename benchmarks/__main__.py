"""`python -m benchmarks`: the table of ratios beside the peers."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console

from benchmarks.run import MEASURES, chosen, run
from benchmarks.subjects import Plan

app = typer.Typer(pretty_exceptions_enable=False)


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
    plan = Plan.quick() if quick else Plan()
    aside = Console(stderr=True, highlight=False)
    report = run(
        replace(plan, full=full),
        {name: MEASURES[name] for name in chosen(only)},
        lambda row: aside.print("  ".join(row.cells()[:3]), markup=False, soft_wrap=True),
    )
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
