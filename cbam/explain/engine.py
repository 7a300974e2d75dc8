"""From photos to explanations: one trunk pass a model, everything else from its outputs."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from cbam.errors import UnknownName
from cbam.explain.explanation import BlockAttention, Explanation, Floats, HeatMap, Prediction
from cbam.explain.methods import METHODS, heat_maps

if TYPE_CHECKING:
    from cbam.model import Model


@dataclass(frozen=True)
class Options:
    """What to explain, and how. The defaults are those of the page, the API and the library."""

    target: int | str | None = None  # class index or label; None: the (first) model's top class
    method: str = "gradcam"
    layer: str | None = None  # None: the last block
    top_k: int = 5  # predictions, and heat maps where they come free
    attention: bool = True  # gate maps too


def explain(
    models: Sequence["Model"],
    photo: Image.Image,
    options: Options = Options(),
) -> list[Explanation]:
    """Ask every model about the same photo (upright RGB), for the same class.

    Without a target it is the first model's top class, so that all maps answer one question.
    Raises UnknownName for a method, layer or class that a model does not have, and if the models do
    not know the same classes.
    """
    (answer,) = explain_many(models, [(photo, options)])
    if isinstance(answer, Exception):
        raise answer
    return answer


def explain_many(
    models: Sequence["Model"], questions: Sequence[tuple[Image.Image, Options]]
) -> list[list[Explanation] | Exception]:
    """`explain` for several questions; those about the same layer share a trunk pass a model.

    The answers are those that `explain` gives one by one, to rounding. A question that fails has
    the exception for its answer and leaves the others alone. "trunk" in an answer's timing is the
    time of the shared pass.
    """
    asked = [_Asked(photo, options) for photo, options in questions]
    for each in asked:
        with each.own_failure():
            check(models, each.options)
            if each.options.target is not None and models:
                each.target = models[0].card.class_index(each.options.target)
    for model in models:
        groups: dict[str, list[_Asked]] = {}
        for each in asked:
            if each.error is None:
                with each.own_failure():
                    each.image = model.card.preprocess(each.photo)
                    groups.setdefault(each.options.layer or model.layers[-1], []).append(each)
        for layer, group in groups.items():
            _answer(model, layer, group)
    return [each.answers if each.error is None else each.error for each in asked]


def check(models: Sequence["Model"], options: Options) -> None:
    """Whether these models can answer with these options. Raises UnknownName; costs nothing."""
    if options.method not in METHODS:
        raise UnknownName.of("CAM method", options.method, METHODS)
    for model in models:
        if model.card.labels != models[0].card.labels:
            raise UnknownName(
                f"'{models[0].name}' and '{model.name}' know different classes, so no class can be "
                "explained for both. Compare models of one family."
            )
        if options.layer is not None and options.layer not in model.layers:
            raise UnknownName.of(f"layer of '{model.name}'", options.layer, model.layers)
    if options.target is not None and models:
        models[0].card.class_index(options.target)


@dataclass
class _Asked:
    """A question on its way from model to model."""

    photo: Image.Image
    options: Options
    target: int | None = None  # once known, the class that all models explain
    image: Tensor | None = None  # (3, S, S), as the model at work sees the photo
    answers: list[Explanation] = field(default_factory=list)
    error: Exception | None = None

    @contextmanager
    def own_failure(self) -> Iterator[None]:
        """What fails in here is this question's answer."""
        try:
            yield
        except Exception as error:
            self.error = error


def _answer(model: "Model", layer: str, group: Sequence[_Asked]) -> None:
    """Add the model's answer to every question of a group, from one trunk pass."""
    try:
        cut = model.split(layer)
        images = torch.stack([each.image for each in group if each.image is not None])
        started = time.perf_counter()
        activation, maps = cut.run_trunk(images.to(memory_format=torch.channels_last))
        trunk_ms = (time.perf_counter() - started) * 1000
    except Exception as error:
        if len(group) == 1:
            group[0].error = error
        else:  # whoever is the reason must not take the others along
            for each in group:
                _answer(model, layer, [each])
        return
    for row, each in enumerate(group):
        mine = {name: value[row : row + 1] for name, value in maps.items()}
        with each.own_failure():
            explanation = _explanation(
                model, layer, each, activation[row : row + 1], mine, trunk_ms
            )
            each.target = explanation.target.index
            each.answers.append(explanation)


def _explanation(
    model: "Model",
    layer: str,
    asked: _Asked,
    activation: Tensor,
    maps: Mapping[str, Tensor],
    trunk_ms: float,
) -> Explanation:
    """One model's answer to one question, from its row of the trunk's outputs."""
    cut, options = model.split(layer), asked.options
    started = time.perf_counter()
    with torch.inference_mode():
        logits, head_maps = cut.run_head(activation)
        probabilities = logits[0].softmax(dim=0)
        top = probabilities.topk(min(options.top_k, len(probabilities))).indices.tolist()
    index = top[0] if asked.target is None else asked.target
    classes = [index]
    if options.method == "gradcam" and cut.pooled_linear is not None:
        classes += [other for other in top if other != index]  # these maps come free
    heat = heat_maps(cut, activation, classes, options.method).numpy()
    head_ms = (time.perf_counter() - started) * 1000

    def prediction(which: int) -> Prediction:
        return Prediction(which, model.card.labels[which], float(probabilities[which]))

    return Explanation(
        model=model.name,
        photo=asked.photo,
        view=model.card.preprocess.view(*asked.photo.size),
        predictions=tuple(prediction(which) for which in top),
        target=prediction(index),
        method=options.method,
        layer=cut.layer,
        heatmaps=tuple(
            HeatMap(which, model.card.labels[which], heat[position])
            for position, which in enumerate(classes)
        ),
        attention=_attention({**maps, **head_maps}, model.layers) if options.attention else (),
        timing_ms={"trunk": trunk_ms, "head": head_ms},
    )


def _attention(maps: Mapping[str, Tensor], blocks: Sequence[str]) -> tuple[BlockAttention, ...]:
    """One image's gate maps, block by block."""

    def values(name: str) -> Floats | None:
        if name not in maps:
            return None
        value = maps[name][0].float().numpy().copy()
        return value[:, 0, 0] if name.endswith(".channel") else value[0]

    found = (
        BlockAttention(block, values(f"{block}.channel"), values(f"{block}.spatial"))
        for block in blocks
    )
    return tuple(item for item in found if item.channel is not None or item.spatial is not None)
