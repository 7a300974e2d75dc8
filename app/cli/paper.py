"""`cbam-lens paper`: the paper's tables, counted anew."""

import json
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from app.cli.shared import console
from cbam.errors import OptionClash


def paper(
    as_json: Annotated[bool, typer.Option("--json", help="as the page reads it")] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="as the documentation shows it")
    ] = False,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("-o", "--output", help="file to write: .json or .md"),
    ] = None,
) -> None:
    """Count parameters and multiply-adds of the paper's systems beside what it prints.

    Nothing is trained: the errors are the paper's. A star marks a count that does not agree.
    """
    from cbam import paper as tables

    if as_json and as_markdown:
        raise OptionClash("--json and --markdown exclude each other: choose one.")
    if output is not None and output.suffix not in (".json", ".md"):
        raise OptionClash(f"{output} is neither .json nor .md: name one of these.")
    if as_json or (output and output.suffix == ".json" and not as_markdown):
        text = json.dumps(tables.as_json(), indent=1) + "\n"
    elif as_markdown or output:
        text = tables.as_markdown()
    else:
        _print()
        return
    if output is None:
        print(text, end="")  # noqa: T201
    else:
        output.write_text(text, encoding="utf-8")
        console.print(f"wrote {output}")


def _print() -> None:
    from cbam import paper as tables

    titles = ("table", "system", "params", "counted", "GFLOPs", "counted", "3x3", "top-1", "top-5")
    table = Table(*titles, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.columns[1].no_wrap = True
    for row in tables.ROWS:
        table.add_row(str(row.table), row.system, *tables.cells(tables.counted(row)))
    console.print(table)
    for note in dict.fromkeys(row.note for row in tables.ROWS if row.note):
        console.print(f"* {note}", highlight=False)
    for where, said in tables.CONVENTIONS.items():
        console.print(f"stride in {where}: {said}", highlight=False)
