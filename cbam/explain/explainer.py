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
from cbam.explain.formulas import mean_of_layers, rivals
from cbam.explain.methods import METHODS, heat_maps
from cbam.trace.cut import Cut

if TYPE_CHECKING:
    from cbam.model import Model


@dataclass(frozen=True)
class Options:
    """What to explain, and how. The defaults are those of the page, the API and the library."""

    target: int | str | None = None  # class index or label; None: the (first) model's top class
    method: str = "gradcam"
    layer: str | Sequence[str] | None = None  # or several, "layer3.1,layer4.1"; None: the last
    top_k: int = 5  # predictions, and heat maps where they come free
    attention: bool = True  # gate maps too
    versus: int | str | None = None  # for Finer-CAM: class to contrast with; None: the closest
    time_limit_s: float | None = None  # for methods of many passes; then TooSlow


def explain(
    models: Sequence["Model"],
    photo: Image.Image,
    options: Options = Options(),
) -> list[Explanation]:
    """Ask every model about the same photo (upright RGB), for the same class.

    Without a target it is the first model's top class, so that all maps answer one question; in the
    same way, the classes that Finer-CAM contrasts with are the first model's. Of several layers,
    the maps are scaled to [0, 1], enlarged to the image's size and averaged.
    Raises UnknownName for a method, layer or class that a model does not have, and if the models do
    not know the same classes; TooSlow if a time limit is over.
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
            if models and each.options.target is not None:
                each.target = models[0].card.class_index(each.options.target)
            if models and each.options.versus is not None:
                each.versus = (models[0].card.class_index(each.options.versus),)
    for model in models:
        groups: dict[tuple[str, ...], list[_Asked]] = {}
        for each in asked:
            if each.error is None:
                with each.own_failure():
                    each.image = model.card.preprocess(each.photo)
                    groups.setdefault(model.chosen_layers(each.options.layer), []).append(each)
        for layers, group in groups.items():
            _answer(model, layers, group)
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
        model.chosen_layers(options.layer)
    if options.versus is not None and not METHODS[options.method].versus:
        able = ", ".join(name for name, method in METHODS.items() if method.versus)
        raise UnknownName(
            f"Method '{options.method}' explains a class by itself. To contrast it with "
            f"'{str(options.versus)[:80]}', choose the method {able}."
        )
    for name in (options.target, options.versus):
        if name is not None and models:
            models[0].card.class_index(name)


@dataclass
class _Asked:
    """A question on its way from model to model."""

    photo: Image.Image
    options: Options
    target: int | None = None  # once known, the class that all models explain
    versus: tuple[int, ...] = ()  # once known, the classes that all contrast it with
    image: Tensor | None = None  # (3, S, S), as the model at work sees the photo
    ends_at: float = field(init=False)  # on time.monotonic()
    answers: list[Explanation] = field(default_factory=list)
    error: Exception | None = None

    def __post_init__(self) -> None:
        limit_s = self.options.time_limit_s
        self.ends_at = time.monotonic() + (float("inf") if limit_s is None else limit_s)

    @contextmanager
    def own_failure(self) -> Iterator[None]:
        """What fails in here is this question's answer."""
        try:
            yield
        except Exception as error:
            self.error = error


def _answer(model: "Model", layers: tuple[str, ...], group: Sequence[_Asked]) -> None:
    """Add the model's answer to every question of a group, from one trunk pass."""
    try:
        cut = model.cut(layers)
        images = torch.stack([each.image for each in group if each.image is not None])
        images = images.to(memory_format=torch.channels_last)
        started = time.perf_counter()
        activation, maps = cut.run_trunk(images)
        trunk_ms = (time.perf_counter() - started) * 1000
    except Exception as error:
        if len(group) == 1:
            group[0].error = error
        else:  # whoever is the reason must not take the others along
            for each in group:
                _answer(model, layers, [each])
        return
    outputs = {**maps, cut.layer: activation}
    for row, each in enumerate(group):
        mine = {name: value[row : row + 1] for name, value in outputs.items()}
        with each.own_failure():
            each.answers.append(
                _explanation(model, cut, each, images[row : row + 1], mine, trunk_ms)
            )


def _explanation(
    model: "Model",
    cut: Cut,
    asked: _Asked,
    image: Tensor,
    outputs: Mapping[str, Tensor],
    trunk_ms: float,
) -> Explanation:
    """One model's answer to one question, from its row of the image and the trunk's outputs.

    Settles the question's target and the classes to contrast it with, if they are still open.
    """
    options, labels = asked.options, model.card.labels
    method = METHODS[options.method]
    started = time.perf_counter()
    with torch.inference_mode():
        logits, head_maps = cut.run_head(outputs[cut.layer])
        probabilities = logits[0].softmax(dim=0)
        top = probabilities.topk(min(options.top_k, len(probabilities))).indices.tolist()
    index = asked.target = top[0] if asked.target is None else asked.target
    if method.versus and not asked.versus:
        asked.versus = tuple(rivals(logits[0], index))
    if index in asked.versus:
        raise UnknownName(
            f"'{labels[index]}' cannot be contrasted with itself: name another class."
        )
    classes = [index]
    if method.pooled is not None and cut.pooled_linear is not None and not cut.passed:
        classes += [other for other in top if other != index]  # these maps come free
    raw = [
        heat_maps(
            each,
            outputs[each.layer],
            classes,
            options.method,
            versus=asked.versus,
            image=image,
            ends_at=asked.ends_at,
        )
        for each in cut.cuts
    ]
    heat = (mean_of_layers(raw, image.shape[2:]) if cut.passed else raw[0]).numpy()
    head_ms = (time.perf_counter() - started) * 1000

    def prediction(which: int) -> Prediction:
        return Prediction(which, labels[which], float(probabilities[which]))

    return Explanation(
        model=model.name,
        photo=asked.photo,
        view=model.card.preprocess.view(*asked.photo.size),
        predictions=tuple(prediction(which) for which in top),
        target=prediction(index),
        method=options.method,
        layer=",".join(each.layer for each in cut.cuts),
        heatmaps=tuple(
            HeatMap(which, labels[which], heat[position]) for position, which in enumerate(classes)
        ),
        attention=_attention({**outputs, **head_maps}, model.layers) if options.attention else (),
        timing_ms={"trunk": trunk_ms, "head": head_ms},
        versus=tuple(prediction(which) for which in asked.versus),
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
