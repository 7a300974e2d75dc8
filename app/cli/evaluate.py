"""`cbam-lens evaluate`: measure models."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Optional

import typer
from torch import Tensor

from app.cli.detectors import evaluate_detectors
from app.cli.shared import SOME_UNREAD, check_folder, note, report_unread, show_table
from cbam.cards.card import write_card
from cbam.data.labelled import Unread
from cbam.detector import find_detector
from cbam.errors import MissingFile, OptionClash
from cbam.evaluate.card_metrics import (
    GATES,
    Measured,
    against,
    beside,
    measure_gates,
    measure_held_gates,
    measure_model,
)
from cbam.evaluate.faithfulness_metrics import (
    FAITHFULNESS,
    faithfulness_against,
    measure_faithfulness,
)
from cbam.evaluate.held_gates import WAYS
from cbam.model import Model, find_card, load


def evaluate(
    names: Annotated[list[str], typer.Argument(help="names or card folders of models")],
    val: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="photos the models never saw: <class>/<photo>, or a parquet file"),
    ] = None,
    boxed: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="photos with object boxes: <class>/<photo>, or a parquet file"),
    ] = None,
    boxes: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="CSV with boxes, for folders of photos: file,x0,y0,x1,y1, relative"),
    ] = None,
    data: Annotated[
        str,
        typer.Option(help="a name for the photos, if the cards keep numbers from others, too"),
    ] = "",
    gates: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="photos to measure the gates' values on; --write stores their means"),
    ] = None,
    hold: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="photos to measure accuracy on with gates held and opened"),
    ] = None,
    faithfulness: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="photos to try the heat maps on: deletion, insertion, average drop, increase, "
            "ROAD, beside random orders and the centre"
        ),
    ] = None,
    photos: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=1, help="use so many of the --gates, --hold, --faithfulness photos; by default all"
        ),
    ] = None,
    way: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help=f"how --hold holds gates: {', '.join(WAYS)}; by default in all ways"),
    ] = None,
    one_by_one: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=0, help="hold each gate alone on so many of the --hold photos"),
    ] = None,
    runs: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="training runs: compare with their float32 weights"),
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="fit a temperature for the probabilities on --val")
    ] = False,
    others: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="photos of things that the models do not know, a folder or a parquet file: fit "
            "the threshold that tells them from --val"
        ),
    ] = None,
    write: Annotated[bool, typer.Option(help="write the numbers to the cards")] = False,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "-o",
            "--output",
            help="detectors' curves of precision against recall: a file ending in .svg or .json",
        ),
    ] = None,
    size_px: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=32, max=1024, help="another image size than the cards', to choose one"),
    ] = None,
) -> None:
    """Measure models: accuracy on --val and --boxed, and where the maps point on --boxed.

    --gates and --hold are for models with attention: what their gates say, and what they are for.
    --faithfulness asks whether answers depend on what the maps show; it takes dozens of passes a
    photo.
    --calibrate fits a temperature on --val, and --others a threshold that tells photos of other
    things from those in --val; both are judged on photos that they were not fitted on.
    Models that know the same classes are also compared photo by photo. Photos that cannot be read
    are left out and listed at the end; the exit status is then 4. Detectors are measured apart, on
    --boxed: a parquet file with boxes.csv beside it or as --boxes.
    """
    if any(find_detector(name) for name in names):
        evaluate_detectors(names, boxed, boxes, write, output)
        return
    if output is not None:
        raise OptionClash("--output is for detectors: classifiers have no curves to write.")
    if val is None and (calibrate or others):
        raise OptionClash("--calibrate and --others need --val: photos of the models' own classes.")
    if all(each is None for each in (val, boxed, gates, hold, faithfulness)):
        raise OptionClash(
            "Nothing to measure on. Name photos: --val, --boxed, --gates, --hold or --faithfulness."
        )
    if boxed is not None and boxes is None and boxed.suffix != ".parquet":
        raise OptionClash("--boxed needs --boxes: the CSV file with the object boxes.")
    if boxes is not None and boxed is None and gates is None:
        raise OptionClash(
            "--boxes belongs to --boxed or --gates: name the photos that the boxes are for."
        )
    if runs is not None and val is None:
        raise OptionClash("--runs compares on the photos of --val: name them.")
    if write and size_px:
        raise OptionClash("--write is for the cards' own image size: leave --size-px out.")
    for path in (val, boxed, boxes, gates, hold, faithfulness, runs, others):
        if path is not None and not path.exists():
            raise MissingFile(f"There is no file or folder '{path}'.")
    cards = [find_card(name) for name in names]
    if write:
        for card in cards:
            check_folder(card.folder)
    unread: dict[Unread, None] = {}  # once each, in their order
    rows: dict[tuple[str, str], dict[str, str]] = {}
    done: dict[str, tuple[Model, Measured, Measured]] = {}  # and its faithfulness
    for card in cards:
        model = load(card.folder)
        if size_px:
            resized = replace(model.card.preprocess, size_px=size_px)
            model = Model(replace(model.card, preprocess=resized), model.network)
        measured = measure_model(model, val, boxed, boxes, runs, others, calibrate)
        left_out = list(measured.unread)
        tried = Measured()
        if faithfulness is not None:
            started = time.perf_counter()
            tried = measure_faithfulness(model, faithfulness, photos, left_out)
            count = tried.metrics[FAITHFULNESS]["photos"]
            rate = count / (time.perf_counter() - started)
            note(f"{model.name}: its maps on {count} photos, {rate:.2g} photos/s")
        peers = [each for each in done.values() if each[0].card.labels == model.card.labels]
        metrics = {
            **measured.metrics,
            **against(measured, {peer.card.attention: found for peer, found, _ in peers}),
            **tried.metrics,
            **faithfulness_against(tried, {peer.card.attention: other for peer, _, other in peers}),
        }
        if data:
            metrics = {f"{measure}_{data}": values for measure, values in metrics.items()}
        means: dict[str, Tensor] = {}
        started = time.perf_counter()
        if gates is not None:
            found, means = measure_gates(model, gates, boxes, photos, left_out)
            metrics |= found
        if hold is not None:
            metrics |= measure_held_gates(model, hold, photos, one_by_one, way or WAYS, left_out)
        asked = sum(metrics[each]["photos"] for each in GATES if each in metrics)
        if asked:
            rate = asked / (time.perf_counter() - started)
            note(f"{model.name}: its gates on {asked} photos, {rate:.1f} photos/s")
        unread |= dict.fromkeys(left_out)
        done[model.name] = model, measured, tried
        for data_set, values in metrics.items():
            for measure, value in values.items():
                if measure not in ("command", "what"):
                    rows.setdefault((data_set, measure), {})[model.name] = str(value)
        if write:
            metrics = beside(model.card.metrics, metrics)
            card = replace(model.card, metrics=metrics, **measured.fitted)
            write_card(card, gate_means=means or None)
    show_table(
        ("measure", *done),
        [
            (f"{data} {measure}", *(cells.get(name, "") for name in done))
            for (data, measure), cells in rows.items()
        ],
    )
    if unread:
        report_unread(list(unread))
        raise typer.Exit(SOME_UNREAD)
