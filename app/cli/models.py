"""`cbam-lens models`: what models there are, and a model's card."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Optional

import typer

from app.cli.shared import say, show_json, show_table
from cbam.cards.card import Card
from cbam.cards.detector import DetectorCard
from cbam.cards.families import available, by_family, detectors
from cbam.detector import load
from cbam.errors import UnknownName, look_up
from cbam.evaluate.faithfulness_metrics import FAITHFULNESS
from cbam.evaluate.held_gates import SINGLE_WAYS
from cbam.model import find_card

models_app = typer.Typer(help="What models there are.", no_args_is_help=True, rich_markup_mode=None)

BOXED = "boxed"  # how a card's numbers from photos with boxes begin
# Column title -> where the number stands on a card.
MEASURES = {
    "top-1": ("val", "top1"),
    "top-5": ("val", "top5"),
    "calibration error": ("val", "calibration_error"),
    "pointing game": (BOXED, "pointing_game"),
    "energy in box": (BOXED, "energy_in_box"),
    "box IoU": (BOXED, "box_iou"),
}
LOCATED = {name: title for title, (data, name) in MEASURES.items() if data == BOXED}
AGAINST = "against_"  # how a detector's differences from others begin
Table = tuple[list[str], list[list[str]]]  # titles, rows
# Column title -> where a detector's number stands on its card.
FINDS = {
    "mAP@.5": ("boxes", "map50"),
    "mAP@.75": ("boxes", "map75"),
    "mAP@.5:.95": ("boxes", "map50_95"),
    "energy in box": ("heat_maps", "energy_in_box"),
    "if even": ("heat_maps", "energy_uniform"),
    "if all in its cells": ("heat_maps", "energy_of_box"),
}


@models_app.command("list")
def list_models(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="classifiers alone, as docs/models.md shows them")
    ] = False,
) -> None:
    """All bundled models with their measured results, one line each; detectors last."""
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
    _print(titles, rows, markdown)
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
    _print(*look_up("table", table, DETECTOR_TABLES)([*detectors().values()]), markdown)


def _print(titles: list[str], rows: list[list[str]], markdown: bool) -> None:
    """A table, as Markdown or for the terminal."""
    if markdown:
        for row in (titles, ["---"] * len(titles), *rows):
            say("| " + " | ".join(row) + " |")
        return
    show_table(titles, rows)


ON_PHOTOS = ("model", "data", "photos")
Markdown = Annotated[bool, typer.Option("--markdown", help="as docs/models.md shows it")]


@dataclass(frozen=True)
class _OnPhotos:
    """A card's numbers of one measure on one set of photos."""

    card: Card
    data: str  # the set's name; empty: the validation photos
    values: Mapping[str, Any]

    @property
    def cells(self) -> list[str]:
        """A row's beginning, under ON_PHOTOS."""
        return [self.card.name, self.data or "validation", f"{self.values['photos']:,}"]

    def beside(self, measure: str) -> Mapping[str, Any]:
        """Another measure's numbers on the same photos; empty: there are none."""
        name = f"{measure}_{self.data}" if self.data else measure
        found: Mapping[str, Any] = self.card.metrics.get(name, {})
        return found


def _on_photos(measure: str) -> Iterator[_OnPhotos]:
    """Every card's numbers under this name and, on other photos, with theirs behind it."""
    for card in available().values():
        for key, values in card.metrics.items():
            if key.startswith(measure) and "photos" in values:
                yield _OnPhotos(card, key.removeprefix(measure).strip("_"), values)


@models_app.command("boxes")
def list_boxes(
    markdown: Markdown = False,
) -> None:
    """Where heat maps point, and by how much that is better than a baseline that sees no photo."""
    rows: list[list[str]] = []
    for found in _on_photos(BOXED):
        if against := found.beside(f"{BOXED}_against_baseline"):
            values = found.values
            cells = [f"{values[name]:.1%}: {_change(against[name])}" for name in LOCATED]
            rows.append([*found.cells, *cells])
    _print([*ON_PHOTOS, *LOCATED.values()], rows, markdown)


def _detectors(cards: Sequence[DetectorCard]) -> Table:
    rows = [[card.name, card.title, *_measured(card.metrics, measures=FINDS)] for card in cards]
    return ["detector", "what it is", *FINDS], rows


def _found_classes(cards: Sequence[DetectorCard]) -> Table:
    """Class by class, and by the objects' size."""
    measured = [card for card in cards if "boxes" in card.metrics]
    found = [card.metrics["boxes"] for card in measured]
    rows: list[list[str]] = []
    for key, measure in (("ap50", "AP@.5"), ("map_by_size", "mAP@.5:.95")):
        for name in dict.fromkeys(name for each in found for name in each[key]):
            values = (each[key].get(name) for each in found)
            count = found[0]["objects_by_size"][name] if key == "map_by_size" else ""
            shown = ["no object" if value is None else f"{value:.1%}" for value in values]
            rows.append([f"{name}, {count:,} objects" if count else name, measure, *shown])
    return ["of", "measure", *(card.name for card in measured)], rows


def _differences(cards: Sequence[DetectorCard]) -> Table:
    """How much higher each one's mAP@.5 is than others', with 95 % bootstrap intervals."""
    rows = [
        [card.name, key.removeprefix(AGAINST), _change(values["map50"])]
        for card in cards
        for key, values in card.metrics.items()
        if key.startswith(AGAINST)
    ]
    return ["detector", "against", "points of mAP@.5"], rows


DETECTOR_TABLES = {"all": _detectors, "classes": _found_classes, "differences": _differences}
# Measure of `evaluate --boxed` -> its heading.
ANALYSIS = {
    "target_probability": "P(class)",
    "pointing_game": "pointing game",
    "energy_in_box": "energy in box",
    "box_iou": "IoU above 15 %",
    "box_iou_30": "30 %",
    "box_iou_50": "50 %",
    "box_iou_70": "70 %",
}


@models_app.command("analysis")
def list_analysis(
    markdown: Markdown = False,
) -> None:
    """Grad-CAM against boxes, and how much each member of a family differs from the plain one."""
    rows: list[list[str]] = []
    for found in _on_photos(BOXED):
        if "target_probability" not in found.values:
            continue
        plain = found.beside("against_none")
        cells = [
            f"{found.values[name]:.1%}" + (f": {_change(plain[name])}" if name in plain else "")
            for name in ANALYSIS
        ]
        rows.append([*found.cells, *cells])
    _print([*ON_PHOTOS, *ANALYSIS.values()], rows, markdown)


@models_app.command("faithfulness")
def list_faithfulness(
    markdown: Markdown = False,
) -> None:
    """Whether answers depend on what the maps show, beside random orders and the centre."""
    rows: list[list[str]] = []
    for found in _on_photos(FAITHFULNESS):
        values = found.values
        if "steps" not in values:
            continue  # of another measure, or a comparison
        cells = found.cells
        for way in ("deletion", "insertion"):
            cells.append(f"{values[way]:.3f}")
            for other in ("random", "centre"):
                cells.append(_change(found.beside(f"{FAITHFULNESS}_against_{other}")[way]))
        cells += [f"{values[name]:.1%}" for name in ("average_drop", "increase")]
        rows.append([*cells, f"{values['road']:+.3f}"])
    titles = [*ON_PHOTOS]
    for way in ("deletion", "insertion"):
        titles += [way, "against random", "against the centre"]
    _print([*titles, "average drop", "increase", "ROAD"], rows, markdown)


# What was done to the gates -> its heading.
HELD = {"mean": "at their mean", "number": "at one number", "open": "open"}


@models_app.command("gates")
def list_gates(
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(help="a model, for each of its gates; by default all models in short"),
    ] = None,
    markdown: Markdown = False,
) -> None:
    """What the gates are for: how accuracy changes when they no longer answer the photo."""
    if name is None:
        _print(*_held_gates(available()), markdown)
    else:
        _print(*_single_gates(find_card(name)), markdown)


# Column title -> where the number stands on a card, and how it is written.
TRUST = {
    "temperature": ("calibration", "temperature", ".2f"),
    "calibration error before": ("calibration", "before", ".1%"),
    "after": ("calibration", "after", ".1%"),
    "AUC, own photos against others": ("none_of_these", "auc", ".2f"),
    "own photos flagged": ("none_of_these", "own_flagged", ".1%"),
    "others flagged": ("none_of_these", "others_flagged", ".1%"),
}


@models_app.command("trust")
def list_trust(
    markdown: Markdown = False,
) -> None:
    """How far probabilities can be trusted, and how often photos of other things are noticed."""
    rows = [
        [
            card.name,
            *(
                "not measured"
                if (found := card.metrics.get(data, {}).get(name)) is None
                else format(found, style)
                for data, name, style in TRUST.values()
            ),
        ]
        for card in available().values()
    ]
    _print(["model", *TRUST], rows, markdown)


def _held_gates(cards: Mapping[str, Card]) -> Table:
    """A row for each kind of gates that was held."""
    rows: list[list[str]] = []
    for card in cards.values():
        measured = card.metrics.get("gates", {})
        for gates, values in measured.items():
            if isinstance(values, dict):
                changes = [_change(values.get(way)) for way in HELD]
                photos = f"{measured['photos']:,}"
                rows.append([card.name, gates, photos, f"{measured['top1']:.1%}", *changes])
    return ["model", "gates", "photos", "as it is", *HELD.values()], rows


def _single_gates(card: Card) -> Table:
    """A row for each gate of a model; without changes of accuracy if they were not measured."""
    rows: list[list[str]] = []
    held = card.metrics.get("gates_one_by_one", {})
    for gate, values in card.metrics.get("gate_values", {}).items():
        if not isinstance(values, dict):
            continue
        spread = [f"{values[key]:.3f}" for key in ("mean", "over_photos", "within_photo")]
        shares = [f"{values[key]:.0%}" for key in ("saturated", "dead")]
        box = [f"{values[key]:.2f}" if key in values else "" for key in ("inside_box", "centre")]
        changes = [_change(held[gate].get(way)) for way in SINGLE_WAYS] if gate in held else []
        rows.append([gate, *spread, *shares, *box, *changes])
    titles = ["gate", "mean", "over photos", "within a photo", "saturated", "dead"]
    changes = ["at its mean", "open"] if held else []
    return [*titles, "inside boxes", "centre", *changes], rows


def _change(triple: Sequence[float] | None) -> str:
    """A difference in points with its interval."""
    if triple is None:
        return "not measured"
    change, low, high = (f"{value * 100:+.1f}" for value in triple)
    return f"{change} ({low} to {high})"


def _measured(
    metrics: dict[str, dict[str, Any]],
    absent: str = "not measured",
    measures: Mapping[str, tuple[str, str]] = MEASURES,
) -> list[str]:
    """A card's numbers in percent, in the order of `measures`."""
    values = (metrics.get(data, {}).get(name) for data, name in measures.values())
    return [absent if value is None else f"{value:.1%}" for value in values]


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
