"""`cbam-lens figure`: the paper's figure for photos of one's own."""

from pathlib import Path
from typing import Annotated, Optional

import typer

from app.cli.explain import default_family, read_photo
from app.cli.shared import check_picture, show_table, write_picture
from cbam.errors import OptionClash
from cbam.explain.explainer import answer
from cbam.explain.methods import METHODS
from cbam.explain.question import Options, resolve
from cbam.images.decode import decode
from cbam.model import Unloaded, find_card, load
from cbam.sheets import figure_sheet


def figure(
    photos: Annotated[list[Path], typer.Argument(help="photos, a row each")],
    output: Annotated[Path, typer.Option("-o", "--output", help="picture to write")],
    model: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="a model's name or card folder; repeatable; default: the family"),
    ] = None,
    target: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            help="what to explain: once for all photos, or once for each in their order; default: "
            "the first model's answer"
        ),
    ] = None,
    method: Annotated[str, typer.Option(help=", ".join(METHODS))] = Options.method,
) -> None:
    """Photos and models in one picture, the class's probability below each, as in the paper."""
    check_picture(output)
    targets: list[str | None] = [*target] if target else [None]
    if len(targets) == 1:
        targets *= len(photos)
    if len(targets) != len(photos):
        raise OptionClash(
            f"There are {len(photos)} photos and {len(targets)} targets: name one for all photos, "
            "or one for each."
        )
    cards = [find_card(name) for name in model] if model else default_family()
    options = [Options(each, method, top_k=1, attention=False) for each in targets]
    for each in options:  # what is wrong shows before the work
        resolve([Unloaded(card) for card in cards], each)
    images = [decode(read_photo(photo)) for photo in photos]
    models = [load(card.folder) for card in cards]
    rows = [
        answer(resolve(models, each), image) for each, image in zip(options, images, strict=True)
    ]
    show_table(
        ("photo", "target", *(f"P by {card.name}" for card in cards)),
        [
            (photo, row[0].target.label, *(f"{each.target.probability:.1%}" for each in row))
            for photo, row in zip(photos, rows, strict=True)
        ],
    )
    write_picture(figure_sheet(rows), output)
