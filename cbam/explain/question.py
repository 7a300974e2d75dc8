"""What is asked: options as a caller gives them, resolved once into a question about models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from cbam.cards.card import Card
from cbam.errors import OptionClash, UnknownName
from cbam.explain.explanation import Explanation
from cbam.explain.interventions import Changes, Gates, changes
from cbam.explain.methods import GRADCAM, METHODS, Method
from cbam.trace.cut import Cut, Place
from cbam.trace.intervene import Change

Layers = tuple[str, ...]  # blocks of one model, in its network's order, each once


@dataclass(frozen=True)
class Options:
    """What to explain, and how. The defaults are those of the page, the API and the library."""

    target: int | str | None = None  # class index, label or word; None: the first model's top class
    method: str = GRADCAM
    layer: str | Sequence[str] | None = None  # or several, "layer3.1,layer4.1"; None: the last
    top_k: int = 5  # predictions, and heat maps where they come free
    attention: bool = True  # gate maps too
    versus: int | str | None = None  # for Finer-CAM: class to contrast with; None: the closest
    time_limit_s: float | None = None  # for methods of many passes; then TooSlow
    in_words: bool = False  # without a target, the first model's top everyday word is explained
    gates: Gates | None = None  # what to change about them, see `interventions`; None: nothing


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

    @property
    def unchanged(self) -> "Question":
        """The same question to the networks as they are."""
        return replace(self, changes=tuple(Changes() for _ in self.models))

    @property
    def intervenes(self) -> tuple[bool, ...]:
        """For each model, whether any of its gates is changed."""
        return tuple(map(bool, self.changes))

    def after(self, before: Sequence[Explanation]) -> "Question":
        """The question to the changed models alone, about the class that was explained before."""
        chosen = [number for number, changed in enumerate(self.intervenes) if changed]
        target = before[0].target
        return replace(
            self,
            models=tuple(self.models[number] for number in chosen),
            layers=tuple(self.layers[number] for number in chosen),
            changes=tuple(self.changes[number] for number in chosen),
            target=target.indices or (target.index,),
            word=target.label if target.indices else "",
            versus=tuple(each.index for each in before[0].versus),
        )


def resolve(models: Sequence[Explainable], options: Options = DEFAULTS) -> Question:
    """Resolve options into a question about models that know the same classes.

    Raises UnknownName for an unknown method, layer, class or gate, OptionClash for models with
    different classes, for `versus` with a method that does not contrast and for contradictory
    changes of gates.
    """
    if options.method not in METHODS:
        raise UnknownName.of("CAM method", options.method, METHODS)
    method, card = METHODS[options.method], models[0].card
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
    )


def chosen_layers(model: Explainable, layer: str | Sequence[str] | None) -> Layers:
    """The layers that `layer` names: one, several, or several in one string with commas between.

    They are in the network's order, each once. By default, the last block. Raises UnknownName.
    """
    given = [layer] if isinstance(layer, str) else layer or []
    names = [name.strip() for each in given for name in each.split(",") if name.strip()]
    for name in names:
        if name not in model.layers:
            raise UnknownName.of(f"layer of '{model.card.name}'", name, model.layers)
    return tuple(name for name in model.layers if name in names) or (model.layers[-1],)
