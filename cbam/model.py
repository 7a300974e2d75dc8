"""A model: trained weights and their card, ready to explain."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from cbam.backbones import blocks
from cbam.backends.choose import EAGER, accelerate, begin, check_backend
from cbam.cards.card import Card, load_network, read_card
from cbam.cards.families import available
from cbam.errors import BadOption, NotAvailable, look_up
from cbam.explain.explainer import answer
from cbam.explain.explanation import Explanation
from cbam.explain.question import DEFAULTS, Layers, Options, resolve
from cbam.images.photo import Photo
from cbam.images.photo import open_photo as open_photo
from cbam.trace.cut import Cut, cut_at
from cbam.trace.rewrite import Folded, share_weights

CUTS_KEPT = 64  # a model's cuts; anyone may ask for any set of layers


class Model:
    """A network with its card. Safe to share between threads: explaining changes nothing on it.

    `backend`, a name in BACKENDS or "auto", runs the network up to its last block; the attribute
    `backend` says which one was chosen. Up to earlier blocks, "eager" runs it. Raises UnknownName
    for an unknown back end, NotAvailable for one that this machine lacks.
    `own`: nobody else has the network, so that it may share its weights with what is made of it.
    """

    def __init__(
        self, card: Card, network: nn.Module, backend: str = EAGER, own: bool = False
    ) -> None:
        self.card = card
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.layers = blocks(network)
        self.parameters = sum(parameter.numel() for parameter in network.parameters())
        self._own = own
        self._folded: Folded = {}  # shared by all cuts
        self._cuts: OrderedDict[Layers, Cut] = OrderedDict()  # the most recently used comes last
        self._lock = threading.Lock()
        self._wait = self._begin(backend)

    def in_backend(self, name: str) -> "Model":
        """This model run by another back end; `name` as at `load`. This one stays as it is.

        Both share the network, its weights and the cuts up to earlier blocks. Raises UnknownName,
        NotAvailable.
        """
        other = copy(self)
        vars(other).pop("_whole", None)
        other._own = False  # if it was, the weights are shared already
        other._wait = other._begin(name)
        return other

    def _begin(self, backend: str) -> Callable[[], tuple[Cut, str]]:
        cut = cut_at(self.network, self.layers[-1])
        return begin(cut, backend, self.card.preprocess.size_px, self._folded)

    @property
    def name(self) -> str:
        """The card's name."""
        return self.card.name

    @property
    def backend(self) -> str:
        """The back end that runs the network up to its last block."""
        return self._whole[1]

    @cached_property
    def _whole(self) -> tuple[Cut, str]:
        made = self._wait()
        if self._own:
            share_weights(self._folded)
        return made

    def cut(self, layers: Layers | None = None) -> Cut:
        """The network cut behind the last of these blocks, by default its last; made once and kept.

        `layers` as `chosen_layers` gives them: names of blocks in the network's order.
        """
        whole, _ = self._whole  # first: it settles where the network's weights lie
        if layers is None or layers == (self.layers[-1],):
            return whole
        with self._lock:
            if layers not in self._cuts:
                cut = cut_at(self.network, layers)
                side_px = self.card.preprocess.size_px
                self._cuts[layers], _ = accelerate(cut, EAGER, side_px, self._folded)
                if len(self._cuts) > CUTS_KEPT:
                    self._cuts.popitem(last=False)
            self._cuts.move_to_end(layers)
            return self._cuts[layers]

    def explain(
        self,
        photo: Photo,
        target: int | str | None = None,
        method: str = Options.method,
        layer: str | Sequence[str] | None = None,
        top_k: int = Options.top_k,
        versus: int | str | None = None,
    ) -> Explanation:
        """Predictions, heat map and gate maps for a photo.

        `photo` is a path, a file's bytes, an open file, a PIL image, an array (H, W, 3) or a tensor
        (3, H, W), as `open_photo` takes them. `target` is what to explain: a class's index or
        label, or an everyday word such as "cat"; by default the top class. `method` is a name in
        METHODS. `layer` is a block (`layer4.1`; by
        default the last) or several, whose maps are averaged. `versus` is the class that "finercam"
        contrasts with. Raises BadImage, UnknownName, OptionClash.
        """
        return compare([self], photo, Options(target, method, layer, top_k, versus=versus))[0]


def compare(
    models: Sequence[Model],
    photo: Photo,
    options: Options = DEFAULTS,
) -> list[Explanation]:
    """Ask several models of one family about the same photo, for the same class: one answer each.

    Raises BadImage, UnknownName, OptionClash.
    """
    question = resolve(models, options)
    return answer(question, open_photo(photo))


def load(name: str | Path, backend: str = EAGER) -> Model:
    """A bundled model by its name, or any model by its card's folder, to run in `backend`.

    Raises UnknownName if there is none, BadCard if its weights are not what the card says.
    """
    card = find_card(name)
    check_backend(backend)
    return Model(card, load_network(card), backend, own=True)


def find_card(name: str | Path) -> Card:
    """The card of a bundled model by its name, or of any model by its card's folder.

    Raises UnknownName if there is none, BadCard if it cannot be used.
    """
    if not isinstance(name, (str, Path)):
        raise BadOption.of("name", name, "a model's name or the folder of its card")
    folder = Path(name)
    if (folder / "card.toml").is_file():
        return read_card(folder)
    return look_up("model", str(name), available())


@dataclass(frozen=True)
class Unloaded:
    """A model without its weights: enough to check a question before anything is loaded."""

    card: Card

    @cached_property
    def layers(self) -> list[str]:
        """Names of its blocks, as a loaded model has them."""
        with torch.device("meta"):
            return blocks(self.card.network())

    def cut(self, layers: Layers) -> Cut:
        """Nothing can be asked of it: always raises NotAvailable."""
        raise NotAvailable(f"The weights of '{self.card.name}' are not loaded.")
