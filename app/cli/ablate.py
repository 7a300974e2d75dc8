"""`cbam-lens ablate`: the paper's ablations, run for real."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Optional

import typer

from app.cli.shared import check_folder, note, say, show_text
from cbam.errors import NotAvailable, OptionClash
from cbam.training.ablation_study import (
    VARIANTS,
    Run,
    as_markdown,
    latest,
    read_ablation,
    verdict,
)


def ablate(
    recipe: Annotated[Path, typer.Argument(help="a TOML file, such as recipes/ablation.toml")],
    data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="parquet file of training photos"),
    ] = None,
    test: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="parquet file of test photos"),
    ] = None,
    results: Annotated[
        Path, typer.Option(help="one JSON line a run; finished runs are skipped")
    ] = Path("ablation.jsonl"),
    runs: Annotated[Path, typer.Option(help="checkpoints and float32 weights")] = Path("runs"),
    variant: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="repeatable; default: all"),
    ] = None,
    summary: Annotated[
        bool, typer.Option("--summary", help="only print what the results say, as Markdown")
    ] = False,
    measure: Annotated[
        bool,
        typer.Option("--measure", help="only measure the speed and say how long it would take"),
    ] = False,
) -> None:
    """Train every variant of attention by one recipe with several seeds, and compare. Extra: train.

    Prints accuracy, spread and a paired test beside the paper's order, and what the gates are for:
    accuracy with each gate held at its mean over the test photos.
    """
    plan = read_ablation(recipe)
    if summary:
        _summarise(latest(results))
        return
    try:
        from cbam.training import ablation
    except ImportError as error:
        raise NotAvailable.extra("Training", "train", error.name) from error

    if data is None or test is None:
        raise OptionClash("Training needs --data and --test; only --summary does without.")
    photos = ablation.read_photos(plan, data, test)
    variants = variant or list(VARIANTS)
    if measure:
        seen = len(photos.training) * plan.epochs * plan.seeds
        hours = 0.0
        for name in variants:
            speed = ablation.images_per_s(plan, name)
            hours += seen / speed / 3600
            say(f"{name}: {speed:.0f} photos/s")
        runs_ = len(variants) * plan.seeds
        say(f"{runs_} runs of {plan.epochs} epochs: about {hours:.1f} h of training")
        return
    check_folder(results.parent, create=True)
    _summarise(ablation.study(plan, photos, results, runs, variants, note))


def _summarise(found: Sequence[Run]) -> None:
    show_text(as_markdown(found))
    say("")
    say(verdict(found))
