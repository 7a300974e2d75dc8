"""A model: trained weights and their card, ready to explain."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from cbam.backbones import blocks
from cbam.backends.choose import accelerate, check_backend
from cbam.cards.card import Card, load_network, read_card
from cbam.cards.families import cards
from cbam.errors import BrokenImage, UnknownName
from cbam.explain.explainer import Options, explain
from cbam.explain.explanation import Explanation
from cbam.images.decode import decode, upright_rgb
from cbam.trace.cut import Cut, cut_at
from cbam.trace.rewrite import Folded

CUTS_KEPT = 64  # a model's cuts; anyone may ask for any set of layers


class Model:
    """A network with its card. Safe to share between threads: explaining changes nothing on it.

    `backend` is a name in BACKENDS, or "auto": what runs the network up to its last block. Up to
    earlier blocks it runs eagerly. Raises UnknownName if there is no such back end here.
    """

    def __init__(self, card: Card, network: nn.Module, backend: str = "eager") -> None:
        check_backend(backend)
        self.card = card
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.layers = blocks(network)
        self._cuts: OrderedDict[tuple[str, ...], Cut] = OrderedDict()  # last used last
        self._folded: Folded = {}  # shared by all cuts
        self._asked_backend = backend
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The card's name: `resnet18-cbam-imagenette`."""
        return self.card.name

    @cached_property
    def parameters(self) -> int:
        """Number of trained parameters."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    def chosen_layers(self, layer: str | Sequence[str] | None) -> tuple[str, ...]:
        """The layers meant by a name, several, or several in one string with commas between.

        In the network's order, each once; none: the last block. Raises UnknownName.
        """
        given = [layer] if isinstance(layer, str) else layer or []
        names = [name.strip() for each in given for name in each.split(",") if name.strip()]
        for name in names:
            if name not in self.layers:
                raise UnknownName.of(f"layer of '{self.name}'", name, self.layers)
        return tuple(name for name in self.layers if name in names) or (self.layers[-1],)

    @property
    def backend(self) -> str:
        """The back end that runs the network up to its last block; made with the first question."""
        with self._lock:
            return self._whole[1]

    @cached_property
    def _whole(self) -> tuple[Cut, str]:
        """The cut behind the last block, and the back end that runs its trunk."""
        cut = cut_at(self.network, self.layers[-1])
        return accelerate(cut, self._asked_backend, self.card.preprocess.size_px, self._folded)

    def cut(self, layer: str | Sequence[str] | None = None) -> Cut:
        """The network cut behind a block, or behind the last of several; made once and kept.

        Layers are named as for `chosen_layers`. Raises UnknownName.
        """
        layers = self.chosen_layers(layer)
        with self._lock:
            if layers == (self.layers[-1],):
                return self._whole[0]
            if layers not in self._cuts:
                cut = cut_at(self.network, layers)
                side_px = self.card.preprocess.size_px
                self._cuts[layers], _ = accelerate(cut, "eager", side_px, self._folded)
                if len(self._cuts) > CUTS_KEPT:
                    self._cuts.popitem(last=False)
            self._cuts.move_to_end(layers)
            return self._cuts[layers]

    def explain(
        self,
        photo: str | Path | bytes | Image.Image,
        target: int | str | None = None,
        method: str = "gradcam",
        layer: str | Sequence[str] | None = None,
        top_k: int = 5,
        versus: int | str | None = None,
    ) -> Explanation:
        """Predictions, heat map and gate maps for a photo (a path, a file's bytes or a PIL image).

        `target` is the class to explain (index or label; the top class by default), `method` a name
        in METHODS, `layer` a block (`layer4.1`; the last by default) or several, whose maps are
        averaged, `versus` the class that "finercam" contrasts with. Raises BadImage, UnknownName.
        """
        options = Options(target, method, layer, top_k, versus=versus)
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


def load(name: str | Path, backend: str = "eager") -> Model:
    """A model by the name of a bundled one, or by the folder of a card, to run in `backend`.

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
    return Model(card, load_network(card), backend)
