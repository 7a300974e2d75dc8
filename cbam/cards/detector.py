"""Detectors' cards: a head on a classifier's frozen network, or a whole network of its own.

A detector's folder looks like a classifier's, but its card.toml has a section `[detector]`. If that
names a classifier, weights.safetensors holds the head alone: the network comes from the
classifier's own file. Else it holds everything, and `[detector.whole]` says what it is built of.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from cbam.attention import ATTENTION
from cbam.backbones import BACKBONES, build
from cbam.cards.card import (
    Card,
    read_card,
    store_weights,
    stored_weights,
    write_texts,
)
from cbam.data.text import lines_of, read_text, sentence
from cbam.detectors import BODY, DETECTORS
from cbam.errors import BadCard, BadRecipe, CBAMLensError, UnknownName, look_up
from cbam.images.frame import Frame

SECTION = "[detector]"


@dataclass(frozen=True)
class Whole:
    """[detector.whole] in card.toml: what a network of its own is built of."""

    backbone: str  # a name in BACKBONES
    attention: str  # a name in ATTENTION; where it stands is the kind's to say
    attention_options: dict[str, Any] = field(default_factory=dict)


class _Section(BaseModel):
    """[detector] in card.toml, key by key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    options: dict[str, Any] = {}
    classifier: str = ""
    classifier_sha256: str = ""
    backbone_options: dict[str, Any] = {}
    whole: Whole | None = None


class _CardFile(BaseModel):
    """card.toml, key by key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    family: str
    family_title: str
    licence: str
    data: str
    recipe: str
    weights_sha256: str
    storage: str
    detector: _Section
    frame: Frame
    metrics: dict[str, dict[str, Any]] = {}


@dataclass(frozen=True)
class DetectorCard:
    """What is known of a trained detector. What is on it was measured, or is absent."""

    name: str
    family: str
    family_title: str
    kind: str  # a name in DETECTORS
    # The model whose network it stands on, in a folder beside the detector's, and the sha256 of its
    # weights. Both are empty if there is a `whole`.
    classifier: str
    classifier_sha256: str
    labels: tuple[str, ...]  # class index -> name
    frame: Frame
    licence: str
    data: str
    recipe: str
    weights_sha256: str
    storage: str
    options: dict[str, Any] = field(default_factory=dict)  # of the detector's constructor
    backbone_options: dict[str, Any] = field(default_factory=dict)  # where the classifier's differ
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)  # by data set
    folder: Path = Path()
    whole: Whole | None = None  # what a network of its own is built of

    @property
    def attention(self) -> str:
        """A name in ATTENTION: by it, members of a family differ."""
        return self.whole.attention if self.whole else self.network.attention

    @property
    def network(self) -> Card:
        """The card of the classifier that it stands on.

        Raises BadCard if it is not there, or not the one named here.
        """
        card = read_card(self.folder.parent / self.classifier)
        if card.weights_sha256 != self.classifier_sha256:
            raise BadCard(
                f"'{self.name}' stands on '{self.classifier}' with other weights: its card names "
                f"sha256 {self.classifier_sha256[:16]}..., that model has "
                f"{card.weights_sha256[:16]}..."
            )
        return card

    @property
    def title(self) -> str:
        """What people call such a network: "FCOS on CBAM-ResNet-50", "CBAM-StairNet on VGG-16"."""
        kind = DETECTORS[self.kind]
        gates = self._gates if self.whole and kind.in_head else ""
        return f"{gates}{kind.title} on {self.body_title}"

    @property
    def body_title(self) -> str:
        """What people call the network that it stands on: "CBAM-ResNet-50"."""
        if self.whole is None:
            return self.network.title
        gates = "" if DETECTORS[self.kind].in_head else self._gates
        return f"{gates}{BACKBONES[self.whole.backbone].title}"

    @property
    def _gates(self) -> str:
        title = ATTENTION[self.attention].title
        return f"{title}-" if title else ""


def is_detector(folder: Path) -> bool:
    """Whether the model in a folder is a detector. False if its card cannot be read."""
    try:
        text = read_text(folder / "card.toml")
    except (OSError, ValueError):
        return False
    return any(line.strip() == SECTION for line in text.splitlines())


def read_detector_card(folder: Path) -> DetectorCard:
    """The card in a detector's folder. Raises BadCard with the reason."""
    try:
        text = read_text(folder / "card.toml")
        values = _CardFile.model_validate(tomllib.loads(text)).model_dump()
        labels = lines_of(folder / "labels.txt")
        section = values.pop("detector")
        if section["kind"] not in DETECTORS:
            raise ValueError(f"no detector '{section['kind']}', known: {', '.join(DETECTORS)}")
        if section["whole"] is not None:
            section["whole"] = Whole(**section["whole"])
            look_up("backbone", section["whole"].backbone, BACKBONES)
            look_up("attention", section["whole"].attention, ATTENTION)
        elif not (section["classifier"] and DETECTORS[section["kind"]].frozen):
            raise ValueError("it names no classifier to stand on, and no network of its own")
        frame = Frame(**values.pop("frame"))
    except (OSError, TypeError, ValueError, UnknownName) as error:
        raise BadCard(
            f"The detector's card in {folder} cannot be used: {sentence(error)}."
        ) from error
    return DetectorCard(**values, **section, labels=tuple(labels), frame=frame, folder=folder)


def frozen_network(classifier: Card, backbone_options: Mapping[str, Any]) -> nn.Module:
    """A classifier's trained network, built with some other options; in eval mode, frozen.

    Raises BadCard as `load_network` does.
    """
    weights = stored_weights(classifier)
    try:
        with torch.device("meta"):
            network = build(
                classifier.backbone,
                attention=classifier.attention,
                num_classes=len(classifier.labels),
                attention_options=classifier.attention_options,
                **{**classifier.backbone_options, **backbone_options},
            )
        network.load_state_dict(weights, assign=True)
    except (CBAMLensError, RuntimeError, TypeError) as error:
        raise BadCard(f"The weights of '{classifier.name}' do not fit: {error}") from error
    return network.eval().requires_grad_(False)


def build_detector(
    kind: str,
    labels: int,
    whole: Whole,
    options: Mapping[str, Any],
    backbone_options: Mapping[str, Any],
    start: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """A detector of `labels` classes with fresh weights and a network of its own.

    `start`: weights of a classifier, with which its backbone begins. Raises CBAMLensError or
    TypeError if it cannot be built so.
    """
    gates: dict[str, Any] = {
        "attention": whole.attention,
        "attention_options": whole.attention_options,
    }
    in_head = DETECTORS[kind].in_head
    body = build(whole.backbone, **({} if in_head else gates), **backbone_options)
    if start is not None:
        fitting = {
            name: start[name]
            for name, value in body.state_dict().items()
            if name in start and start[name].shape == value.shape
        }
        missing = body.load_state_dict(fitting, strict=False).missing_keys
        if missing := [name for name in missing if not name.startswith(("fc.", "classifier."))]:
            raise BadRecipe(f"The weights to begin with lack {', '.join(missing[:3])}.")
    return DETECTORS[kind].make(body, labels, **(gates if in_head else {}), **options)


def load_detector(card: DetectorCard) -> nn.Module:
    """The detector's network with its trained weights, in eval mode, frozen. Raises BadCard."""
    body = None if card.whole else frozen_network(card.network, card.backbone_options)
    weights = stored_weights(card)
    try:
        if card.whole:
            network = build_detector(
                card.kind, len(card.labels), card.whole, card.options, card.backbone_options
            )
        else:
            network = DETECTORS[card.kind].make(body, len(card.labels), **card.options)
        found = network.load_state_dict(weights, strict=False)
        missing = [name for name in found.missing_keys if card.whole or not name.startswith(BODY)]
        if missing or found.unexpected_keys:
            wrong = ", ".join([*missing, *found.unexpected_keys][:3])
            raise BadCard(f"The weights of '{card.name}' do not fit its card: {wrong}.")
    except BadCard:
        raise
    except (CBAMLensError, RuntimeError, TypeError) as error:
        raise BadCard(f"The weights of '{card.name}' do not fit its card: {error}") from error
    return network.eval().requires_grad_(False)


def head_weights(network: nn.Module) -> dict[str, Tensor]:
    """What a detector's own file holds: everything but the frozen network."""
    return {
        name: value for name, value in network.state_dict().items() if not name.startswith(BODY)
    }


def write_detector_card(
    card: DetectorCard, weights: dict[str, Tensor] | None = None
) -> DetectorCard:
    """Write a detector's folder: card.toml, labels.txt and, if given, its weights as int8.

    Returns the card with the sha256 of the weights now stored.
    """
    card.folder.mkdir(parents=True, exist_ok=True)
    sha256 = card.weights_sha256 if weights is None else store_weights(card.folder, weights)
    frame = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in asdict(card.frame).items()
        if key != "square" or value
    }
    values: dict[str, Any] = {
        **{
            key: getattr(card, key)
            for key in ("name", "family", "family_title", "licence", "data", "recipe")
        },
        "weights_sha256": sha256,
        "storage": card.storage,
        "detector": {
            "kind": card.kind,
            **(
                {"whole": asdict(card.whole)}
                if card.whole
                else {"classifier": card.classifier, "classifier_sha256": card.classifier_sha256}
            ),
            "options": card.options,
            "backbone_options": card.backbone_options,
        },
        "frame": frame,
        "metrics": card.metrics,
    }
    write_texts(card.folder, values, card.labels)
    return read_detector_card(card.folder)
