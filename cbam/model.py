"""A model: trained weights and their card, ready to explain."""

import threading
from functools import cached_property
from importlib.resources import files
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from cbam.backbones import blocks
from cbam.cards import Card, load_network, read_card
from cbam.errors import BrokenImage, UnknownName
from cbam.explain.engine import Options, explain
from cbam.explain.explanation import Explanation
from cbam.explain.split import Split, split
from cbam.images import decode, upright_rgb

ATTENTION_ORDER = ("none", "se", "cbam")  # how a family is shown


class Model:
    """A network with its card. Safe to share between threads: explaining changes nothing on it."""

    def __init__(self, card: Card, network: nn.Module) -> None:
        self.card = card
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.layers = blocks(network)
        self._splits: dict[str, Split] = {}
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The card's name: `resnet18-cbam-imagenette`."""
        return self.card.name

    @cached_property
    def parameters(self) -> int:
        """Number of trained parameters."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    def split(self, layer: str) -> Split:
        """The network cut behind the block `layer`; made once and kept. Raises UnknownName."""
        if layer not in self.layers:
            raise UnknownName.of(f"layer of '{self.name}'", layer, self.layers)
        with self._lock:
            if layer not in self._splits:  # at most one a block, so the table is bounded
                self._splits[layer] = split(self.network, layer)
            return self._splits[layer]

    def explain(
        self,
        photo: str | Path | bytes | Image.Image,
        target: int | str | None = None,
        method: str = "gradcam",
        layer: str | None = None,
        top_k: int = 5,
    ) -> Explanation:
        """Predictions, heat map and gate maps for a photo (a path, a file's bytes or a PIL image).

        `target` is the class to explain (index or label; the top class by default), `method` a name
        in METHODS, `layer` a block (`layer4.1`; the last by default). Raises BadImage, UnknownName.
        """
        options = Options(target, method, layer, top_k)
        return explain([self], open_photo(photo), options)[0]


def open_photo(photo: str | Path | bytes | Image.Image) -> Image.Image:
    """Whatever holds a photo -> upright RGB. Raises BadImage."""
    if isinstance(photo, Image.Image):
        return upright_rgb(photo)
    if not isinstance(photo, bytes):
        try:
            photo = Path(photo).read_bytes()
        except OSError as error:
            raise BrokenImage(f"The photo cannot be read: {error}.") from error
    return decode(photo)


def models_folder() -> Path:
    """Where the bundled models lie: beside the package in a checkout, inside it in a wheel."""
    packaged = Path(str(files("cbam"))) / "_bundled" / "models"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / "models"


def cards(folder: Path | None = None) -> dict[str, Card]:
    """All cards in a folder of models, by name: a family together, plain, SE, CBAM in this order.

    Raises BadCard if one of them cannot be used.
    """
    found = [read_card(path.parent) for path in (folder or models_folder()).glob("*/card.toml")]
    order = {name: position for position, name in enumerate(ATTENTION_ORDER)}
    found.sort(key=lambda card: (card.family, order.get(card.attention, 9), card.name))
    return {card.name: card for card in found}


def load(name: str | Path) -> Model:
    """A model by the name of a bundled one, or by the folder of a card.

    Raises UnknownName if there is none, BadCard if its weights are not what the card says.
    """
    folder = Path(name)
    if (folder / "card.toml").is_file():
        card = read_card(folder)
    else:
        known = cards()
        if str(name) not in known:
            raise UnknownName.of("model", name, known)
        card = known[str(name)]
    return Model(card, load_network(card))
