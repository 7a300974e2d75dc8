"""`cbam-lens paper`: the paper's tables, counted anew."""

import json
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from app.cli.shared import note, say, show_table, show_text
from cbam.errors import CannotWrite, OptionClash

ABLATION = Path("recipes/ablation-small.jsonl")  # in a checkout: the one that was run


def paper(
    as_json: Annotated[bool, typer.Option("--json", help="as the page reads it")] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="as the documentation shows it")
    ] = False,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("-o", "--output", help="file to write: .json or .md"),
    ] = None,
    ablation: Annotated[
        Path,
        typer.Option(
            help="what `ablate` wrote, for the JSON; its recipe lies beside it, as .toml",
        ),
    ] = ABLATION,
) -> None:
    """Count parameters and multiply-adds of the paper's systems beside what it prints.

    Nothing is trained: errors and precisions are the paper's. A star marks a count that does not
    agree. The JSON has the results of an ablation, too, if there are some.
    """
    from cbam import paper as tables

    if as_json and as_markdown:
        raise OptionClash("--json and --markdown exclude each other: choose one.")
    if output is not None and output.suffix not in (".json", ".md"):
        raise OptionClash(f"{output} is neither .json nor .md: name one of these.")
    if as_json or (output and output.suffix == ".json" and not as_markdown):
        text = json.dumps({**tables.as_json(), **_ablated(ablation)}, indent=1) + "\n"
    elif as_markdown or output:
        text = tables.as_markdown()
    else:
        _print()
        return
    if output is None:
        show_text(text)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CannotWrite(f"{output} cannot be written: {error.strerror}.") from error
    note(f"wrote {output}")


def _ablated(results: Path) -> dict[str, Any]:
    """The results of an ablation for the page; nothing if the usual file is not there.

    Raises MissingFile, BadRecipe.
    """
    from cbam.training.ablation_study import as_json, latest, read_ablation

    if results == ABLATION and not results.is_file():
        return {}
    runs = latest(results)
    recipe = results.with_suffix(".toml")
    command = f"cbam-lens ablate {recipe.as_posix()} --results {results.as_posix()} --summary"
    return {"ablation": as_json(read_ablation(recipe), runs, command)}


def _print() -> None:
    from cbam import paper as tables

    titles = ("table", "system", "params", "counted", "GFLOPs", "counted", "3x3", "top-1", "top-5")
    show_table(
        titles,
        [(row.table, row.system, *tables.cells(tables.counted(row))) for row in tables.ROWS],
    )
    for remark in dict.fromkeys(row.note for row in tables.ROWS if row.note):
        say(f"* {remark}")
    for where, said in tables.CONVENTIONS.items():
        say(f"stride in {where}: {said}")
    show_table(
        ("table", "detector", "params", "counted", "mAP@.5", "mAP@.75", "mAP@[.5, .95]"),
        [(row.table, row.system, *tables.detection_cells(row)) for row in tables.DETECTION_ROWS],
    )
    for table, remark in tables.DETECTION_NOTES.items():
        say(f"table {table}: {remark}")
