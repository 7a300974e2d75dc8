"""A model: trained weights and their card, ready to explain."""

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from cbam.backbones import blocks
from cbam.backends.choose import EAGER, accelerate, begin, check_backend
from cbam.cards.card import Card, load_network, read_card
from cbam.cards.families import available
from cbam.errors import BadCard, BadOption, MissingFile, NotAvailable, look_up
from cbam.explain.explainer import answer
from cbam.explain.explanation import Explanation
from cbam.explain.features import FeatureOptions, Features, Pick, look, resolve_features
from cbam.explain.interventions import Gates
from cbam.explain.question import DEFAULTS, Layers, Options, chosen_layers, resolve
from cbam.images.photo import Photo, open_photo
from cbam.trace.cut import Cut, Place, cut_at
from cbam.trace.intervene import Change, changeable, changed, is_told
from cbam.trace.probe import Probe, probe_at
from cbam.trace.rewrite import Folded, fuse, share_weights
from cbam.undisturbed import undisturbed

CUTS_KEPT = 64  # a model's cuts; anyone may ask for any set of layers


class Model:
    """A network with its card. Safe to share between threads: explaining changes nothing on it.

    `backend`, a name in BACKENDS or "auto", runs the network up to its last block; the attribute
    `backend` says which one was chosen. Up to earlier blocks, "eager" runs it. Raises UnknownName
    for an unknown back end, NotAvailable for one that this machine lacks.
    The model answers with a copy of the network, in float32 on the CPU, in eval mode: what anybody
    does to the network afterwards changes no answer. `own`: nobody else has it, so that it need not
    be copied, and may share its weights with what is made of it.

    A model that `load` made can be pickled and sent to another process, where it is loaded anew. It
    can always be copied.
    """

    @undisturbed
    def __init__(
        self, card: Card, network: nn.Module, backend: str = EAGER, own: bool = False
    ) -> None:
        self.card = card
        mine = (network if own else copy.deepcopy(network)).to("cpu", torch.float32)
        self._network = mine.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.layers = blocks(mine)
        self.parameters = sum(parameter.numel() for parameter in mine.parameters())
        self._own = own
        self._loaded_as: tuple[str | Path, str] | None = None  # name or folder, back end
        self._folded: Folded = {}  # shared by all cuts
        # The most recently used comes last. Whether its gates are to be told what to say.
        self._cuts: OrderedDict[tuple[Layers, bool], Cut] = OrderedDict()
        self._probes: dict[tuple[str, ...], Probe] = {}
        self._lock = threading.Lock()
        self._wait = self._begin(backend)

    @undisturbed
    def in_backend(self, name: str) -> "Model":
        """This model run by another back end; `name` as at `load`. This one stays as it is.

        Both share the network, its weights and the cuts up to earlier blocks. Raises UnknownName,
        NotAvailable.
        """
        other = copy.copy(self)
        del vars(other)["_whole"]
        other._own = False  # if it was, the weights are shared already
        if self._loaded_as is not None:
            other._loaded_as = (self._loaded_as[0], name)
        other._wait = other._begin(name)
        return other

    def _begin(self, backend: str) -> Callable[[], tuple[Cut, str]]:
        last, side_px = self.layers[-1], self.card.preprocess.size_px
        told = partial(changeable, self._network, last)
        return begin(cut_at(self._network, last), backend, side_px, self._folded, told)

    @cached_property
    def network(self) -> nn.Module:
        """A copy of the network, for the caller to look at, to change or to train.

        Changes to it change no answer; `Model(model.card, model.network)` answers with them.
        """
        return self.network_copy()

    def network_copy(self) -> nn.Module:
        """The same, another copy with every call, which the model does not keep."""
        _ = self._whole  # it settles where the network's weights lie
        return undisturbed(copy.deepcopy)(self._network)

    @property
    def name(self) -> str:
        """The card's name."""
        return self.card.name

    @property
    def backend(self) -> str:
        """The back end that runs the network up to its last block."""
        return self._whole[1]

    def __reduce__(self) -> tuple[Any, ...]:
        """By the card: the other process loads the model anew. Raises MissingFile."""
        if self._loaded_as is None:
            raise MissingFile(
                f"Model '{self.name}' was made in memory: there is no folder from which another "
                "process could load it. Write one with cbam.cards.card.write_card and cbam.load it."
            )
        return _loaded_again, (*self._loaded_as, self.card.weights_sha256)

    def __copy__(self) -> "Model":
        return self.__deepcopy__({})

    def __deepcopy__(self, memo: dict[int, Any]) -> "Model":
        """A model of its own with the same answers; what answers never changes, and is shared."""
        _ = self._whole  # made once for both
        twin = object.__new__(type(self))
        vars(twin).update(vars(self))
        vars(twin).pop("network", None)
        return twin

    @cached_property
    def _whole(self) -> tuple[Cut, str]:
        return self._made()

    @undisturbed
    def _made(self) -> tuple[Cut, str]:
        made = self._wait()
        if self._own:
            share_weights(self._folded)
        return made

    @cached_property
    def gates(self) -> Mapping[str, Place]:
        """Where its gates stand, by name ("layer1.0.channel"), with the shapes of their maps."""
        return self._placed()

    @undisturbed
    def _placed(self) -> Mapping[str, Place]:
        side_px = self.card.preprocess.size_px
        return self.cut().places_for(torch.zeros(1, 3, side_px, side_px, dtype=torch.float32))

    @undisturbed
    def cut(
        self,
        layers: str | Sequence[str] | None = None,
        changes: Mapping[str, Change] | None = None,
    ) -> Cut:
        """The network cut behind the last of these blocks, by default its last; made once and kept.

        With `changes`, some gates are told what to say; the back end runs that, too, if it can, and
        PyTorch otherwise.
        Raises UnknownName, BadOption.
        """
        whole, _ = self._whole  # first: it settles where the network's weights lie
        layers = chosen_layers(self, layers)
        is_whole = layers == (self.layers[-1],)
        if changes:
            is_ready = is_whole and is_told(whole)
            return changed(whole if is_ready else self._cut(layers, told=True), changes)
        return whole if is_whole else self._cut(layers, told=False)

    def _cut(self, layers: Layers, told: bool) -> Cut:
        """A cut that PyTorch runs, made once and kept."""
        with self._lock:
            if (layers, told) not in self._cuts:
                if told:
                    cut = changeable(self._network, layers)
                    assert isinstance(cut.trunk, fx.GraphModule)
                    with torch.no_grad():
                        cut = replace(cut, trunk=fuse(cut.trunk, self._folded))
                else:
                    side_px = self.card.preprocess.size_px
                    plain = cut_at(self._network, layers)
                    cut, _ = accelerate(plain, EAGER, side_px, self._folded)
                self._cuts[layers, told] = cut
                if len(self._cuts) > CUTS_KEPT:
                    self._cuts.popitem(last=False)
            self._cuts.move_to_end((layers, told))
            return self._cuts[layers, told]

    @undisturbed
    def probe(self, gates: tuple[str, ...]) -> Probe:
        """The network up to the module that has these gates, in PyTorch; made once and kept."""
        _ = self._whole  # first: it settles where the network's weights lie
        places = self.gates
        with self._lock:
            if gates not in self._probes:
                self._probes[gates] = probe_at(self._network, places, gates, self._folded)
            return self._probes[gates]

    def explain(
        self,
        photo: Photo,
        target: int | str | None = None,
        method: str = Options.method,
        layer: str | Sequence[str] | None = None,
        top_k: int = Options.top_k,
        versus: int | str | None = None,
        gates: Gates | None = None,
        fuse: str = Options.fuse,
    ) -> Explanation:
        """Predictions, heat map and gate maps for a photo.

        `photo` is a path, a file's bytes, an open file, a PIL image, an array (H, W, 3) or a tensor
        (3, H, W), as `open_photo` takes them. `target` is what to explain: a class's index or
        label, or an everyday word such as "cat"; by default the top class. `method` is a name in
        METHODS. `layer` is a block (`layer4.1`; by default the last) or several, whose maps become
        one as `fuse` says: "mean" or "max". `versus` is the class that "finercam" contrasts with.
        `gates` changes what gates say, such as "layer1.0.channel=off, *=0.5": see
        `cbam.explain.interventions`. Raises BadImage, UnknownName, OptionClash, BadOption.
        """
        options = Options(target, method, layer, top_k, versus=versus, gates=gates, fuse=fuse)
        return compare([self], photo, options)[0]

    def features(
        self,
        photo: Photo,
        block: str = "",
        channels: str | Sequence[int] | None = None,
        pick: Pick = "strongest",
        count: int = FeatureOptions.count,
        gates: Gates | None = None,
    ) -> Features:
        """A block's features before and after its gates, and how each gate came to its map.

        `photo` and `gates` are as for `explain`. `block` is one that has gates (`layer1.0`; by
        default the last). `channels` are numbers, such as [7, 12] or "7, 12-15"; by default `count`
        of them are picked: the "strongest", the most "open" or the most "shut". Raises BadImage,
        UnknownName, OptionClash, BadOption.
        """
        options = FeatureOptions(block, channels, pick, count, gates)
        return look(resolve_features([self], options), open_photo(photo))[0]


@undisturbed
def compare(
    models: Sequence[Model],
    photo: Photo,
    options: Options = DEFAULTS,
) -> list[Explanation]:
    """Ask several models of one family about the same photo, for the same class: one answer each.

    Raises BadImage, UnknownName, OptionClash, BadOption.
    """
    question = resolve(models, options)
    return answer(question, open_photo(photo))


@undisturbed
def load(name: str | Path, backend: str = EAGER) -> Model:
    """A bundled model by its name, or any model by its card's folder, to run in `backend`.

    Raises UnknownName if there is none, BadCard if its weights are not what the card says.
    """
    card = find_card(name)
    check_backend(backend)
    model = Model(card, load_network(card), backend, own=True)
    by_folder = (Path(name) / "card.toml").is_file()
    model._loaded_as = (card.folder.resolve() if by_folder else card.name, backend)
    return model


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


def _loaded_again(name: str | Path, backend: str, weights_sha256: str) -> Model:
    """The same model in another process. Raises BadCard if there it has other weights."""
    model = load(name, backend)
    if model.card.weights_sha256 != weights_sha256:
        raise BadCard(f"Here model '{name}' has other weights than where it was sent from.")
    return model


@dataclass(frozen=True)
class Unloaded:
    """A model without its weights: enough to check a question before anything is loaded."""

    card: Card

    @cached_property
    def layers(self) -> list[str]:
        """Names of its blocks, as a loaded model has them."""
        with torch.device("meta"):
            return blocks(self.card.network())

    @cached_property
    def gates(self) -> Mapping[str, Place]:
        """Where its gates stand, as a loaded model has them."""
        side_px = self.card.preprocess.size_px
        with torch.device("meta"):
            cut = cut_at(self.card.network().eval(), self.layers[-1])
            return cut.places_for(torch.zeros(1, 3, side_px, side_px, dtype=torch.float32))

    def cut(self, layers: Layers, changes: Mapping[str, Change] | None = None) -> Cut:
        """Nothing can be asked of it: always raises NotAvailable."""
        raise NotAvailable(f"The weights of '{self.card.name}' are not loaded.")
