"""From a photo to explanations: one trunk pass a model, everything else from its outputs."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    check(models, options)
    explanations: list[Explanation] = []
    target = None if options.target is None else models[0].card.class_index(options.target)
    for model in models:
        explanation = _explain_one(model, photo, options, target)
        target = explanation.target.index
        explanations.append(explanation)
    return explanations


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


def _explain_one(
    model: "Model", photo: Image.Image, options: Options, target: int | None
) -> Explanation:
    cut = model.split(options.layer or model.layers[-1])
    image = model.card.preprocess(photo).unsqueeze(0)
    started = time.perf_counter()
    activation, maps = cut.run_trunk(image.to(memory_format=torch.channels_last))
    trunk_done = time.perf_counter()
    with torch.inference_mode():
        logits, head_maps = cut.run_head(activation)
        probabilities = logits[0].softmax(dim=0)
        top = probabilities.topk(min(options.top_k, len(probabilities))).indices.tolist()
    index = top[0] if target is None else target
    classes = [index]
    if options.method == "gradcam" and cut.pooled_linear is not None:
        classes += [other for other in top if other != index]  # these maps come free
    heat = heat_maps(cut, activation, classes, options.method).numpy()
    head_done = time.perf_counter()

    def prediction(which: int) -> Prediction:
        return Prediction(which, model.card.labels[which], float(probabilities[which]))

    return Explanation(
        model=model.name,
        photo=photo,
        view=model.card.preprocess.view(*photo.size),
        predictions=tuple(prediction(which) for which in top),
        target=prediction(index),
        method=options.method,
        layer=cut.layer,
        heatmaps=tuple(
            HeatMap(which, model.card.labels[which], heat[position])
            for position, which in enumerate(classes)
        ),
        attention=_attention({**maps, **head_maps}, model.layers) if options.attention else (),
        timing_ms={
            "trunk": (trunk_done - started) * 1000,
            "head": (head_done - trunk_done) * 1000,
        },
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
