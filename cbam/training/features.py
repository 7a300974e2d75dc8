"""What a frozen network makes of training photos, computed once and kept on disk.

A detector's head trains on these alone: an epoch costs a small part of what the network would. Each
file holds one view of some photos; a run that was stopped goes on at the first missing file.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from cbam.data.boxed import Boxed
from cbam.errors import BadImage
from cbam.images.decode import decode
from cbam.images.frame import Frame
from cbam.training.replacing import replacing

PHOTOS_A_FILE = 64
BATCH = 8  # photos of one shape in one pass
Stages = tuple[Tensor, ...]  # the outputs of a network's last stages, each (N, C, h, w)


@dataclass(frozen=True, eq=False)
class Example:
    """One view of a photo: a batch of one as the stages saw it, and its objects."""

    stages: Stages
    boxes: Tensor  # (n, 4), x0, y0, x1, y1 in pixels of the network's input
    labels: Tensor  # (n,)
    marked: Tensor  # (classes,), bool


def view_of(boxed: Boxed, number: int, seed: int) -> tuple[Image.Image, Tensor, Tensor]:
    """A photo's view, its boxes (n, 4) in pixels and their labels (n,).

    View 0 is the photo. The others are mirrored and, by chance that `seed` fixes, enlarged to a
    crop, shrunk on grey, or neither; their colours vary a little.
    """
    if number == 0:
        return opened(boxed)
    change = v2.Compose(
        [
            v2.RandomHorizontalFlip(p=1),
            v2.RandomChoice(
                [
                    v2.RandomIoUCrop(min_scale=0.5),
                    v2.RandomZoomOut(fill=124, side_range=(1.0, 1.6), p=1),
                    v2.Identity(),
                ],
                p=[0.5, 0.25, 0.25],
            ),
            v2.ColorJitter(0.2, 0.2, 0.2),
            v2.SanitizeBoundingBoxes(min_size=2),
        ]
    )
    return changed(boxed, change, seed)


def opened(boxed: Boxed) -> tuple[Image.Image, Tensor, Tensor]:
    """A photo, its boxes (n, 4) in pixels and their labels (n,). Raises BadImage, OSError."""
    data = boxed.photo if isinstance(boxed.photo, bytes) else boxed.photo.read_bytes()
    photo = decode(data)
    scale = torch.tensor(photo.size * 2, dtype=torch.float32)
    boxes = torch.tensor(boxed.regions, dtype=torch.float32).reshape(-1, 4) * scale
    return photo, boxes, torch.tensor(boxed.labels, dtype=torch.int64)


def changed(
    boxed: Boxed, change: Callable[[dict[str, Any]], dict[str, Any]], seed: int
) -> tuple[Image.Image, Tensor, Tensor]:
    """The same behind a transform of torchvision.transforms.v2, whose chance `seed` fixes."""
    photo, boxes, labels = opened(boxed)
    framed = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=photo.size[::-1])
    with torch.random.fork_rng(devices=[]):  # the transforms draw from the main generator
        torch.manual_seed(seed)
        found = change({"photo": photo, "boxes": framed, "labels": labels})
    return found["photo"], found["boxes"].as_subclass(Tensor), found["labels"]


def keep_features(
    photos: Sequence[Boxed],
    frame: Frame,
    views: int,
    seed: int,
    stages: Callable[[Tensor], Stages],
    folder: Path,
    step: Callable[[int, int], None] = lambda view, done: None,
) -> None:
    """Write what `stages` puts out for `views` views of every photo, as float16, into `folder`.

    What is there already stays, so that more views can be added. `step` hears the view and how many
    photos are done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for view in range(views):
        for start in range(0, len(photos), PHOTOS_A_FILE):
            some = photos[start : start + PHOTOS_A_FILE]
            path = _path(folder, view, start)
            if not path.exists():
                with replacing(path) as file:
                    save_file(_features(some, frame, view, seed, stages, start), file)
            step(view, min(start + PHOTOS_A_FILE, len(photos)))


def _path(folder: Path, view: int, start: int) -> Path:
    """The file with one view of the photos from number `start` on."""
    return folder / f"{view}-{start:06d}.safetensors"


def _features(
    photos: Sequence[Boxed],
    frame: Frame,
    view: int,
    seed: int,
    stages: Callable[[Tensor], Stages],
    start: int,
) -> dict[str, Tensor]:
    """One file's tensors: of photo 7 `7.boxes`, `7.labels`, `7.marked` and the stages `7.0` ..."""
    kept: dict[str, Tensor] = {}
    by_shape: dict[tuple[int, ...], list[tuple[int, Tensor]]] = defaultdict(list)
    for number, boxed in enumerate(photos, start):
        drawn = (seed * 1_000_003 + number) * 101 + view
        try:
            photo, boxes, labels = view_of(boxed, view, drawn)
        except (BadImage, OSError):
            continue  # Features.missing says so
        kept[f"{number}.boxes"] = boxes * torch.tensor(frame.scales(*photo.size))
        kept[f"{number}.labels"] = labels
        kept[f"{number}.marked"] = torch.tensor(boxed.marked)
        image = frame(photo)
        by_shape[tuple(image.shape)].append((number, image))
    for group in by_shape.values():
        for first in range(0, len(group), BATCH):
            batch = group[first : first + BATCH]
            images = torch.stack([image for _, image in batch])
            outputs = stages(images.to(memory_format=torch.channels_last))
            for row, (number, _) in enumerate(batch):
                for level, output in enumerate(outputs):
                    kept[f"{number}.{level}"] = output[row].half().contiguous()
    return kept


class Features:
    """The kept features of `photos` photos in `views` views each.

    `missing` are the numbers of photos that could not be read; they are in no batch.
    """

    def __init__(self, folder: Path, photos: int, views: int, levels: int = 2) -> None:
        self.photos, self.views, self.levels = photos, views, levels
        starts = range(0, photos, PHOTOS_A_FILE)
        self._files: list[list[Any]] = [
            [safe_open(_path(folder, view, start), framework="pt") for start in starts]
            for view in range(views)
        ]
        self._shapes = [
            [self._shape(number, view) for view in range(views)] for number in range(photos)
        ]
        self.missing = [number for number, shapes in enumerate(self._shapes) if () in shapes]

    def _shape(self, number: int, view: int) -> tuple[int, ...]:
        file = self._files[view][number // PHOTOS_A_FILE]
        kept = set(file.keys())
        if f"{number}.0" not in kept:
            return ()
        return tuple(file.get_slice(f"{number}.0").get_shape())

    def example(self, number: int, view: int) -> Example:
        """One view, as float32."""
        file = self._files[view][number // PHOTOS_A_FILE]
        stages = tuple(
            file.get_tensor(f"{number}.{level}").float()[None] for level in range(self.levels)
        )
        boxes, labels, marked = (
            file.get_tensor(f"{number}.{what}") for what in ("boxes", "labels", "marked")
        )
        return Example(stages, boxes, labels, marked)

    def order(self, size: int, epoch: int, seed: int) -> Iterator[list[tuple[int, int]]]:
        """One epoch's batches as photos and their views: every photo once, a batch of one shape.

        It depends on `seed` and `epoch` alone.
        """
        draw = torch.Generator().manual_seed(seed * 100_003 + epoch)
        by_shape: dict[tuple[int, ...], list[tuple[int, int]]] = defaultdict(list)
        for number in torch.randperm(self.photos, generator=draw).tolist():
            if number in self.missing:
                continue
            view = (number + epoch) % self.views
            by_shape[self._shapes[number][view]].append((number, view))
        groups = [
            chosen[first : first + size]
            for chosen in by_shape.values()
            for first in range(0, len(chosen), size)
        ]
        for which in torch.randperm(len(groups), generator=draw).tolist():
            yield groups[which]

    def batches(self, size: int, epoch: int, seed: int) -> Iterator[list[Example]]:
        """The examples of `order`."""
        for chosen in self.order(size, epoch, seed):
            yield [self.example(number, view) for number, view in chosen]
