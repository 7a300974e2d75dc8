"""Top-1, top-5 and calibration over folders of photos."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor, nn

from cbam.evaluate.calibration import calibration_error
from cbam.model import Model

BATCH = 64


@dataclass(frozen=True)
class Accuracy:
    """Shares in [0, 1] over `photos` photos."""

    photos: int
    top1: float
    top5: float
    calibration_error: float  # of the softmax of the logits, before any temperature


def tensors(model: Model, photos: Iterable[Image.Image]) -> Iterator[Tensor]:
    """The photos (upright RGB) as the model takes them, in batches (N, 3, S, S)."""
    batch: list[Tensor] = []
    for photo in photos:
        batch.append(model.card.preprocess(photo))
        if len(batch) == BATCH:
            yield torch.stack(batch)
            batch = []
    if batch:
        yield torch.stack(batch)


def logits(batches: Iterable[Tensor], *networks: nn.Module) -> list[Tensor]:
    """All photos' logits by each network: (photos, classes); a batch is made once for them all."""
    rows: list[list[Tensor]] = [[] for _ in networks]
    for batch in batches:  # outside: whoever makes the batches may need gradients
        with torch.inference_mode():
            images = batch.to(memory_format=torch.channels_last)
            for found, network in zip(rows, networks, strict=True):
                found.append(network(images))
    return [torch.cat(found) for found in rows]


def accuracy(scores: Tensor, targets: Tensor) -> Accuracy:
    """Logits (photos, classes) and true classes (photos,) -> shares."""
    order = scores.argsort(dim=1, descending=True)
    right = order == targets[:, None]
    return Accuracy(
        photos=len(targets),
        top1=float(right[:, 0].float().mean()),
        top5=float(right[:, :5].any(dim=1).float().mean()),
        calibration_error=calibration_error(scores, targets),
    )
