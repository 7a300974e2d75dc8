"""`cbam-lens explain`: ask models about a photo."""

import hashlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Optional

import typer
from PIL import Image

from app.cli.shared import (
    RUNNERS,
    check_picture,
    say,
    show_json,
    show_table,
    write_file,
    write_picture,
)
from app.tables import said
from cbam.backends.choose import EAGER, check_backend
from cbam.bundle.records import Bundle, bundle_of
from cbam.cards.card import Card
from cbam.cards.families import available, by_family
from cbam.errors import BrokenImage, MissingFile
from cbam.explain.explainer import answer, before_and_after
from cbam.explain.explanation import Explanation
from cbam.explain.formulas import FUSIONS
from cbam.explain.methods import METHODS
from cbam.explain.question import Options, resolve
from cbam.explain.verdict import verdict
from cbam.images.decode import decode
from cbam.images.formats import EITHER
from cbam.model import Unloaded, find_card, load
from cbam.sheets import compare_sheet

TAKEN_AWAY = (".zip", ".html")  # what -o writes beside pictures


def explain_command(
    photo: Annotated[Path, typer.Argument(help=f"a {EITHER} file; -: standard input")],
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "-o",
            "--output",
            help="file to write: a picture of the models side by side, a .zip with all of it "
            "(see `cbam-lens open`), or .html",
        ),
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
            help="what to explain: a class by label, index, synonym or WordNet id, or a word such "
            "as cat; default: the first model's answer"
        ),
    ] = None,
    method: Annotated[str, typer.Option(help=", ".join(METHODS))] = Options.method,
    layer: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="block to explain, or several: layer3.1,layer4.1; default: the last"),
    ] = None,
    fuse: Annotated[
        str, typer.Option(help=f"how the maps of several blocks become one: {', '.join(FUSIONS)}")
    ] = Options.fuse,
    versus: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="class that finercam contrasts with; default: the closest ones"),
    ] = None,
    gates: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="change gates and show before and after: layer1.0.channel=off, *.spatial=0.5; "
            "open, mean. An intervention on trained networks, not a retraining"
        ),
    ] = None,
    top_k: Annotated[
        int, typer.Option(min=1, max=20, help="number of predictions")
    ] = Options.top_k,
    backend: Annotated[str, typer.Option(help=f"what runs the networks: {RUNNERS}")] = EAGER,
) -> None:
    """Ask the models about a photo: a table, JSON (--json), a picture, a bundle or HTML (-o)."""
    if output is not None:
        check_picture(output, TAKEN_AWAY)
    check_backend(backend)
    cards = [find_card(name) for name in model] if model else default_family()
    options = Options(
        target, method, layer, top_k, versus=versus, in_words=not as_json, gates=gates, fuse=fuse
    )
    resolve([Unloaded(card) for card in cards], options)  # what is wrong shows before the work
    started = time.perf_counter()
    data = read_photo(photo)
    image = decode(data)
    waits = {"decode": (time.perf_counter() - started) * 1000, "queue": 0.0}
    models = [load(card.folder, backend) for card in cards]
    question = resolve(models, options)
    if gates:
        before, explanations = before_and_after(question, image)
    else:
        before = explanations = answer(question, image)
    sha256 = hashlib.sha256(data).hexdigest()
    if as_json:
        from app.inference.engine import Answer
        from app.routes.answers import explained, intervened

        old, new = (Answer(each, waits, sha256) for each in (before, explanations))
        made = intervened(old, new) if gates else explained(new)
        show_json(made.model_dump_json(indent=1))
    else:
        show_answer(before, explanations, bool(gates))
    if output is not None and output.suffix.lower() in TAKEN_AWAY:
        changed = explanations if gates else None
        write_bundle(bundle_of(before, models, options, sha256, changed), output)
    elif output is not None:
        write_picture(sheet(explanations), output)


def write_bundle(bundle: Bundle, path: Path) -> None:
    """Write an answer as a bundle or as an HTML file. Raises CannotWrite."""
    from app.takeaway import html_file, zip_file

    is_zip = path.suffix.lower() == ".zip"
    write_file(zip_file(bundle) if is_zip else html_file(bundle).encode(), path)


def sheet(explanations: Sequence[Explanation]) -> Image.Image:
    """An answer as one picture."""
    # A sheet says that gates were changed; a bare overlay could not.
    alone = len(explanations) == 1 and not explanations[0].changed
    return explanations[0].overlay() if alone else compare_sheet(explanations)


def show_answer(
    before: Sequence[Explanation], explanations: Sequence[Explanation], changed: bool
) -> None:
    """What each model says, as a table; of `changed` gates before and after."""
    if changed:
        _show_changes(before, explanations)
        return
    found = verdict(explanations)
    say(found.headline)
    if warning := found.warning(explanations[0].classes):
        say(warning)
    show_table(*said(explanations))


def _show_changes(before: Sequence[Explanation], after: Sequence[Explanation]) -> None:
    """What each model says with its gates as they are and with changed ones."""
    label = before[0].target.label
    rows: list[tuple[str, ...]] = []
    for old, new in zip(before, after, strict=True):
        says, then = (each.words[0] for each in (old, new))
        flips = " (flips)" if old.predictions[0].index != new.predictions[0].index else ""
        rows.append(
            (
                old.model,
                f"{says.label} {says.probability:.1%}",
                f"{then.label} {then.probability:.1%}{flips}",
                f"{old.target.probability:.1%} -> {new.target.probability:.1%}",
                ", ".join(f"{gate}={how}" for gate, how in new.changed.items()) or "none",
            )
        )
    show_table(("model", "says", "with changed gates", f"P({label})", "changed gates"), rows)
    say("An intervention on trained networks, not a retraining.")


def default_family() -> list[Card]:
    """The cards of all models of the first bundled family. Raises MissingFile."""
    cards = available()
    if not cards:
        raise MissingFile("No models are bundled here. Name one with --model FOLDER.")
    family, *_ = by_family(cards).values()
    return [cards[name] for name in family]


def read_photo(path: Path) -> bytes:
    """A file's bytes, read once: it may be a pipe. "-" is the standard input. Raises BadImage."""
    try:
        data = sys.stdin.buffer.read() if path == Path("-") else path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BrokenImage(f"The photo '{path}' cannot be read: {reason}.") from error
    return data
