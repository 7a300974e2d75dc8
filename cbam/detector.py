"""A detector: a trained network, ready to find and to explain."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import nn

from cbam.backends.choose import EAGER, accelerate
from cbam.cards.detector import DetectorCard, is_detector, load_detector, read_detector_card
from cbam.cards.families import models_folder
from cbam.detectors import DetectorNetwork, block_name
from cbam.explain.detection import Detected, DetectOptions, find
from cbam.images.photo import Photo, open_photo
from cbam.model import Model
from cbam.model import load as load_model
from cbam.trace.cut import Cut, cut_at
from cbam.trace.rewrite import Folded, share_weights
from cbam.undisturbed import undisturbed

DEFAULT = DetectOptions()


class Detector:
    """A detector with its card. Safe to share between threads: finding changes nothing on it.

    `layers` are the blocks behind which its boxes can be explained: those around whose output no
    path leads to the head.
    """

    def __init__(self, card: DetectorCard, network: nn.Module) -> None:
        self.card = card
        network.eval().requires_grad_(False)
        self.network = network.to(memory_format=torch.channels_last)
        self._paths = {block_name(path): path for path in self.asked.cuttable}
        self.layers = [*self._paths]
        self.parameters = sum(parameter.numel() for parameter in network.parameters())
        self._folded: Folded = {}
        self._cuts: dict[str, Cut] = {}
        self._lock = threading.Lock()
        self.cut(self.default_layer)
        share_weights(self._folded)

    @property
    def name(self) -> str:
        """The card's name."""
        return self.card.name

    @property
    def asked(self) -> DetectorNetwork:
        """The network, as what finds and explains with it knows it."""
        return cast(DetectorNetwork, self.network)

    @property
    def default_layer(self) -> str:
        """The block that is explained by default: the last of those that can be."""
        return self.layers[-1]

    @undisturbed
    def cut(self, layer: str) -> Cut:
        """The network cut behind a block of `layers`; made once and kept."""
        with self._lock:
            if layer not in self._cuts:
                cut = cut_at(self.network, self._paths[layer])
                self._cuts[layer], _ = accelerate(cut, EAGER, self.card.frame.size_px, self._folded)
            return self._cuts[layer]

    def detect(
        self,
        photo: Photo,
        score: float = DEFAULT.score,
        maps: int = DEFAULT.maps,
        box: tuple[float, float, float, float] | None = None,
        label: str | None = None,
        of: str = DEFAULT.of,
        method: str = DEFAULT.method,
        layer: str | None = None,
    ) -> Detected:
        """Boxes on a photo, as `open_photo` takes it, with heat maps of some.

        `score`: least score of a box. `maps`: how many boxes, the surest ones, get a heat map; or
        `box`, in pixels of the upright photo: the one, of the class `label` if it is given, that
        overlaps most with it. `of` is what a map explains: "score", or how far the "left", "top",
        "right" or "bottom" side is away. `method` is a name in BOX_METHODS, `layer` a block, or
        several, "layer2.1,layer3.1", whose maps become one.
        Raises BadImage, UnknownName, OptionClash.
        """
        options = DetectOptions(
            score, maps=maps, box=box, label=label, of=of, method=method, layer=layer
        )
        return self.find(open_photo(photo), options)

    def find(self, photo: Image.Image, options: DetectOptions = DEFAULT) -> Detected:
        """The same for a photo that is upright RGB. Raises UnknownName, OptionClash."""
        return find(self, photo, options)


def detect(
    models: Sequence[Detector],
    photo: Photo,
    options: DetectOptions = DEFAULT,
) -> list[Detected]:
    """Ask several detectors about the same photo. Raises BadImage, UnknownName, OptionClash."""
    opened = open_photo(photo)
    return [find(model, opened, options) for model in models]


@undisturbed
def open_detector(card: DetectorCard) -> Detector:
    """The detector of a card. Raises BadCard."""
    return Detector(card, load_detector(card))


def find_detector(name: str | Path) -> DetectorCard | None:
    """The card of a bundled detector by its name, or of any by its card's folder; else None.

    Raises BadCard if it cannot be used.
    """
    folders = [Path(name)] if (Path(name) / "card.toml").is_file() else [models_folder() / name]
    return next((read_detector_card(each) for each in folders if is_detector(each)), None)


# Any, since only the name says which of the two comes back.
def load(name: str | Path, backend: str = EAGER) -> Model | Any:
    """A bundled model by its name, or any by its card's folder: a Model, or a Detector.

    `backend` is what runs a Model; a Detector runs in PyTorch. Raises UnknownName if there is none,
    BadCard if its weights are not what the card says.
    """
    if isinstance(name, (str, Path)) and (card := find_detector(name)):
        return open_detector(card)
    return load_model(name, backend)
