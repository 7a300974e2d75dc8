"""What `train` and `evaluate` do with detectors."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import typer

from app.cli.shared import SOME_UNREAD, check_folder, note, report_unread, say, show_table
from cbam.cards.detector import DetectorCard, write_detector_card
from cbam.data.boxed import boxed_photos
from cbam.data.labelled import Unread
from cbam.detector import find_detector, open_detector
from cbam.errors import CannotWrite, NotAvailable, OptionClash, UnknownName
from cbam.evaluate.detection import Measured, Precision, against, measure_detector
from cbam.evaluate.recall_curves import curve_data, curve_picture

CURVES = (".svg", ".json")


def train_detectors(
    recipe: Path, data: Path, attention: list[str] | None, runs: Path, models: Path, workers: int
) -> None:
    """Train a family of detectors; `data` is one of the data sets that `boxed_photos` reads."""
    from cbam.training.detection import classifier_of, train_detector, write_detector
    from cbam.training.detector_recipe import is_whole_recipe, read_detector_recipe

    if is_whole_recipe(recipe):
        _train_whole(recipe, data, attention, runs, models, workers)
        return
    plan = read_detector_recipe(recipe)
    members = attention or [*plan.classifiers]
    backbones = {each: classifier_of(plan, each, models).backbone for each in members}
    photos = boxed_photos(data, plan.labels, partly=plan.partly)
    for folder in (runs, models):
        check_folder(folder, create=True)
    unread: dict[str, Unread] = {}
    for member in members:
        run = runs / plan.model_name(backbones[member], member)
        trained = train_detector(plan, member, photos, models, run, say=note)
        card = write_detector(plan, member, trained.weights, models, recipe.name)
        say(f"wrote {card.folder}")
        unread |= {name: Unread(name, "it cannot be read") for name in trained.unread}
    _end(unread)


def _train_whole(
    recipe: Path, data: Path, attention: list[str] | None, runs: Path, models: Path, workers: int
) -> None:
    """The same for detectors that are trained as a whole."""
    from cbam.training.detector_recipe import read_whole_recipe

    try:
        from cbam.training.whole_detector import train_whole, write_whole
    except ImportError as error:
        raise NotAvailable.extra("Training", "train", error.name) from error
    plan = read_whole_recipe(recipe)
    members = attention or plan.attention
    for member in members:
        if member not in plan.attention:
            raise UnknownName.of(f"member of {recipe}", member, plan.attention)
    photos = boxed_photos(data, plan.labels, partly=plan.partly)
    for folder in (runs, models):
        check_folder(folder, create=True)
    unread: dict[str, Unread] = {}
    for member in members:
        run = runs / plan.model_name(member)
        trained = train_whole(plan, member, photos, models, run, workers, say=note)
        card = write_whole(plan, member, trained.weights, models, recipe.name)
        say(f"wrote {card.folder}")
        unread |= {name: Unread(name, "it cannot be read") for name in trained.unread}
    _end(unread)


def _end(unread: Mapping[str, Unread]) -> None:
    """Say which photos were left out, and end with the status for that, if there are some."""
    if unread:
        report_unread([*unread.values()])
        raise typer.Exit(SOME_UNREAD)


def evaluate_detectors(
    names: list[str],
    boxed: Path | None,
    boxes: Path | None,
    write: bool,
    output: Path | None = None,
) -> None:
    """Measure detectors of one family on the same photos; on the cards with `write`.

    `output`: a file for their curves of precision against recall, .svg or .json.
    """
    if output is not None:
        if output.suffix not in CURVES:
            raise OptionClash(f"{output} is neither .svg nor .json: name one of these.")
        check_folder(output.parent)
    found = {name: find_detector(name) for name in names}
    if wrong := [name for name, card in found.items() if card is None]:
        raise OptionClash(f"Measure detectors apart from classifiers: {', '.join(wrong)}.")
    cards: list[DetectorCard] = [card for card in found.values() if card]
    if boxed is None:
        raise OptionClash("Detectors are measured on --boxed: name a parquet file of photos.")
    if any(card.labels != cards[0].labels for card in cards):
        raise OptionClash("These detectors know different classes. Measure one family at a time.")
    photos = boxed_photos(boxed, cards[0].labels, boxes)
    if write:
        for card in cards:
            check_folder(card.folder)
    rows: dict[str, dict[str, str]] = {}
    done: dict[str, Measured] = {}  # by attention
    curves: dict[str, Precision] = {}
    for card in cards:
        measured = measure_detector(open_detector(card), photos)
        metrics = {**measured.metrics, **against(measured, done)}
        done[card.attention] = measured
        curves[card.name] = measured.precision
        for data_set, values in metrics.items():
            for measure, value in values.items():
                if measure not in ("command", "what"):
                    rows.setdefault(f"{data_set} {measure}", {})[card.name] = _shown(value)
        if write:
            write_detector_card(replace(card, metrics={**card.metrics, **metrics}))
    names = [card.name for card in cards]
    show_table(
        ("measure", *names),
        [(title, *(cells.get(name, "") for name in names)) for title, cells in rows.items()],
    )
    if output is not None:
        _write_curves(curves, output)
    if unread := next(iter(done.values())).unread:  # all saw the same photos
        report_unread(unread)
        raise typer.Exit(SOME_UNREAD)


def _write_curves(curves: dict[str, Precision], path: Path) -> None:
    """Write curves as data or as a picture. Raises CannotWrite."""
    data = curve_data(curves)
    text = json.dumps(data) + "\n" if path.suffix == ".json" else curve_picture(data)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CannotWrite(f"'{path}' could not be written: {error.strerror}.") from error
    note(f"wrote {path}")


def _shown(value: object) -> str:
    """A measure in a cell of the table."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    return str(value)
