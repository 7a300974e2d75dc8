"""The command `cbam-lens`: serve, explain, models, train, evaluate, bench."""

import json
import os
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.console import Console
from rich.table import Table

from cbam import METHODS, __version__
from cbam.errors import CBAMLensError, UnknownName
from cbam.explain.backends import AUTO, BACKENDS
from cbam.explain.engine import Options, explain
from cbam.model import Model, cards, load, open_photo

app = typer.Typer(
    help="See what attention changes: plain, SE and CBAM networks side by side.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
models_app = typer.Typer(help="What models there are.", no_args_is_help=True)
app.add_typer(models_app, name="models")
console = Console()
RUNNERS = ", ".join((*BACKENDS, AUTO))


def main() -> None:
    """Run the command; an error of ours is a sentence on stderr and exit status 1."""
    try:
        app()
    except CBAMLensError as error:
        Console(stderr=True).print(f"[red]cbam-lens:[/red] {error}", highlight=False)
        raise SystemExit(1) from None


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)  # noqa: T201


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="address to listen on; 0.0.0.0: every one")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(envvar="PORT", help="port to listen on")] = 8000,
    backend: Annotated[
        str, typer.Option(envvar="CBAM_LENS_BACKEND", help=f"what runs the networks: {RUNNERS}")
    ] = "eager",
) -> None:
    """Start the page and the API. Settings: environment variables CBAM_LENS_*.

    SIGTERM and Ctrl-C let what runs finish. Exit status: 0 it did, 1 it was cut off after
    CBAM_LENS_DRAIN_S seconds, 3 the port could not be had.
    """
    from app.main import create_app
    from app.server import serve as serve_until_stopped
    from app.settings import Settings

    service = create_app(Settings(backend=backend))
    console.print(f"CBAM Lens on [bold]http://{host}:{port}[/bold]  (Ctrl-C ends it)")
    serve_until_stopped(service, host, port)


@app.command("explain")
def explain_command(
    photo: Annotated[Path, typer.Argument(help="a JPEG, PNG or WebP file")],
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
        typer.Option(help="class to explain: index or label; default: the first model's answer"),
    ] = None,
    method: Annotated[str, typer.Option(help=", ".join(METHODS))] = "gradcam",
    layer: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="block to explain, or several: layer3.1,layer4.1; default: the last"),
    ] = None,
    versus: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="class that finercam contrasts with; default: the closest ones"),
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, max=20, help="number of predictions")] = 5,
    backend: Annotated[str, typer.Option(help=f"what runs the networks: {RUNNERS}")] = "eager",
) -> None:
    """Ask the models about a photo: a table, a picture (-o) or JSON (--json)."""
    from cbam.render import compare_sheet

    models = [load(name, backend) for name in model] if model else default_family(backend)
    started = time.perf_counter()
    image = open_photo(photo)
    waits = {"decode": (time.perf_counter() - started) * 1000, "queue": 0.0}
    explanations = explain(models, image, Options(target, method, layer, top_k, versus=versus))
    if as_json:
        from app.schemas import explained

        print(explained(photo.read_bytes(), explanations, waits).model_dump_json(indent=1))  # noqa: T201
    else:
        label = explanations[0].target.label
        table = Table("model", "says", f"P({label})", f"{METHODS[method].title} peak")
        table.columns[0].no_wrap = True  # a name that is cut off can't be typed
        for each in explanations:
            says = ", ".join(f"{p.label} {p.probability:.1%}" for p in each.predictions[:3])
            peak = float(each.heatmap.max())
            shown = f"{peak:.2f}" if peak > 0 else "no positive evidence"
            table.add_row(each.model, says, f"{each.target.probability:.1%}", shown)
        console.print(table)
    if output is not None:
        sheet = compare_sheet(explanations) if len(explanations) > 1 else explanations[0].overlay()
        sheet.save(output)
        Console(stderr=True).print(f"wrote {output}")


def default_family(backend: str = "eager") -> list[Model]:
    """All models of the first bundled family."""
    known = cards()
    if not known:
        raise UnknownName("No models are bundled here. Name one with --model FOLDER.")
    family = next(iter(known.values())).family
    return [load(card.folder, backend) for card in known.values() if card.family == family]


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
    """All bundled models with what was measured of them, a line each."""
    rows: list[list[str]] = []
    for family in dict.fromkeys(card.family for card in cards().values()):
        members = [card for card in cards().values() if card.family == family]
        for card in members:
            classes = str(len(card.labels))
            rows.append([card.name, card.attention, classes, *_measured(card.metrics)])
        # What an answer that knows nothing of the photo gets on the same boxes.
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


@app.command()
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
    """Train a family, one member after the other; resumes where it was stopped. Extra: train."""
    try:
        from cbam.training.loop import train as train_one
    except ImportError as error:
        raise UnknownName(
            f"Training needs the extra 'train' ({error.name} is missing): "
            "pip install 'cbam-lens[train]'"
        ) from error
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


@app.command()
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
        typer.Option(help="CSV for --boxed folders: file,x0,y0,x1,y1, relative"),
    ] = None,
    runs: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="training runs: compare with their float32 weights"),
    ] = None,
    write: Annotated[bool, typer.Option(help="write the numbers to the cards")] = False,
    size_px: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=32, max=1024, help="another image size than the cards', to choose one"),
    ] = None,
) -> None:
    """Measure models: accuracy on --val and --boxed, and where the maps point on --boxed.

    Of several models that know the same classes, the differences are measured photo by photo.
    """
    from cbam.cards import write_card
    from cbam.evaluate.report import Measured, against, measure_model

    if boxed is not None and boxes is None and boxed.suffix != ".parquet":
        raise UnknownName("--boxed needs --boxes: the CSV file with the object boxes.")
    if write and size_px:
        raise UnknownName("--write is for the cards' own image size: leave --size-px out.")
    table = Table("data", "measure")
    rows: dict[tuple[str, str], dict[str, str]] = {}
    done: dict[str, tuple[Model, Measured]] = {}
    for name in names:
        model = load(name)
        if size_px:
            resized = replace(model.card.preprocess, size_px=size_px)
            model = Model(replace(model.card, preprocess=resized), model.network)
        table.add_column(model.name, overflow="fold")
        measured = measure_model(model, val, boxed, boxes, runs)
        peers = {
            other.card.attention: found
            for other, found in done.values()
            if other.card.labels == model.card.labels
        }
        metrics = {**measured.metrics, **against(measured, peers)}
        done[model.name] = model, measured
        for data_set, values in metrics.items():
            for measure, value in values.items():
                if measure not in ("command", "what"):
                    rows.setdefault((data_set, measure), {})[model.name] = str(value)
        if write:
            write_card(replace(model.card, metrics={**model.card.metrics, **metrics}))
    for key, cells in rows.items():
        table.add_row(*key, *(cells.get(name, "") for name in done))
    console.print(table)


@app.command()
def bench(
    only: Annotated[
        str, typer.Option(help="sections, comma-separated: peers,methods,service,memory")
    ] = "",
    quick: Annotated[
        bool, typer.Option("--quick", help="tiny networks: whether it runs, not how fast")
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="what takes minutes for one number, too")
    ] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="print Markdown")] = False,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("-o", "--output", help="Markdown file to write; JSON goes beside it"),
    ] = None,
) -> None:
    """Measure CBAM Lens beside its peers: every row a ratio from one run. Extra: bench.

    Exit status 1 if something failed. A missed target is a result, not a failure.
    """
    from app.bench import measure as measure_service
    from cbam.bench.run import MEASURES, chosen, run
    from cbam.bench.subjects import Plan

    measures = {**MEASURES, "service": measure_service}
    plan = Plan.quick() if quick else Plan()
    aside = Console(stderr=True, highlight=False)
    report = run(
        replace(plan, full=full),
        {name: measures[name] for name in chosen(only)},
        lambda row: aside.print("  ".join(row.cells()[:3]), markup=False, soft_wrap=True),
    )
    if output is not None:
        output.write_text(report.to_markdown(), encoding="utf-8")
        output.with_suffix(".json").write_text(report.to_json(), encoding="utf-8")
        aside.print(f"wrote {output} and {output.with_suffix('.json')}")
    if markdown or output is None:
        print(report.to_markdown())  # noqa: T201
    if report.failed:
        raise typer.Exit(1)


if __name__ == "__main__":
    main()
