"""Any network for photos -> a Model, so that it can be explained and compared."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cbam.attention import ATTENTION, PLAIN
from cbam.backbones import blocks
from cbam.cards.card import Card
from cbam.errors import BadData, CannotInsert, UnknownName
from cbam.images.preprocess import Preprocess
from cbam.model import Model
from cbam.trace.insert import residual_blocks
from cbam.undisturbed import undisturbed


@undisturbed
def wrap(
    network: nn.Module,
    preprocess: Preprocess | int | Mapping[str, Any] | Any,
    labels: Sequence[str],
    name: str = "mine",
    layers: Sequence[str] | None = None,
    folders: Sequence[str] = (),
) -> Model:
    """A network of your own as a Model: `explain`, `compare` and the heat maps work on it.

    It is a copy in eval mode; the given network stays as it is. `preprocess` says how photos become
    its input: a `cbam.Preprocess`, a size in pixels (then ImageNet's mean and deviation), what
    torchvision's `weights.transforms()` returns, or timm's `resolve_model_data_config(network)`.
    `labels` are its classes in order; `folders`, if given, their WordNet ids. `layers` are the
    modules that can be explained, the first one first; by default its blocks: those that it names
    in `block_names`, as networks of `cbam.build` and `cbam.insert` do, or its residual blocks.

    Its gates are shown if they are gates of this library. Raises CannotInsert if no layers are
    given and it has no residual blocks, UnknownName for a layer that it lacks, CannotCut for one
    that a path leads around, BadData if it does not give one number for each label.
    """
    network = copy.deepcopy(network).eval()
    vars(network)["block_names"] = _layers(network, layers)
    seen = preprocess_of(preprocess)
    _check_outputs(network, seen.size_px, len(labels))
    kinds = {type(module) for module in network.modules()}
    card = Card(
        name=name,
        family=name,
        family_title=name,
        backbone=type(network).__name__,
        attention=next((key for key, each in ATTENTION.items() if each.make in kinds), PLAIN),
        labels=tuple(labels),
        preprocess=seen,
        licence="",
        data="",
        recipe="",
        weights_sha256="",
        storage="",
        folders=tuple(folders),
        folder=Path(),
    )
    return Model(card, network, own=True)


def _layers(network: nn.Module, layers: Sequence[str] | None) -> list[str]:
    if layers is not None:
        known = [path for path, _ in network.named_modules() if path]
        for layer in layers:
            if layer not in known:
                raise UnknownName.of("layer", layer, known)
        return list(layers)
    if named := blocks(network):
        return named
    try:
        return [block.name for block in residual_blocks(network) if block.name]
    except CannotInsert as error:
        raise CannotInsert(
            f"{error} To explain such a network, name the modules to look at, the last one last: "
            "layers=['features'], for example."
        ) from error


def preprocess_of(given: Any) -> Preprocess:
    """Ours, or the same as ours from a number, from torchvision's presets or timm's settings."""
    if isinstance(given, Preprocess):
        return given
    if isinstance(given, int):
        return Preprocess(given)
    try:
        if isinstance(given, Mapping):  # timm
            return Preprocess(
                given["input_size"][-1],
                mean=tuple(given["mean"]),
                std=tuple(given["std"]),
                resize_ratio=1 / given["crop_pct"],
            )
        (size_px,), (resize_px,) = given.crop_size, given.resize_size  # torchvision
        return Preprocess(
            size_px,
            mean=tuple(given.mean),
            std=tuple(given.std),
            resize_ratio=resize_px / size_px,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadData(
            f"'{str(given)[:80]}' does not say how photos become the network's input. Give "
            "cbam.Preprocess(size_px=224), a number of pixels, torchvision's weights.transforms() "
            "or timm's resolve_model_data_config(network)."
        ) from error


def _check_outputs(network: nn.Module, size_px: int, classes: int) -> None:
    """Ask it once about nothing. Raises BadData."""
    at = next(network.parameters())
    with torch.inference_mode():
        found = network(torch.zeros(1, 3, size_px, size_px, device=at.device, dtype=at.dtype))
    shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
    if shape != (1, classes):
        raise BadData(
            f"The network answers a photo with {shape}, and there are {classes} labels: expected "
            f"one number for each, (1, {classes})."
        )
