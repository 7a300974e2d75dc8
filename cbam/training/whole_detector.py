"""Train a detector as a whole, backbone and head, on photos with boxes: on a GPU or a CPU.

Needs the extra `[train]`.
"""

import copy
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from cbam.cards.card import load_network
from cbam.cards.detector import DetectorCard, build_detector
from cbam.data.boxed import Boxed
from cbam.detectors import DETECTORS, DetectorNetwork
from cbam.errors import BadData, BadImage, BadRecipe
from cbam.images.frame import Frame
from cbam.model import find_card
from cbam.training.detection import Say, TrainedDetector, write_member
from cbam.training.detector_recipe import WholeRecipe
from cbam.training.features import changed, opened
from cbam.training.origin import TORCHVISION, origin
from cbam.training.precision import Precision, named, speeds
from cbam.training.replacing import replacing

Change = Callable[[dict[str, Any]], dict[str, Any]]
Example = tuple[Tensor, dict[str, Tensor], Tensor]  # image, target, whether classes are marked

# How photos are changed, boxes along with them. SSD's: colours, shrunk on grey, a crop, mirrored.
VIEWS: dict[str, Change | None] = {
    "ssd": v2.Compose(
        [
            v2.RandomPhotometricDistort(),
            v2.RandomZoomOut(fill=124),
            v2.RandomIoUCrop(),
            v2.RandomHorizontalFlip(),
            v2.SanitizeBoundingBoxes(),
        ]
    ),
    "flip": v2.RandomHorizontalFlip(),
    "none": None,
}


class Views(Dataset[Example | str]):
    """Photos as the network is trained with them in one epoch; a name: that one cannot be read."""

    def __init__(
        self, photos: Sequence[Boxed], frame: Frame, change: Change | None, seed: int, epoch: int
    ) -> None:
        self.photos, self.frame, self.change = photos, frame, change
        self.seed = seed * 1_000_003 + epoch

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, number: int) -> Example | str:
        boxed = self.photos[number]
        try:
            if self.change is None:
                photo, boxes, labels = opened(boxed)
            else:
                photo, boxes, labels = changed(boxed, self.change, self.seed * 999_983 + number)
        except (BadImage, OSError):
            return boxed.name
        boxes = boxes * torch.tensor(self.frame.scales(*photo.size))
        target = {"boxes": boxes, "labels": labels}
        return self.frame(photo), target, torch.tensor(boxed.marked)


def train_whole(
    recipe: WholeRecipe,
    attention: str,
    photos: Sequence[Boxed],
    models: Path,
    run: Path,
    workers: int = 0,
    say: Say = lambda line: None,
) -> TrainedDetector:
    """Train `attention`'s member in the folder `run`, going on behind its last whole epoch.

    On a GPU if there is one. Leaves `checkpoint.pt` and, at the end, `weights.safetensors`:
    float32, of the moving average if the recipe asks for one. Photos that cannot be read are left
    out. Raises BadRecipe, BadCard, BadData if none can be read.
    """
    run.mkdir(parents=True, exist_ok=True)
    checkpoint, weights = run / "checkpoint.pt", run / "weights.safetensors"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    state: dict[str, Any] = {}
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    torch.manual_seed(recipe.seed)
    network = begun(recipe, attention, models, fresh=bool(state)).to(device)
    optimizer = _optimizer(recipe, network)
    average: AveragedModel | None = None
    if recipe.ema_decay:
        decay = get_ema_multi_avg_fn(recipe.ema_decay)  # type: ignore[no-untyped-call]
        average = AveragedModel(network, multi_avg_fn=decay, use_buffers=True)
    first, loss, unread = 0, math.nan, set[str]()
    precision: Precision | None = None
    if state:
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        if average is not None:
            average.load_state_dict(state["average"])
        first, loss, unread = state["epoch"], state["loss"], set(state["unread"])
        precision = state["precision"]
    frame = _frame(recipe)
    steps = math.ceil(len(photos) / recipe.batch_size)
    for epoch in range(first, recipe.epochs):
        started, total, seen = time.monotonic(), torch.zeros((), device=device), 0
        torch.manual_seed(recipe.seed * 100_003 + epoch)  # what the losses draw, too
        network.train()
        for step, (examples, names) in enumerate(
            _loader(photos, frame, recipe, epoch, workers), epoch * steps
        ):
            unread.update(names)
            if not examples:
                continue
            batch = _on(examples, device)
            if precision is None:
                precision = _precision(recipe, network, batch, device)
                say(f"{run.name}: precision {named(precision)}")
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * recipe.rate(step, steps)
            losses = _losses(network, batch, precision, device)
            if not losses:
                continue
            together = torch.stack([*losses.values()]).sum()
            optimizer.zero_grad()
            together.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
            optimizer.step()
            if average is not None:
                average.update_parameters(network)
            total += together.detach() * len(examples)
            seen += len(examples)
        if not seen:
            raise BadData(f"None of the {len(photos)} photos can be read or teaches anything.")
        loss = float(total) / seen
        if not math.isfinite(loss):
            raise BadRecipe(
                f"The loss of '{run.name}' became {loss} in epoch {epoch + 1}: lower the recipe's "
                "learning_rate or lengthen warmup_steps."
            )
        minutes = (time.monotonic() - started) / 60
        say(f"{run.name} {epoch + 1}/{recipe.epochs}: loss {loss:.3f}, {minutes:.1f} min")
        state = {
            "network": network.state_dict(),
            "average": average.state_dict() if average is not None else {},
            "optimizer": optimizer.state_dict(),
            "epoch": epoch + 1,
            "loss": loss,
            "unread": sorted(unread),
            "precision": precision,
        }
        with replacing(checkpoint) as file:
            torch.save(state, file)
    best = network if average is None else average.module
    save_file({name: each.contiguous().cpu() for name, each in best.state_dict().items()}, weights)
    return TrainedDetector(weights, loss, tuple(sorted(unread)))


def begun(recipe: WholeRecipe, attention: str, models: Path, fresh: bool = False) -> nn.Module:
    """A member before its training, with the weights that the recipe begins with, or `fresh` ones.

    Models to begin with are looked for in the folder `models`, then among the bundled ones. Raises
    BadRecipe, BadCard, UnknownName, NotAvailable if a download fails.
    """
    if attention not in recipe.attention:
        known = ", ".join(recipe.attention)
        raise BadRecipe(f"The recipe has no member '{attention}'. Known: {known}.")
    name, start = recipe.start_of(attention), None
    if name.startswith(TORCHVISION) and not fresh:
        start = origin(name).network.state_dict()
    elif name and not fresh:
        beside = models / name
        card = find_card(beside if beside.is_dir() else name)
        start = load_network(card).state_dict()
    try:
        return build_detector(
            recipe.detector,
            len(recipe.labels),
            recipe.whole(attention),
            recipe.detector_options,
            recipe.backbone_options,
            start,
        )
    except TypeError as error:
        raise BadRecipe(f"The recipe's options do not fit: {error}.") from error


def write_whole(
    recipe: WholeRecipe, attention: str, weights: Path, models: Path, recipe_name: str
) -> DetectorCard:
    """A trained member as a model under `models`: its `weights` as int8, and its card."""
    name, frame = recipe.model_name(attention), _frame(recipe)
    return write_member(recipe, name, frame, weights, models, recipe_name, recipe.whole(attention))


def _frame(recipe: WholeRecipe) -> Frame:
    """What the network sees of a photo."""
    return Frame(recipe.size_px, square=DETECTORS[recipe.detector].square)


def _loader(
    photos: Sequence[Boxed], frame: Frame, recipe: WholeRecipe, epoch: int, workers: int
) -> DataLoader[Any]:
    """One epoch's batches: every photo once, in an order that seed and epoch fix."""
    views = Views(photos, frame, VIEWS[recipe.views], recipe.seed, epoch)
    return DataLoader(
        views,
        recipe.batch_size,
        shuffle=True,
        num_workers=workers,
        collate_fn=_collated,
        generator=torch.Generator().manual_seed(recipe.seed * 100_003 + epoch),
    )


def _collated(batch: Sequence[Example | str]) -> tuple[list[Example], list[str]]:
    """The examples, and the names of photos that cannot be read."""
    return [one for one in batch if not isinstance(one, str)], [
        one for one in batch if isinstance(one, str)
    ]


Batch = tuple[list[Tensor], list[dict[str, Tensor]], Tensor]


def _on(examples: Sequence[Example], device: torch.device) -> Batch:
    images, targets, marked = zip(*examples, strict=True)
    return (
        [each.to(device) for each in images],
        [{name: value.to(device) for name, value in each.items()} for each in targets],
        torch.stack(marked).to(device),
    )


def _losses(
    network: nn.Module, batch: Batch, precision: Precision, device: torch.device
) -> dict[str, Tensor]:
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        return cast(DetectorNetwork, network).learn(*batch)


def _optimizer(recipe: WholeRecipe, network: nn.Module) -> torch.optim.SGD:
    """SGD; biases and norms do not decay."""
    groups = [
        {
            "params": [p for p in network.parameters() if p.ndim > 1],
            "weight_decay": recipe.weight_decay,
        },
        {"params": [p for p in network.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum)


def _precision(
    recipe: WholeRecipe, network: nn.Module, batch: Batch, device: torch.device
) -> Precision:
    """The recipe's; if that is "auto", the one in which a step on this batch is faster."""
    if recipe.precision != "auto":
        return "bf16" if recipe.precision == "bf16" else "no"
    trial = copy.deepcopy(network)  # its norms' statistics are not the network's

    def step(precision: Precision) -> None:
        losses = _losses(trial, batch, precision, device)
        if losses:
            torch.stack([*losses.values()]).sum().backward()  # type: ignore[no-untyped-call]
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    with torch.random.fork_rng():
        found = speeds(step, len(batch[0]))
    return max(found, key=lambda name: found[name])
