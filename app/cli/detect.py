"""`cbam-lens detect`: ask detectors what is where in a photo."""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Optional

import typer

from app.cli.explain import read_photo
from app.cli.shared import check_picture, note, show_json, show_table, write_picture
from app.tables import found_in
from cbam.cards.detector import DetectorCard
from cbam.cards.families import detectors
from cbam.detector import Detector, find_detector, open_detector
from cbam.detectors import OF
from cbam.errors import MissingFile, UnknownName
from cbam.explain.d_rise import NAME as D_RISE
from cbam.explain.d_rise import DRiseOptions, check_question, d_rise
from cbam.explain.detection import BOX_METHODS, DetectOptions, read_box
from cbam.images.decode import decode
from cbam.images.formats import EITHER
from cbam.sheets import detect_sheet


def detect_command(
    photo: Annotated[Path, typer.Argument(help=f"a {EITHER} file; -: standard input")],
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("-o", "--output", help="picture to write: the detectors side by side"),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="print the answer of /api/v1/detect")
    ] = False,
    model: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="a detector's name or card folder; repeatable; default: the family"),
    ] = None,
    score: Annotated[
        float, typer.Option(min=0, max=1, help="least score of a box")
    ] = DetectOptions.score,
    maps: Annotated[
        int, typer.Option(min=0, max=20, help="heat maps: of so many boxes, the surest ones")
    ] = DetectOptions.maps,
    box: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="x0,y0,x1,y1 in pixels: the heat map of each one's box around this"),
    ] = None,
    label: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="with --box: only boxes of this class; default: of any"),
    ] = None,
    of: Annotated[
        str, typer.Option(help=f"what the heat maps explain: {', '.join(OF)}")
    ] = DetectOptions.of,
    method: Annotated[
        str, typer.Option(help=", ".join((*BOX_METHODS, f"{D_RISE} (a pass for every mask)")))
    ] = DetectOptions.method,
    layer: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="block to explain, or several; default: the last one that can be"),
    ] = None,
    masks: Annotated[
        int, typer.Option(min=1, help=f"{D_RISE}: how often the photo is partly hidden")
    ] = DRiseOptions.masks,
    seed: Annotated[int, typer.Option(help=f"{D_RISE}: seed of the masks")] = DRiseOptions.seed,
) -> None:
    """Find things in a photo: a table, a picture (-o) or JSON (--json)."""
    if output is not None:
        check_picture(output)
    region = read_box(box) if box else None
    hidden = DRiseOptions(masks=masks, seed=seed) if method == D_RISE else None
    options = DetectOptions(
        score, maps=maps, box=region, label=label, of=of, method=method, layer=layer
    )
    check_question(options)
    cards = [_card(name) for name in model] if model else _default_family()
    started = time.perf_counter()
    data = read_photo(photo)
    image = decode(data)
    waits = {"decode": (time.perf_counter() - started) * 1000, "queue": 0.0}
    opened = [open_detector(card) for card in cards]
    if hidden:
        found = [d_rise(each, image, options, hidden, _progress(each, hidden)) for each in opened]
    else:
        found = [each.find(image, options) for each in opened]
    if as_json:
        from app.inference.engine import Findings
        from app.routes.answers import detected

        findings = Findings(found, waits, hashlib.sha256(data).hexdigest(), options, hidden)
        show_json(detected(findings).model_dump_json(indent=1))
    else:
        show_table(*found_in(found))
    if output is not None:
        write_picture(detect_sheet(found), output)


def _progress(model: Detector, how: DRiseOptions) -> Callable[[int], None]:
    """Says each tenth of the masks that is done."""

    def step(done: int) -> None:
        if done * 10 // how.masks > max(0, done - how.batch) * 10 // how.masks:
            note(f"{model.name}: {done}/{how.masks} masks")

    return step


def _card(name: str) -> DetectorCard:
    """A detector's card. Raises UnknownName if there is none."""
    if card := find_detector(name):
        return card
    raise UnknownName.of("detector", name, detectors() or ["none is bundled here"])


def _default_family() -> list[DetectorCard]:
    """The cards of the first bundled family of detectors. Raises MissingFile."""
    cards = list(detectors().values())
    if not cards:
        raise MissingFile("No detectors are bundled here. Name one with --model FOLDER.")
    return [card for card in cards if card.family == cards[0].family]
