"""`cbam-lens train`: a family from a recipe."""

import os
from pathlib import Path
from typing import Annotated, Optional

import typer

from app.cli.shared import console
from cbam.errors import NotAvailable, UnknownName


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
    """Train a family, one member after the other; resumes where it stopped. Extra: train."""
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
    photos = training_photos(data, list(plan.labels))
    for member in members:
        run = runs / plan.model_name(member)
        trained = train_one(plan, member, photos, run, workers, compiled)
        if int(os.environ.get("RANK", "0")) == 0:
            card = write_model(plan, member, trained.weights, models, recipe.name)
            console.print(f"wrote {card.folder}")
