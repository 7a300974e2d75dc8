"""Model cards: a folder with card.toml, weights.safetensors and labels.txt is a model.

Weights are stored as int8 per output channel with float32 scales and widened at load; the card
names their sha256, which is checked before a byte of them is parsed. A model with gates may have a
fourth file, gates.safetensors, with the mean of every gate over many photos. It is checked as well.
"""

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import tomli_w
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from cbam.attention import ATTENTION
from cbam.backbones import BACKBONES, build
from cbam.cards.int8 import quantise, widen
from cbam.cards.search import LIMIT, Entry, Found, entries, plain, search
from cbam.cards.words import grouped
from cbam.data.text import lines_of, read_text, sentence
from cbam.errors import BadCard, CBAMLensError, UnknownName
from cbam.images.preprocess import Preprocess


class _CardFile(BaseModel):
    """card.toml, key by key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    family: str
    family_title: str
    backbone: str
    attention: str
    licence: str
    data: str
    recipe: str
    weights_sha256: str
    gates_sha256: str = ""
    storage: str
    temperature: float = Field(1.0, gt=0)
    known_from: float | None = None
    folders: list[str] = []
    backbone_options: dict[str, Any] = {}
    attention_options: dict[str, Any] = {}
    preprocess: Preprocess
    metrics: dict[str, dict[str, Any]] = {}


@dataclass(frozen=True)
class Card:
    """What is known of a trained model. What is on it was measured, or is absent."""

    name: str
    family: str
    family_title: str
    backbone: str
    attention: str  # a name in ATTENTION
    labels: tuple[str, ...]  # class index -> name
    preprocess: Preprocess
    licence: str
    data: str
    recipe: str
    weights_sha256: str
    storage: str
    gates_sha256: str = ""  # of gates.safetensors; empty: there is none
    temperature: float = 1.0  # probabilities are the softmax of logits divided by it
    known_from: float | None = None  # a largest logit below it: perhaps none of the classes
    folders: tuple[str, ...] = ()  # the training data's folder of each class, in class order
    backbone_options: dict[str, Any] = field(default_factory=dict)
    attention_options: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)  # by data set
    folder: Path = Path()

    @property
    def title(self) -> str:
        """What people call such a network: "CBAM-ResNet-18"."""
        before = ATTENTION[self.attention].title
        known = BACKBONES.get(self.backbone)  # not that of a network that somebody brought along
        return f"{before}-" * bool(before) + (known.title if known else self.backbone)

    @property
    def class_folders(self) -> tuple[str, ...]:
        """How data sets name each class, in class order: by its folder, or by its label."""
        return self.folders or self.labels

    @cached_property
    def words(self) -> dict[str, tuple[int, ...]]:
        """What the model can say: an everyday word that means several of its classes, or a label.

        "cat" -> tabby, Siamese cat ...; "toaster" -> its one class, or all that share this label.
        """
        several = {word: at for word, at in grouped(self.class_folders).items() if len(at) > 1}
        word_of = {index: word for word, at in several.items() for index in at}
        found: dict[str, list[int]] = {word: [] for word in several}
        for index, label in enumerate(self.labels):
            found.setdefault(word_of.get(index, label), []).append(index)
        return {word: tuple(indices) for word, indices in found.items()}

    def word(self, label: str) -> str:
        """The everyday word of a label: "cat" for "tabby"; without one the label itself."""
        index = self.labels.index(label)
        return next(word for word, indices in self.words.items() if index in indices)

    @cached_property
    def word_of(self) -> NDArray[np.int64]:
        """The position in `words` of each class's word: (classes,)."""
        position = np.empty(len(self.labels), np.int64)
        for number, indices in enumerate(self.words.values()):
            position[list(indices)] = number
        return position

    @cached_property
    def _meant(self) -> dict[str, tuple[int, ...]]:
        """What a text means, in lower case: a label its class, a WordNet id, a word all of its."""
        every = {word.casefold(): at for word, at in grouped(self.class_folders).items()}
        for names in (self.class_folders, self.labels):  # a label goes before a word
            every |= {name.casefold(): (index,) for index, name in reversed([*enumerate(names)])}
        return every

    @cached_property
    def _alike(self) -> dict[str, tuple[int, ...]]:
        """The same without accents and punctuation, and synonyms that belong to one class."""
        found: dict[str, set[int]] = {}
        for entry in self._entries:
            for name in entry.found.synonyms:
                found.setdefault(plain(name), set()).update(entry.found.indices)
        of_one = {name: tuple(indices) for name, indices in found.items() if len(indices) == 1}
        found_by = {**of_one, **{plain(name): at for name, at in reversed(self._meant.items())}}
        return {name: at for name, at in found_by.items() if name}  # not those of signs alone

    @cached_property
    def _entries(self) -> tuple[Entry, ...]:
        return entries(self.labels, self.class_folders, self.words, self._exactly)

    def search(self, text: str, limit: int | None = LIMIT) -> tuple[Found, ...]:
        """The classes and words that a text may mean, the likeliest first; `limit` None: all.

        It looks for the text in labels, everyday words, WordNet's synonyms and WordNet ids. Case,
        accents and punctuation do not matter.
        """
        return search(self._entries, text, limit)

    def _exactly(self, text: str) -> tuple[int, ...]:
        if text.isdecimal() and len(text) < 20 and int(text) < len(self.labels):
            return (int(text),)
        return self._meant.get(text.casefold(), ())

    def classes(self, target: int | str) -> tuple[int, ...]:
        """The classes meant by an index, its digits, a label, a WordNet id, a word or a synonym.

        Case, accents and punctuation do not matter. Only a word means several. Raises UnknownName
        with what the text may have meant, or else with the labels that there are.
        """
        text = str(target).strip()
        if found := self._exactly(text) or self._alike.get(plain(text), ()):
            return found
        if near := self.search(text, 5):
            raise UnknownName(
                f"No class '{text[:80]}'. Did you mean {', '.join(each.target for each in near)}?"
            )
        shown = [f"{index} {label}" for index, label in enumerate(self.labels[:20])]
        if len(self.labels) > len(shown):
            shown.append(f"... up to {len(self.labels) - 1}")
        raise UnknownName.of("class", text[:80], shown)

    @cached_property
    def gate_means(self) -> Mapping[str, Tensor]:
        """Every gate's mean over many photos, by its name as in `Cut.places`; empty if not stored.

        "layer1.0.channel" -> (C, 1, 1), "layer1.0.spatial" -> (1, h, w), float32. Read when first
        asked for. Raises BadCard if the file is missing or is not the one that the card names.
        """
        if not self.gates_sha256:
            return {}
        data = _checked_bytes(self, "gates", self.gates_sha256)
        try:
            return MappingProxyType(parse_safetensors(data))
        except SafetensorError as error:
            raise BadCard(f"The gates of '{self.name}' cannot be read: {error}") from error

    def probabilities(self, logits: Tensor) -> Tensor:
        """What the model's logits (N, classes) say, with the card's temperature: (N, classes)."""
        return (logits / self.temperature).softmax(dim=1)

    def none_of_these(self, logits: Tensor) -> Tensor:
        """Whether photos with these logits (N, classes) may show none of the classes: (N,) of bool.

        Never, if that was not measured.
        """
        return logits.amax(dim=1) < (float("-inf") if self.known_from is None else self.known_from)

    def network(self) -> nn.Module:
        """The card's network with fresh weights."""
        return build(
            self.backbone,
            attention=self.attention,
            num_classes=len(self.labels),
            attention_options=self.attention_options,
            **self.backbone_options,
        )


def read_card(folder: Path) -> Card:
    """The card in a model's folder. Raises BadCard with the reason."""
    try:
        text = read_text(folder / "card.toml")
        values = _CardFile.model_validate(tomllib.loads(text)).model_dump()
        labels = lines_of(folder / "labels.txt")
        if labels == [""]:
            raise ValueError("labels.txt names no class")
        for key, table in (("attention", ATTENTION), ("backbone", BACKBONES)):
            if values[key] not in table:
                raise ValueError(f"no {key} '{values[key]}', known: {', '.join(table)}")
        values["folders"] = tuple(values["folders"])
        preprocess = Preprocess(**values.pop("preprocess"))
    except (OSError, tomllib.TOMLDecodeError, TypeError, ValueError) as error:
        raise BadCard(f"The model card in {folder} cannot be used: {sentence(error)}.") from error
    return Card(**values, labels=tuple(labels), preprocess=preprocess, folder=folder)


class Stored(Protocol):
    """A card's name, its folder and the sha256 of the weights in there."""

    @property
    def name(self) -> str: ...
    @property
    def folder(self) -> Path: ...
    @property
    def weights_sha256(self) -> str: ...


def weights_bytes(card: Stored) -> bytes:
    """The stored weights, if they are those that the card names. Raises BadCard otherwise."""
    return _checked_bytes(card, "weights", card.weights_sha256)


def _checked_bytes(card: Stored, what: str, sha256: str) -> bytes:
    """The file <what>.safetensors of the card's folder. Raises BadCard if it has another sha256."""
    path = card.folder / f"{what}.safetensors"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadCard(f"Model '{card.name}' has no {what}: {error}.") from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise BadCard(
            f"The {what} of '{card.name}' are not the ones that its card names: {path} has sha256 "
            f"{found[:16]}..., the card says {sha256[:16]}... The file is damaged or "
            "was exchanged; install it anew."
        )
    return data


def stored_weights(card: Stored) -> dict[str, Tensor]:
    """The stored weights as float32, by parameter.

    Raises BadCard if they are missing, damaged, or not those that the card names.
    """
    data = weights_bytes(card)
    try:
        return widen(parse_safetensors(data))
    except (RuntimeError, SafetensorError) as error:
        raise BadCard(f"The weights of '{card.name}' do not fit its card: {error}") from error


def load_network(card: Card) -> nn.Module:
    """The card's network with its trained weights, in eval mode, frozen.

    Raises BadCard if the weights are missing, are not those that the card names, or do not fit.
    """
    weights = stored_weights(card)
    try:
        with torch.device("meta"):  # fresh weights would be drawn and thrown away
            network = card.network()
        network.load_state_dict(weights, assign=True)
    except (CBAMLensError, RuntimeError, TypeError) as error:
        raise BadCard(f"The weights of '{card.name}' do not fit its card: {error}") from error
    return network.eval().requires_grad_(False)


def write_card(
    card: Card,
    weights: dict[str, Tensor] | None = None,
    gate_means: Mapping[str, Tensor] | None = None,
) -> Card:
    """Write a model's folder: card.toml, labels.txt and, if given, weights (as int8), gate means.

    New weights have other gates: means that are not given with them are forgotten. Returns the card
    with the sha256 of the files now stored.
    """
    card.folder.mkdir(parents=True, exist_ok=True)
    values = {each.name: getattr(card, each.name) for each in fields(card)}
    del values["labels"], values["folder"]
    values["preprocess"] = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in vars(card.preprocess).items()
    }
    if weights is not None:
        values["weights_sha256"] = store_weights(card.folder, weights)
        values["gates_sha256"] = ""
    if gate_means is not None:
        means = {name: value.float().contiguous() for name, value in gate_means.items()}
        data = to_safetensors(means)
        (card.folder / "gates.safetensors").write_bytes(data)
        values["gates_sha256"] = hashlib.sha256(data).hexdigest()
    if not values["gates_sha256"]:
        del values["gates_sha256"]
    write_texts(card.folder, values, card.labels)
    return read_card(card.folder)


def store_weights(folder: Path, weights: dict[str, Tensor]) -> str:
    """Write weights into a model's folder as int8. Returns the file's sha256."""
    data = to_safetensors(quantise(weights))
    (folder / "weights.safetensors").write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def write_texts(folder: Path, values: Mapping[str, Any], labels: Sequence[str]) -> None:
    """Write card.toml, without empty values, and labels.txt into a model's folder."""
    text = tomli_w.dumps(
        {key: value for key, value in values.items() if value not in ({}, (), None)}
    )
    (folder / "card.toml").write_text(text, encoding="utf-8")
    lines = "".join(f"{label}\n" for label in labels)
    (folder / "labels.txt").write_text(lines, encoding="utf-8")
