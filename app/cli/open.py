"""`cbam-lens open`: show an answer that was taken away as a bundle."""

from pathlib import Path
from typing import Annotated, Optional

import typer

from app.cli.explain import TAKEN_AWAY, sheet, show_answer, write_bundle
from app.cli.shared import check_picture, note, say, show_json, write_picture
from cbam.bundle.read import read_file
from cbam.bundle.records import Bundle
from cbam.cards.families import available


def open_command(
    bundle: Annotated[
        Path, typer.Argument(help="a .zip of `explain -o`, of the page or of /api/v1/bundle")
    ],
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("-o", "--output", help="file to write: a picture, .html, or .zip once more"),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="print the answer of the API, without times")
    ] = False,
) -> None:
    """Check a bundle's hashes and show the answer in it, as `explain` shows it. Asks no model."""
    if output is not None:
        check_picture(output, TAKEN_AWAY)
    found = read_file(bundle)
    if as_json:
        from app.takeaway import answer_json

        show_json(answer_json(found).rstrip("\n"))
    else:
        show_answer(found.explanations, found.shown, found.changed is not None)
        _say_origin(found)
    if output is not None and output.suffix.lower() in TAKEN_AWAY:
        write_bundle(found, output)
    elif output is not None:
        write_picture(sheet(found.shown), output)


def _say_origin(bundle: Bundle) -> None:
    """What made the answer, and whether the same weights are here."""
    made = ", ".join(f"{name} {version}" for name, version in (bundle.made_with or {}).items())
    say(f"Every file has the hash that the manifest names. Made with {made}.")
    here = {card.weights_sha256 for card in available().values()}
    others = [each.name for each in bundle.models if each.weights_sha256 not in here]
    if others:
        note(f"Not among the bundled models here: the weights of {', '.join(others)}.")
