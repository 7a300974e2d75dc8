"""`cbam-lens explain`: ask models about a photo."""

import hashlib
import time
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console
from rich.table import Table

from app.cli.shared import RUNNERS, console
from cbam.backends.choose import EAGER
from cbam.cards.families import available, by_family
from cbam.errors import MissingFile
from cbam.explain.explainer import answer
from cbam.explain.methods import METHODS
from cbam.explain.question import Options, resolve
from cbam.images.formats import EITHER
from cbam.model import Model, load, open_photo
from cbam.sheets import compare_sheet


def explain_command(
    photo: Annotated[Path, typer.Argument(help=f"a {EITHER} file")],
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("-o", "--output", help="PNG to write: the models side by side"),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="print the answer of /api/v1/explain")
    ] = False,
    model: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="a model's name or card folder; repeatable; default: the family"),
    ] = None,
    target: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="what to explain: a class's index or label, or a word such as cat; default: the "
            "first model's answer"
        ),
    ] = None,
    method: Annotated[str, typer.Option(help=", ".join(METHODS))] = Options.method,
    layer: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="block to explain, or several: layer3.1,layer4.1; default: the last"),
    ] = None,
    versus: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="class that finercam contrasts with; default: the closest ones"),
    ] = None,
    top_k: Annotated[
        int, typer.Option(min=1, max=20, help="number of predictions")
    ] = Options.top_k,
    backend: Annotated[str, typer.Option(help=f"what runs the networks: {RUNNERS}")] = EAGER,
) -> None:
    """Ask the models about a photo: a table, a picture (-o) or JSON (--json)."""
    models = [load(name, backend) for name in model] if model else default_family(backend)
    options = Options(target, method, layer, top_k, versus=versus, in_words=not as_json)
    question = resolve(models, options)
    started = time.perf_counter()
    image = open_photo(photo)
    waits = {"decode": (time.perf_counter() - started) * 1000, "queue": 0.0}
    explanations = answer(question, image)
    if as_json:
        from app.inference.engine import Answer
        from app.routes.answers import explained

        answered = Answer(explanations, waits, hashlib.sha256(photo.read_bytes()).hexdigest())
        print(explained(answered).model_dump_json(indent=1))  # noqa: T201
    else:
        label = explanations[0].target.label
        table = Table("model", "says", f"P({label})", f"{METHODS[method].title} peak")
        table.columns[0].no_wrap = True  # a name that is cut off can't be typed
        for each in explanations:
            says = ", ".join(f"{p.label} {p.probability:.1%}" for p in each.words[:1])
            classes = ", ".join(f"{p.label} {p.probability:.1%}" for p in each.predictions[:3])
            says = classes if len(each.words[0].indices) == 1 else f"{says} ({classes})"
            peak = float(each.heatmap.max())
            shown = f"{peak:.3g}" if peak > 0 else "no positive evidence"
            table.add_row(each.model, says, f"{each.target.probability:.1%}", shown)
        console.print(table)
    if output is not None:
        sheet = compare_sheet(explanations) if len(explanations) > 1 else explanations[0].overlay()
        sheet.save(output)
        Console(stderr=True).print(f"wrote {output}")


def default_family(backend: str = EAGER) -> list[Model]:
    """All models of the first bundled family."""
    cards = available()
    if not cards:
        raise MissingFile("No models are bundled here. Name one with --model FOLDER.")
    family, *_ = by_family(cards).values()
    return [load(cards[name].folder, backend) for name in family]
