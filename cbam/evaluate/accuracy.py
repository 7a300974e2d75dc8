"""Top-1, top-5 and calibration over folders of photos."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cbam.cards import Card
from cbam.errors import UnknownName
from cbam.model import Model, open_photo

BATCH = 64
PHOTOS = (".jpeg", ".jpg", ".png", ".webp")


@dataclass(frozen=True)
class Accuracy:
    """Shares in [0, 1] over `photos` photos."""

    photos: int
    top1: float
    top5: float
    calibration_error: float  # expected calibration error, 15 equal bins


def labelled_photos(card: Card, root: Path) -> list[tuple[Path, int]]:
    """`root`/<folder>/<photo> with its class index, sorted. Raises UnknownName."""
    known = {folder: index for index, folder in enumerate(card.folders or card.labels)}
    found: list[tuple[Path, int]] = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        if folder.name not in known:
            raise UnknownName.of(f"class folder in {root}", folder.name, known)
        found += [
            (path, known[folder.name])
            for path in sorted(folder.iterdir())
            if path.suffix.lower() in PHOTOS
        ]
    if not found:
        raise UnknownName(f"No photos in {root}. Expected {root}/<class folder>/<photo>.")
    return found


def tensors(model: Model, paths: Iterable[Path]) -> Iterator[Tensor]:
    """The photos as the model takes them, in batches (N, 3, S, S)."""
    batch: list[Tensor] = []
    for path in paths:
        batch.append(model.card.preprocess(open_photo(path)))
        if len(batch) == BATCH:
            yield torch.stack(batch)
            batch = []
    if batch:
        yield torch.stack(batch)


def logits(network: nn.Module, batches: Iterable[Tensor]) -> Tensor:
    """All photos' logits: (photos, classes)."""
    with torch.inference_mode():
        rows = [network(batch.to(memory_format=torch.channels_last)) for batch in batches]
    return torch.cat(rows)


def accuracy(scores: Tensor, targets: Tensor) -> Accuracy:
    """Logits (photos, classes) and true classes (photos,) -> shares.

    Calibration: Guo et al. 2017, https://arxiv.org/abs/1706.04599, eq. 3.
    """
    order = scores.argsort(dim=1, descending=True)
    right = order == targets[:, None]
    confidence = scores.softmax(dim=1).amax(dim=1)
    bins = (confidence * 15).long().clamp(max=14)
    error = 0.0
    for which in range(15):
        inside = bins == which
        if inside.any():
            gap = right[inside, 0].float().mean() - confidence[inside].mean()
            error += float(inside.float().mean() * gap.abs())
    return Accuracy(
        photos=len(targets),
        top1=float(right[:, 0].float().mean()),
        top5=float(right[:, :5].any(dim=1).float().mean()),
        calibration_error=error,
    )
