"""`cbam-lens train`: a family from a recipe, from scratch or from networks that already see."""

import os
from pathlib import Path
from typing import Annotated, Optional

import typer

from app.cli.attend import attend_family
from app.cli.detectors import train_detectors
from app.cli.shared import SOME_UNREAD, check_folder, report_unread, say
from cbam.errors import MissingFile, NotAvailable, OptionClash, UnknownName
from cbam.training.detector_recipe import is_detector_recipe


def train(
    recipe: Annotated[Path, typer.Argument(help="a TOML file, such as recipes/imagenette.toml")],
    data: Annotated[
        Path,
        typer.Option(
            help="folder with <class>/<photo> or train*.parquet, or a parquet file; a recipe with "
            "a teacher takes photos without classes"
        ),
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
    changes: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--set", help="change the recipe: KEY=VALUE or SECTION.KEY=VALUE; repeatable"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="replace models that are there")] = False,
) -> None:
    """Train a family, one member after the other; resumes where it stopped. Extra: train.

    A recipe with a section [start] puts attention into a network that already sees, and trains all
    members side by side. Photos that cannot be read are left out and listed; the exit status is
    then 4.
    """
    if is_detector_recipe(recipe):
        if changes or force:
            raise OptionClash("--set and --force are for classifiers; edit a detector's recipe.")
        train_detectors(recipe, data, attention, runs, models, workers)
        return
    from cbam.training.recipe import recipe_values

    values = recipe_values(recipe, changes or [])
    if not data.exists():
        raise MissingFile(f"There is no file or folder '{data}'.")
    if "start" in values:
        attend_family(recipe, values, data, attention or [], runs, models, force)
        return
    try:
        from cbam.training.loop import train as train_one
    except ImportError as error:
        raise NotAvailable.extra("Training", "train", error.name) from error
    from cbam.training.data import training_photos
    from cbam.training.recipe import read_recipe, refuse_to_overwrite, remember, write_model

    plan = read_recipe(recipe, values)
    members = attention or plan.attention
    for member in members:
        if member not in plan.attention:
            raise UnknownName.of(f"member of {recipe}", member, plan.attention)
        if not force:
            name = plan.model_name(member)
            refuse_to_overwrite(models / name, runs / name)
    check_folder(runs, create=True)
    check_folder(models, create=True)
    photos = training_photos(data, list(plan.labels), plan.in_memory)
    if photos.unread:
        report_unread(photos.unread)
    for member in members:
        run = runs / plan.model_name(member)
        trained = train_one(plan, member, photos, run, workers, compiled)
        if int(os.environ.get("RANK", "0")) == 0:
            card = write_model(plan, member, trained.weights, models, recipe.name)
            remember(card, run)
            say(f"wrote {card.folder}")
    if photos.unread:
        raise typer.Exit(SOME_UNREAD)
