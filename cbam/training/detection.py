"""Train a detector's head on the features that a frozen classifier's network makes of the photos.

Needs the extra `[train]`.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cbam.backbones import blocks
from cbam.backends.choose import EAGER, accelerate
from cbam.cards.card import Card, read_card
from cbam.cards.detector import (
    DetectorCard,
    Whole,
    frozen_network,
    head_weights,
    write_detector_card,
)
from cbam.cards.int8 import STORAGE
from cbam.data.boxed import Boxed
from cbam.detectors import DETECTORS, FCOS
from cbam.errors import BadData, BadRecipe
from cbam.images.frame import Frame
from cbam.trace.cut import cut_at
from cbam.training.detector_recipe import DetectorRecipe, WholeRecipe
from cbam.training.features import BATCH, Example, Features, Stages, keep_features
from cbam.training.precision import Precision, of_family, speeds
from cbam.training.replacing import replacing

Say = Callable[[str], None]


@dataclass(frozen=True)
class TrainedDetector:
    """Where the head's float32 weights are, and the mean loss of the last epoch."""

    weights: Path
    loss: float
    unread: tuple[str, ...] = ()  # names of photos that were left out


def train_detector(
    recipe: DetectorRecipe,
    attention: str,
    photos: list[Boxed],
    models: Path,
    run: Path,
    backend: str = EAGER,
    say: Say = lambda line: None,
) -> TrainedDetector:
    """Train `attention`'s member in the folder `run`, going on where it stopped.

    First the frozen network's features are kept in `run`/features, then the head learns from them.
    The classifier that it stands on is in the folder `models`. Leaves `checkpoint.pt` and, at the
    end, `weights.safetensors`: the head's, averaged. Photos that cannot be read are left out.
    Raises BadRecipe, BadCard, BadData if none can be read.
    """
    classifier = classifier_of(recipe, attention, models)
    frame = Frame(recipe.size_px, classifier.preprocess.mean, classifier.preprocess.std)
    body = frozen_network(classifier, recipe.backbone_options)
    folder = run / "features"
    started = time.monotonic()

    def step(view: int, done: int) -> None:
        whole = f"{done}/{len(photos)} photos, view {view + 1}/{recipe.views}"
        say(f"{run.name}: features of {whole}, {_minutes(started)}")

    stages = last_stages(body, recipe.size_px, backend)
    precision = recipe.precision
    if precision == "auto":
        precision = of_family(recipe.family, run, None, lambda: _images_per_s(stages, frame), say)
    with _autocast(precision):
        keep_features(photos, frame, recipe.views, recipe.seed, stages, folder, step)
    features = Features(folder, len(photos), recipe.views)
    names = tuple(photos[number].name for number in features.missing)
    if len(names) == len(photos):
        raise BadData(f"None of the {len(names)} photos can be read.")
    return replace(fit(recipe, body, features, run, precision, say), unread=names)


def classifier_of(recipe: DetectorRecipe, attention: str, models: Path) -> Card:
    """The card of the classifier that a member stands on. Raises BadRecipe, BadCard."""
    if attention not in recipe.classifiers:
        known = ", ".join(recipe.classifiers)
        raise BadRecipe(f"The recipe has no member '{attention}'. Known: {known}.")
    card = read_card(models / recipe.classifiers[attention])
    if card.attention != attention:
        raise BadRecipe(f"'{card.name}' has the attention '{card.attention}', not '{attention}'.")
    return card


def last_stages(body: nn.Module, side_px: int, backend: str = EAGER) -> Callable[[Tensor], Stages]:
    """What runs a network to the outputs of its last two stages, in a back end."""
    names = blocks(body)
    ends = [
        name
        for name, following in zip(names, [*names[1:], ""], strict=True)
        if name.split(".")[0] != following.split(".")[0]
    ][-2:]
    cut, _ = accelerate(cut_at(body, ends), backend, side_px)

    def run(images: Tensor) -> Stages:
        last, maps = cut.run_trunk(images)
        return (*(maps[name] for name in ends[:-1]), last)

    return run


def _images_per_s(stages: Callable[[Tensor], Stages], frame: Frame) -> dict[Precision, float]:
    """How fast the frozen network is in each precision."""
    images = torch.rand(BATCH, 3, frame.size_px, frame.size_px)
    images = images.to(memory_format=torch.channels_last)

    def step(precision: Precision) -> None:
        with _autocast(precision):
            stages(images)

    return speeds(step, BATCH)


def _autocast(precision: Precision) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")


def fit(
    recipe: DetectorRecipe,
    body: nn.Module,
    features: Features,
    run: Path,
    precision: Precision,
    say: Say,
) -> TrainedDetector:
    """Train the head on kept features; resumes from `run`/checkpoint.pt."""
    run.mkdir(parents=True, exist_ok=True)
    checkpoint = run / "checkpoint.pt"
    torch.manual_seed(recipe.seed)
    network = cast(
        FCOS,
        DETECTORS[recipe.detector].make(
            body, num_classes=len(recipe.labels), **recipe.detector_options
        ),
    )
    learning = [p for p in network.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in learning if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in learning if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate)
    steps = sum(1 for _ in features.order(recipe.batch_size, 0, recipe.seed))
    schedule = LambdaLR(optimizer, lambda step: _rate(step / steps, recipe))
    head = nn.ModuleList([network.backbone.finer, network.backbone.neck, network.head])
    decay = get_ema_multi_avg_fn(recipe.ema_decay)  # type: ignore[no-untyped-call]
    average = AveragedModel(head, multi_avg_fn=decay)
    first, loss = 0, math.nan
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        head.load_state_dict(state["head"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first, loss = state["epoch"], state["loss"]
    for epoch in range(first, recipe.epochs):
        started, total, seen = time.monotonic(), torch.zeros(3), 0
        for batch in features.batches(recipe.batch_size, epoch, recipe.seed):
            losses = _losses(network, batch, precision)
            optimizer.zero_grad()
            together = sum(losses.values(), torch.zeros(()))
            together.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(learning, 10.0)
            optimizer.step()
            schedule.step()
            average.update_parameters(head)
            total += torch.stack([each.detach() for each in losses.values()]) * len(batch)
            seen += len(batch)
        loss = float(total.sum()) / seen
        parts = ", ".join(
            f"{name} {value / seen:.3f}" for name, value in zip(losses, total, strict=True)
        )
        say(f"{run.name} {epoch + 1}/{recipe.epochs}: {parts}, {_minutes(started)}")
        state = {
            "head": head.state_dict(),
            "average": average.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "epoch": epoch + 1,
            "loss": loss,
        }
        with replacing(checkpoint) as file:
            torch.save(state, file)
    weights = run / "weights.safetensors"
    head.load_state_dict(average.module.state_dict())
    save_file({name: value.contiguous() for name, value in head_weights(network).items()}, weights)
    return TrainedDetector(weights, loss)


def _losses(network: FCOS, batch: list[Example], precision: Precision) -> dict[str, Tensor]:
    """The losses of a batch of kept features, by name."""
    stages = [torch.cat(level) for level in zip(*(each.stages for each in batch), strict=True)]
    height, width = (16 * side for side in stages[0].shape[2:])
    with _autocast(precision):
        outputs = network.outputs(stages)
    targets = [{"boxes": each.boxes, "labels": each.labels} for each in batch]
    marked = torch.stack([each.marked for each in batch])
    return network.losses(outputs, targets, width, height, marked)


def write_detector(
    recipe: DetectorRecipe, attention: str, weights: Path, models: Path, recipe_name: str
) -> DetectorCard:
    """A trained member as a model under `models`: its head's `weights` as int8, and its card."""
    classifier = classifier_of(recipe, attention, models)
    return write_member(
        recipe,
        recipe.model_name(classifier.backbone, attention),
        Frame(recipe.size_px, classifier.preprocess.mean, classifier.preprocess.std),
        weights,
        models,
        recipe_name,
        classifier,
    )


def write_member(
    recipe: DetectorRecipe | WholeRecipe,
    name: str,
    frame: Frame,
    weights: Path,
    models: Path,
    recipe_name: str,
    made_of: Card | Whole,
) -> DetectorCard:
    """A trained detector as a model under `models`: its `weights` as int8, and its card.

    `made_of`: the classifier that the head stands on, or what the whole network is built of.
    """
    classifier = made_of if isinstance(made_of, Card) else None
    card = DetectorCard(
        name=name,
        family=recipe.family,
        family_title=recipe.title,
        kind=recipe.detector,
        classifier=classifier.name if classifier else "",
        classifier_sha256=classifier.weights_sha256 if classifier else "",
        labels=tuple(recipe.labels),
        frame=frame,
        licence=recipe.licence,
        data=recipe.data,
        recipe=recipe_name,
        weights_sha256="",
        storage=STORAGE + ("; without the classifier's network" if classifier else ""),
        options=recipe.detector_options,
        backbone_options=recipe.backbone_options,
        whole=made_of if isinstance(made_of, Whole) else None,
        folder=models / name,
    )
    return write_detector_card(card, load_file(weights))


def _rate(epoch: float, recipe: DetectorRecipe) -> float:
    """The learning rate after `epoch` epochs, as a share of the recipe's."""
    if epoch < recipe.warmup_epochs:
        return max(epoch / recipe.warmup_epochs, 1e-3)
    done = (epoch - recipe.warmup_epochs) / max(recipe.epochs - recipe.warmup_epochs, 1e-9)
    return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def _minutes(started: float) -> str:
    return f"{(time.monotonic() - started) / 60:.1f} min"
