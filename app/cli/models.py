"""`cbam-lens models`: what models there are, and a model's card."""

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.table import Table

from app.cli.shared import console
from cbam.cards.families import available, by_family
from cbam.model import load

models_app = typer.Typer(help="What models there are.", no_args_is_help=True)

# Column title -> where the number stands on a card.
MEASURES = {
    "top-1": ("val", "top1"),
    "top-5": ("val", "top5"),
    "calibration error": ("val", "calibration_error"),
    "pointing game": ("boxed", "pointing_game"),
    "energy in box": ("boxed", "energy_in_box"),
    "box IoU": ("boxed", "box_iou"),
}


@models_app.command("list")
def list_models(
    markdown: Annotated[bool, typer.Option("--markdown", help="as the README shows it")] = False,
) -> None:
    """All bundled models with their measured results, one line each."""
    rows: list[list[str]] = []
    cards = available()
    for names in by_family(cards).values():
        members = [cards[name] for name in names]
        for card in members:
            classes = str(len(card.labels))
            rows.append([card.name, card.attention, classes, *_measured(card.metrics)])
        # A baseline that never sees the photo, on the same boxes.
        blind = {"boxed": members[0].metrics.get("boxed_baseline", {})}
        rows.append(["centre, uniform map, whole view", "", "", *_measured(blind, "")])
    titles = ["model", "attention", "classes", *MEASURES]
    if markdown:
        for row in (titles, ["---"] * len(titles), *rows):
            print("| " + " | ".join(row) + " |")  # noqa: T201
        return
    table = Table(*titles)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _measured(metrics: dict[str, dict[str, Any]], absent: str = "not measured") -> list[str]:
    """A card's numbers in percent, in the order of MEASURES."""
    values = (metrics.get(data, {}).get(name) for data, name in MEASURES.values())
    return [absent if value is None else f"{value:.1%}" for value in values]


@models_app.command("show")
def show_model(name: str) -> None:
    """A model's card."""
    model = load(name)
    card = {key: value for key, value in asdict(model.card).items() if key != "folder"}
    extra = {"parameters": model.parameters, "layers": model.layers}
    console.print_json(json.dumps({**card, **extra}, default=str))
