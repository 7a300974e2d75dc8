"""From questions to explanations: one trunk pass per model, everything else from its outputs."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cbam.cards.card import Card
from cbam.errors import OptionClash
from cbam.explain.explanation import BlockAttention, Explanation, GateMap, HeatMap, Prediction
from cbam.explain.formulas import FUSIONS, fused
from cbam.explain.interventions import Changes
from cbam.explain.methods import heat_maps
from cbam.explain.question import Explainable, Layers, Question
from cbam.explain.targets import AnyOf, ClassLogit, Target, rivals
from cbam.trace.cut import Cut, Place
from cbam.undisturbed import undisturbed


def answer(question: Question, photo: Image.Image) -> list[Explanation]:
    """Ask every model about the same photo (upright RGB), for the same class.

    Without a target, the first model's top class is explained for all, so that all maps answer the
    same question; likewise, the first model decides which classes Finer-CAM contrasts with. The
    maps of several layers are scaled to [0, 1], enlarged to the image's size and fused.
    Raises TooSlow if the question's time limit is over.
    """
    (found,) = answer_many([(question, photo)])
    if isinstance(found, Exception):
        raise found
    return found


def before_and_after(
    question: Question, photo: Image.Image
) -> tuple[list[Explanation], list[Explanation]]:
    """The answers of the networks as they are, and with the question's changes of their gates.

    Both are about the same class. A model of which nothing is changed has one answer for both.
    """
    before = answer(question.unchanged, photo)
    return before, merged(question, before, answer(question.after(before), photo))


def merged(
    question: Question, before: Sequence[Explanation], after: Sequence[Explanation]
) -> list[Explanation]:
    """The answers to `question`, from those before and those of the changed models alone."""
    new = iter(after)
    return [
        next(new) if changed else old
        for changed, old in zip(question.intervenes, before, strict=True)
    ]


@undisturbed
def answer_many(
    asked: Sequence[tuple[Question, Image.Image]],
) -> list[list[Explanation] | Exception]:
    """`answer` for several questions about the same models; those about one layer share its pass.

    Up to rounding, the answers are those that `answer` gives one by one. A question that fails gets
    its exception as the answer and does not affect the others. "trunk" in an answer's timing is the
    time of the shared pass.
    """
    at_work = [_Asked(question, photo) for question, photo in asked]
    for number, model in enumerate(asked[0][0].models if asked else ()):
        groups: dict[tuple[Layers, Changes], list[_Asked]] = {}
        for each in at_work:
            if each.error is None:
                with each.own_failure():
                    each.image = model.card.preprocess(each.photo)
                    shared = each.question.layers[number], each.question.changes[number]
                    groups.setdefault(shared, []).append(each)
        for (layers, changes), group in groups.items():
            _answer(model, layers, changes, group)
    return [each.answers if each.error is None else each.error for each in at_work]


@dataclass(eq=False)
class _Asked:
    """A question on its way from model to model."""

    question: Question
    photo: Image.Image
    target: tuple[int, ...] = field(init=False)  # once known, what all models explain
    word: str = field(init=False)  # the target's, if it means several classes
    versus: tuple[int, ...] = field(init=False)  # once known, the classes that all contrast it with
    image: Tensor | None = None  # (3, S, S), as the current model sees the photo
    ends_at: float = field(init=False)  # on time.monotonic()
    answers: list[Explanation] = field(default_factory=list)
    error: Exception | None = None

    def __post_init__(self) -> None:
        self.target, self.word = self.question.target, self.question.word
        self.versus = self.question.versus
        self.ends_at = time.monotonic() + self.question.time_limit_s

    @contextmanager
    def own_failure(self) -> Iterator[None]:
        """An exception raised inside becomes this question's answer."""
        try:
            yield
        except Exception as error:
            self.error = error


def _answer(model: Explainable, layers: Layers, changes: Changes, group: Sequence[_Asked]) -> None:
    """Add the model's answer to every question of a group, from one trunk pass."""
    try:
        cut = model.cut(layers, changes.gates)
        # Channels last, as the photos' own pixels lie in memory: one copy, and none is turned.
        rows = [each.image.permute(1, 2, 0) for each in group if each.image is not None]
        images = torch.stack(rows).permute(0, 3, 1, 2)  # (N, 3, S, S)
        started = time.perf_counter()
        activation, maps = cut.run_trunk(images)
        trunk_ms = (time.perf_counter() - started) * 1000
    except Exception as error:
        if len(group) == 1:
            group[0].error = error
        else:  # a faulty question must not fail the others
            for each in group:
                _answer(model, layers, changes, [each])
        return
    outputs = {**maps, cut.layer: activation}
    for row, each in enumerate(group):
        mine = {name: value[row : row + 1] for name, value in outputs.items()}
        with each.own_failure():
            each.answers.append(
                _explanation(model, cut, changes, each, images[row : row + 1], mine, trunk_ms)
            )


def _explanation(
    model: Explainable,
    cut: Cut,
    changes: Changes,
    asked: _Asked,
    image: Tensor,
    outputs: Mapping[str, Tensor],
    trunk_ms: float,
) -> Explanation:
    """One model's answer to one question, from its row of the images and the trunk's outputs.

    Decides the question's target and the classes to contrast it with, if they are still open.
    """
    question, labels = asked.question, model.card.labels
    method = question.method
    started = time.perf_counter()
    with torch.inference_mode():
        logits, head_maps = cut.run_head(outputs[cut.layer])
        probabilities = model.card.probabilities(logits)[0]
        top = probabilities.topk(min(question.top_k, len(probabilities))).indices.tolist()
    words = _words(probabilities, model.card, question.top_k)
    if not asked.target and question.in_words and len(words[0].indices) > 1:
        asked.target, asked.word = words[0].indices, words[0].label
    asked.target = asked.target or (top[0],)
    index = max(asked.target, key=lambda which: float(logits[0, which]))  # of a word: the likeliest
    if method.versus and not asked.versus:
        asked.versus = rivals(logits[0], index)
    if index in asked.versus:
        raise OptionClash(f"'{labels[index]}' cannot be contrasted with itself: name another.")
    classes = [] if asked.word else [index]
    if method.pooled is not None and cut.pooled_linear is not None and not cut.passed:
        classes += [other for other in top if other not in classes]  # these maps come free

    def maps(at: Cut, targets: Sequence[Target]) -> Tensor:
        return heat_maps(
            at,
            outputs[at.layer],
            targets,
            method,
            versus=asked.versus,
            image=image,
            ends_at=asked.ends_at,
        )

    logit_maps = [ClassLogit(which) for which in classes]
    raw = [maps(each, logit_maps) for each in cut.cuts] if classes else []
    if asked.word:
        of_word = [maps(each, [AnyOf(asked.target)]) for each in cut.cuts]
        raw = [torch.cat(both) for both in zip(of_word, raw, strict=True)] if raw else of_word
    one = fused(raw, image.shape[2:], FUSIONS[question.fuse]) if cut.passed else raw[0]
    heat = one.numpy()
    head_ms = (time.perf_counter() - started) * 1000

    def prediction(which: int) -> Prediction:
        return Prediction(which, labels[which], float(probabilities[which]))

    explained = prediction(index)
    if asked.word:
        chance = float(probabilities[list(asked.target)].sum())
        explained = Prediction(index, asked.word, chance, asked.target)
    shown = [explained, *(prediction(which) for which in classes if asked.word or which != index)]
    gates = {**outputs, **head_maps} if question.attention else {}
    return Explanation(
        model=model.card.name,
        photo=asked.photo,
        view=model.card.preprocess.view(*asked.photo.size),
        predictions=tuple(prediction(which) for which in top),
        target=explained,
        method=question.method_name,
        layer=",".join(each.layer for each in cut.cuts),
        heatmaps=tuple(
            HeatMap(each.index, each.label, heat[position]) for position, each in enumerate(shown)
        ),
        attention=gate_maps(gates, cut.places),
        timing_ms={"trunk": trunk_ms, "head": head_ms},
        versus=tuple(prediction(which) for which in asked.versus),
        words=words,
        classes=len(labels),
        none_of_these=bool(model.card.none_of_these(logits)[0]),
        changed=dict(changes.said),
        fuse=question.fuse,
    )


def _words(probabilities: Tensor, card: Card, count: int) -> tuple[Prediction, ...]:
    """The everyday words for probabilities (classes,), the most probable first."""
    each = probabilities.numpy()
    sums = np.bincount(card.word_of, each)
    words = [*card.words.items()]
    found: list[Prediction] = []
    for number in (-sums).argsort(kind="stable")[:count]:
        word, indices = words[number]
        likeliest = max(indices, key=lambda index: float(each[index]))
        found.append(Prediction(likeliest, word, float(sums[number]), indices))
    return tuple(found)


def gate_maps(
    maps: Mapping[str, Tensor], places: Mapping[str, Place]
) -> tuple[BlockAttention, ...]:
    """One image's gate maps, block by block, in the network's order."""
    found: dict[str, dict[str, GateMap]] = {}
    for name, place in places.items():
        if name in maps:
            gate = GateMap.of(place.kind, maps[name][0].float().numpy())
            found.setdefault(place.block, {})[place.kind.name] = gate
    return tuple(BlockAttention(block, gates) for block, gates in found.items())
