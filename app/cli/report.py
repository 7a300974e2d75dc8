"""`cbam-lens report`: what was measured of models, and answers about photos, as one HTML file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Optional

import typer
from PIL import Image

from app import report as made
from app.cli.explain import read_photo
from app.cli.shared import RUNNERS, check_file, write_file
from cbam.backends.choose import EAGER, check_backend
from cbam.cards.card import Card
from cbam.cards.detector import DetectorCard
from cbam.cards.families import available, by_family, detectors
from cbam.detector import find_detector, open_detector
from cbam.errors import OptionClash, UnknownName
from cbam.evaluate.recall_curves import read_curves
from cbam.explain.detection import DetectOptions
from cbam.explain.explainer import answer
from cbam.explain.question import Options, resolve
from cbam.images.decode import decode
from cbam.images.formats import EITHER
from cbam.model import find_card, load


def report(
    names: Annotated[
        list[str],
        typer.Argument(help="families, models or detectors, by name or by a card's folder"),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="the .html file to write")],
    photo: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option(help=f"a {EITHER} file to ask all of them about; repeatable"),
    ] = None,
    curves: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="detectors' curves of precision: what `evaluate -o curves.json` wrote"),
    ] = None,
    backend: Annotated[str, typer.Option(help=f"what runs the networks: {RUNNERS}")] = EAGER,
) -> None:
    """Put what cards say of models, and answers about photos, into one HTML file to pass on.

    Accuracy or mAP with intervals, class by class, heat maps against controls, what the gates are
    for. It needs no script and no network. Without --photo no model is asked.
    """
    check_file(output, (".html",), "report", "report.html")
    check_backend(backend)
    cards, found = chosen(names)
    drawn = None if curves is None else read_curves(curves)
    if drawn is not None and not found.keys() & set(drawn["detectors"]):
        raise OptionClash(f"{curves} has curves of none of these models.")
    images = [(path.name, decode(read_photo(path))) for path in photo or ()]
    chapters = [
        made.classifiers({name: cards[name] for name in members})
        for members in by_family(cards).values()
    ]
    chapters += [
        made.detectors([found[name] for name in members], drawn)
        for members in by_family(found).values()
    ]
    write_file(
        made.html_file(chapters, _asked(cards, [*found.values()], images, backend)).encode(), output
    )


def chosen(names: Sequence[str]) -> tuple[dict[str, Card], dict[str, DetectorCard]]:
    """The cards of classifiers and of detectors that names stand for. Raises UnknownName."""
    every, finders = available(), detectors()
    families = by_family(every)
    cards: dict[str, Card] = {}
    found: dict[str, DetectorCard] = {}
    for name in names:
        if name in families:
            cards |= {each: every[each] for each in families[name]}
        elif members := {k: card for k, card in finders.items() if card.family == name}:
            found |= members
        elif (finder := find_detector(name)) is not None:
            found[finder.name] = finder
        elif name in every or (Path(name) / "card.toml").is_file():
            card = find_card(name)
            cards[card.name] = card
        else:
            groups = dict.fromkeys([*families, *(card.family for card in finders.values())])
            raise UnknownName.of("family or model", name, [*groups, *every, *finders])
    return cards, found


def _asked(
    cards: dict[str, Card],
    finders: Sequence[DetectorCard],
    images: Sequence[tuple[str, Image.Image]],
    backend: str,
) -> list[made.Asked]:
    """Every model's answer about every photo; without photos none is loaded."""
    if not images:
        return []
    models = [
        [load(cards[name].folder, backend) for name in members]
        for members in by_family(cards).values()
    ]
    opened = [open_detector(card) for card in finders]
    options = DetectOptions(attention=False)
    return [
        made.Asked(
            name,
            [answer(resolve(each, Options(attention=False)), image) for each in models],
            [each.find(image, options) for each in opened],
        )
        for name, image in images
    ]
