"""Which models there are, in which order, and which family is the default."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from cbam.attention import ATTENTION
from cbam.cards.card import Card, read_card
from cbam.cards.detector import DetectorCard, is_detector, read_detector_card
from cbam.errors import BadOption


def models_folder() -> Path:
    """Where the bundled models lie: beside the package in a checkout, inside it in a wheel."""
    packaged = Path(str(files("cbam"))) / "_bundled" / "models"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent.parent / "models"


def by_family(cards: Mapping[str, Card | DetectorCard]) -> dict[str, list[str]]:
    """The names of each family's members, in the order of the cards; the first is the default."""
    families: dict[str, list[str]] = {}
    for card in cards.values():
        families.setdefault(card.family, []).append(card.name)
    return families


def available(folder: str | Path | None = None) -> dict[str, Card]:
    """The cards of all classifiers in a folder of models, by name.

    Each family is together: plain, SE, CBAM in this order. The family that knows the most classes
    comes first: it is everybody's default.
    Raises BadCard if one of them cannot be used, BadOption for what is no folder's name.
    """
    if folder is not None and not isinstance(folder, str | Path):
        raise BadOption.of("folder", folder, "the name of a folder with models")
    folder = Path(folder) if folder else models_folder()
    found = [
        read_card(path.parent)
        for path in folder.glob("*/card.toml")
        if not is_detector(path.parent)
    ]
    order = {name: position for position, name in enumerate(ATTENTION)}
    classes = {card.family: len(card.labels) for card in found}
    found.sort(
        key=lambda card: (
            -classes[card.family],
            card.family,
            order[card.attention],
            card.name,
        )
    )
    return {card.name: card for card in found}


def detectors(folder: Path | None = None) -> dict[str, DetectorCard]:
    """All detectors' cards in a folder of models, by name, in the order of `available`.

    Raises BadCard if one of them cannot be used.
    """
    found = [
        read_detector_card(path.parent)
        for path in (folder or models_folder()).glob("*/card.toml")
        if is_detector(path.parent)
    ]
    order = {name: position for position, name in enumerate(ATTENTION)}
    found.sort(key=lambda card: (card.family, order[card.attention], card.name))
    return {card.name: card for card in found}
