"""`cbam-lens models`: what models there are, and a model's card."""

import json
from dataclasses import asdict
from typing import Annotated, Optional

import typer

from app import tables
from app.cli.shared import say, show_json, show_table
from cbam.cards.families import available, detectors
from cbam.detector import load
from cbam.errors import UnknownName, look_up
from cbam.model import find_card

models_app = typer.Typer(help="What models there are.", no_args_is_help=True, rich_markup_mode=None)


@models_app.command("list")
def list_models(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="classifiers alone, as docs/models.md shows them")
    ] = False,
) -> None:
    """All bundled models with their measured results, one line each; detectors last."""
    _print(tables.measured(available()), markdown)
    if not markdown and detectors():
        list_detectors()


@models_app.command("detectors")
def list_detectors(
    table: Annotated[
        str, typer.Argument(help="all; classes: each class and size; differences: of their mAP")
    ] = "all",
    markdown: Annotated[
        bool, typer.Option("--markdown", help="as docs/detection.md shows it")
    ] = False,
) -> None:
    """All bundled detectors: how well they find, and how much of a heat map lies in its box."""
    shown = look_up("table", table, tables.DETECTOR_TABLES)
    _print(shown([*detectors().values()]), markdown)


def _print(table: tables.Table, markdown: bool) -> None:
    """A table, as Markdown or for the terminal."""
    titles, rows = table
    if markdown:
        for row in (titles, ["---"] * len(titles), *rows):
            say("| " + " | ".join(row) + " |")
        return
    show_table(titles, rows)


Markdown = Annotated[bool, typer.Option("--markdown", help="as docs/models.md shows it")]


@models_app.command("boxes")
def list_boxes(
    markdown: Markdown = False,
) -> None:
    """Where heat maps point, and by how much that is better than a baseline that sees no photo."""
    _print(tables.boxes(available()), markdown)


@models_app.command("analysis")
def list_analysis(
    markdown: Markdown = False,
) -> None:
    """Grad-CAM against boxes, and how much each member of a family differs from the plain one."""
    _print(tables.analysis(available()), markdown)


@models_app.command("faithfulness")
def list_faithfulness(
    markdown: Markdown = False,
) -> None:
    """Whether answers depend on what the maps show, beside random orders and the centre."""
    _print(tables.faithfulness(available()), markdown)


@models_app.command("gates")
def list_gates(
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(help="a model, for each of its gates; by default all models in short"),
    ] = None,
    markdown: Markdown = False,
) -> None:
    """What the gates are for: how accuracy changes when they no longer answer the photo."""
    found = tables.held_gates(available()) if name is None else tables.single_gates(find_card(name))
    _print(found, markdown)


@models_app.command("trust")
def list_trust(
    markdown: Markdown = False,
) -> None:
    """How far probabilities can be trusted, and how often photos of other things are noticed."""
    _print(tables.trust(available()), markdown)


@models_app.command("show")
def show_model(
    name: str,
    search: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="list the classes that this text may mean, instead of the card"),
    ] = None,
) -> None:
    """A model's card, or with --search the classes that it knows by some name."""
    if search is not None:
        found = find_card(name).search(search, None)
        if not found:
            raise UnknownName(f"'{name}' knows no class by '{search[:80]}'.")
        numbers = [
            f"{len(each.indices)} classes" if len(each.indices) > 1 else each.indices[0]
            for each in found
        ]
        show_table(
            ("target", "class", "folder", "also called"),
            [
                (each.target, number, each.folder, ", ".join(each.synonyms))
                for each, number in zip(found, numbers, strict=True)
            ],
        )
        return
    model = load(name)  # a classifier or a detector: both have what is shown
    card = {key: value for key, value in asdict(model.card).items() if key != "folder"}
    extra = {"parameters": model.parameters, "layers": model.layers}
    show_json(json.dumps({**card, **extra}, default=str, indent=2, ensure_ascii=False))
