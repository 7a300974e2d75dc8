"""What is asked: options as a caller gives them, resolved once into a question about models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Protocol

import numpy as np

from cbam.cards.card import Card
from cbam.errors import BadOption, OptionClash, UnknownName, look_up
from cbam.explain.explanation import Explanation
from cbam.explain.formulas import FUSIONS, MEAN
from cbam.explain.interventions import Changes, Gates, changes
from cbam.explain.methods import GRADCAM, METHODS, Method
from cbam.trace.cut import Cut, Place
from cbam.trace.intervene import Change

LAYER = "the name of a block, such as 'layer4.1', or a list of names"
Layers = tuple[str, ...]  # blocks of one model, in its network's order, each once


@dataclass(frozen=True)
class Options:
    """What to explain, and how. The defaults are those of the page, the API and the library.

    Raises BadOption for a value of the wrong kind or out of range; names are looked up later, by
    `resolve`, since they depend on the models.
    """

    target: int | str | None = None  # class index, label or word; None: the first model's top class
    method: str = GRADCAM
    layer: str | Sequence[str] | None = None  # or several, "layer3.1,layer4.1"; None: the last
    top_k: int = 5  # predictions, and heat maps where they come free
    attention: bool = True  # gate maps too
    versus: int | str | None = None  # for Finer-CAM: class to contrast with; None: the closest
    time_limit_s: float | None = None  # for methods of many passes; then TooSlow
    in_words: bool = False  # without a target, the first model's top everyday word is explained
    gates: Gates | None = None  # what to change about them, see `interventions`; None: nothing
    fuse: str = MEAN  # how the maps of several layers become one: a name in FUSIONS

    def __post_init__(self) -> None:
        a_class = "a class's index or label, or a word such as 'cat'"
        _check("target", self.target, self.target is None or _names_a_class(self.target), a_class)
        _check("versus", self.versus, self.versus is None or _names_a_class(self.versus), a_class)
        _check("method", self.method, isinstance(self.method, str), "the name of a CAM method")
        _check("fuse", self.fuse, isinstance(self.fuse, str), f"one of {', '.join(FUSIONS)}")
        _check(
            "layer",
            self.layer,
            self.layer is None or _names_layers(self.layer),
            LAYER,
        )
        _check("top_k", self.top_k, _is_whole(self.top_k, 1), "a whole number from 1")
        for name in ("attention", "in_words"):
            value = getattr(self, name)
            _check(name, value, isinstance(value, bool | np.bool_), "True or False")
        named = self.gates is None or isinstance(self.gates, str | Mapping)
        _check("gates", self.gates, named, "a text such as 'layer1.0.channel=off', or a mapping")
        limit = self.time_limit_s
        _check(
            "time_limit_s",
            limit,
            limit is None
            or (isinstance(limit, Real) and not isinstance(limit, bool) and limit >= 0),
            "a number of seconds",
        )


def _check(name: str, value: object, fits: bool, wanted: str) -> None:
    """Raises BadOption unless the value `fits`."""
    if not fits:
        raise BadOption.of(name, value, wanted)


def _is_whole(value: object, least: int, most: float = float("inf")) -> bool:
    """Whether it is a whole number, NumPy's too, in this range. True and False are none."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        return False
    return least <= int(value) <= most


def _names_a_class(value: object) -> bool:
    return isinstance(value, str) or _is_whole(value, 0, 2**63)


def _names_layers(value: object) -> bool:
    return isinstance(value, str) or (
        isinstance(value, Sequence) and all(isinstance(name, str) for name in value)
    )


DEFAULTS = Options()


class Explainable(Protocol):
    """What a question needs of a model."""

    @property
    def card(self) -> Card: ...

    @property
    def layers(self) -> Sequence[str]: ...

    @property
    def gates(self) -> Mapping[str, Place]:
        """Where its gates stand, by name."""

    def cut(self, layers: Layers, changes: Mapping[str, Change] | None = None) -> Cut:
        """The network cut behind the last of these blocks; with changes, told what gates say."""


@dataclass(frozen=True)
class Question:
    """Options with every name resolved and checked, so that no later step checks them again."""

    models: tuple[Explainable, ...]
    layers: tuple[Layers, ...]  # of each model
    method: Method
    method_name: str
    target: tuple[int, ...]  # classes: one, or all of a word; empty: the first model's top class
    word: str  # the target's, if it means several classes; else empty
    versus: tuple[int, ...]  # empty: the classes that come closest, for methods that contrast
    top_k: int
    attention: bool
    time_limit_s: float
    in_words: bool  # without a target: the first model's top word, not class
    changes: tuple[Changes, ...]  # of each model's gates
    fuse: str = MEAN  # how several layers' maps become one: a name in FUSIONS

    @property
    def unchanged(self) -> "Question":
        """The same question to the networks as they are."""
        return replace(self, changes=tuple(Changes() for _ in self.models))

    @property
    def intervenes(self) -> tuple[bool, ...]:
        """For each model, whether any of its gates is changed."""
        return tuple(map(bool, self.changes))

    @property
    def of_changed(self) -> "Question":
        """The question to the changed models alone.

        As it is if none is changed, or if it is open.
        """
        return self if self.is_open or not any(self.changes) else self._narrowed()

    @property
    def is_open(self) -> bool:
        """Whether the first model's answer has to decide what is explained."""
        return not self.target or (self.method.versus and not self.versus)

    def _narrowed(self) -> "Question":
        chosen = [number for number, changed in enumerate(self.intervenes) if changed]
        return replace(
            self,
            models=tuple(self.models[number] for number in chosen),
            layers=tuple(self.layers[number] for number in chosen),
            changes=tuple(self.changes[number] for number in chosen),
        )

    def after(self, before: Sequence[Explanation]) -> "Question":
        """The question to the changed models alone, about the class that was explained before."""
        target = before[0].target
        return replace(
            self._narrowed(),
            target=target.indices or (target.index,),
            word=target.label if target.indices else "",
            versus=tuple(each.index for each in before[0].versus),
        )


def resolve(models: Sequence[Explainable], options: Options = DEFAULTS) -> Question:
    """Resolve options into a question about models that know the same classes.

    Raises UnknownName for an unknown method, layer, fusion, class or gate, OptionClash for models
    with different classes, for `versus` with a method that does not contrast and for contradictory
    changes of gates, BadOption for what is no list of models or no Options.
    """
    if not isinstance(models, Sequence) or not models or isinstance(models, str):
        raise BadOption.of("models", models, "a list of models, such as [cbam.load(...)]")
    for model in models:
        if not hasattr(model, "card"):
            raise BadOption.of("A model", model, "what cbam.load returns")
    if not isinstance(options, Options):
        raise BadOption.of("options", options, "cbam.Options(...)")
    look_up("way to fuse layers", options.fuse, FUSIONS)
    method, card = look_up("CAM method", options.method, METHODS), models[0].card
    for model in models:
        if model.card.labels != card.labels:
            raise OptionClash(
                f"'{card.name}' and '{model.card.name}' know different classes, so no class can be "
                "explained for both. Compare models of one family."
            )
    if options.versus is not None and not method.versus:
        able = ", ".join(name for name, each in METHODS.items() if each.versus)
        raise OptionClash(
            f"Method '{options.method}' explains a class by itself. To contrast it with "
            f"'{str(options.versus)[:80]}', choose the method {able}."
        )
    target = () if options.target is None else card.classes(options.target)
    versus = () if options.versus is None else card.classes(options.versus)
    if set(target) & set(versus):
        raise OptionClash(f"'{options.target}' cannot be contrasted with itself: name another.")
    if len(target) > 1 and not method.groups:
        raise OptionClash(
            f"Method '{options.method}' explains one class; '{str(options.target)[:80]}' means "
            f"{len(target)}: name one, such as '{card.labels[target[0]]}'."
        )
    return Question(
        tuple(models),
        tuple(chosen_layers(model, options.layer) for model in models),
        method,
        options.method,
        target,
        card.word(card.labels[target[0]]) if len(target) > 1 else "",
        versus,
        options.top_k,
        options.attention,
        float("inf") if options.time_limit_s is None else options.time_limit_s,
        options.in_words and method.groups,
        changes(models, options.gates),
        options.fuse,
    )


def chosen_layers(model: Explainable, layer: str | Sequence[str] | None) -> Layers:
    """The layers that `layer` names: one, several, or several in one string with commas between.

    They are in the network's order, each once. By default, the last block. Raises UnknownName,
    BadOption.
    """
    if layer is not None and not _names_layers(layer):
        raise BadOption.of("layer", layer, LAYER)
    given = [layer] if isinstance(layer, str) else layer or []
    names = [name.strip() for each in given for name in each.split(",") if name.strip()]
    for name in names:
        if name not in model.layers:
            raise UnknownName.of(f"layer of '{model.card.name}'", name, model.layers)
    return tuple(name for name in model.layers if name in names) or (model.layers[-1],)
