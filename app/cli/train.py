"""`cbam-lens train`: a family from a recipe."""

import os
from pathlib import Path
from typing import Annotated, Optional

import typer

from app.cli.detectors import train_detectors
from app.cli.shared import SOME_UNREAD, check_folder, report_unread, say
from cbam.errors import MissingFile, NotAvailable, UnknownName
from cbam.training.detector_recipe import is_detector_recipe


def train(
    recipe: Annotated[Path, typer.Argument(help="a TOML file, such as recipes/imagenette.toml")],
    data: Annotated[
        Path, typer.Option(help="folder with <class>/<photo> or train*.parquet, or a parquet file")
    ],
    attention: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="member of the family; repeatable; default: all"),
    ] = None,
    runs: Annotated[Path, typer.Option(help="checkpoints, logs and float32 weights")] = Path(
        "runs"
    ),
    models: Annotated[Path, typer.Option(help="where the trained models are written")] = Path(
        "models"
    ),
    workers: Annotated[int, typer.Option(min=0, help="processes that augment photos")] = 1,
    compiled: Annotated[
        bool, typer.Option("--compile", help="with torch.compile; on a CPU the attention alone")
    ] = False,
) -> None:
    """Train a family, one member after the other; resumes where it stopped. Extra: train.

    Photos that cannot be read are left out and listed; the exit status is then 4.
    """
    if is_detector_recipe(recipe):
        train_detectors(recipe, data, attention, runs, models)
        return
    try:
        from cbam.training.loop import train as train_one
    except ImportError as error:
        raise NotAvailable.extra("Training", "train", error.name) from error
    from cbam.training.data import training_photos
    from cbam.training.recipe import read_recipe, write_model

    plan = read_recipe(recipe)
    members = attention or plan.attention
    for member in members:
        if member not in plan.attention:
            raise UnknownName.of(f"member of {recipe}", member, plan.attention)
    if not data.exists():
        raise MissingFile(f"There is no file or folder '{data}'.")
    check_folder(runs, create=True)
    check_folder(models, create=True)
    photos = training_photos(data, list(plan.labels))
    if photos.unread:
        report_unread(photos.unread)
    for member in members:
        run = runs / plan.model_name(member)
        trained = train_one(plan, member, photos, run, workers, compiled)
        if int(os.environ.get("RANK", "0")) == 0:
            card = write_model(plan, member, trained.weights, models, recipe.name)
            say(f"wrote {card.folder}")
    if photos.unread:
        raise typer.Exit(SOME_UNREAD)
