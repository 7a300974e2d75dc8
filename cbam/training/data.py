"""Training photos: decoded once into memory, augmented anew in every epoch.

Folders of photos of any size are augmented photo by photo in worker processes (`InMemory`, or
`Folders` where they are more than memory holds and stay on disk); equally large photos from parquet
files lie in one tensor and are augmented a batch at a time on the device that trains (`Stacked`).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import pil_to_tensor

from cbam.data.labelled import (
    Labelled,
    Unread,
    class_folders,
    labelled_photos,
    nothing_read,
    opened,
)
from cbam.data.parquet import parquet_files, read_rows
from cbam.errors import BadRecipe, MissingFile
from cbam.images.photo import open_photo
from cbam.images.preprocess import Preprocess
from cbam.training.recipe import Recipe
from cbam.training.views import random_views

Sample = tuple[Tensor, int]


class Folders(Dataset[Sample]):
    """Photos in <class>/<photo> as upright uint8 tensors (3, H, W), each decoded when asked for.

    For more photos than memory holds. `folders` fixes which folder is which class. Raises BadRecipe
    if the data has other classes, and BadImage for a broken photo when it is asked for.
    """

    def __init__(self, root: Path, folders: Sequence[str]) -> None:
        try:
            present = [folder.name for folder in class_folders(root)]
        except MissingFile as error:
            raise BadRecipe(str(error)) from error
        if present != sorted(folders):
            raise BadRecipe(
                f"{root} holds the classes {', '.join(present) or 'none'}; "
                f"the recipe names {', '.join(sorted(folders))}."
            )
        self.files = labelled_photos(folders, root)
        self.targets = [labelled.target for labelled in self.files]
        self.unread: list[Unread] = []
        self.transform: v2.Transform = v2.Identity()

    def photo(self, index: int) -> Tensor:
        """One photo: uint8 (3, H, W)."""
        pixels: Tensor = pil_to_tensor(open_photo(self.files[index].photo))
        return pixels

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Sample:
        return self.transform(self.photo(index)), self.targets[index]


class InMemory(Folders):
    """The same, all photos decoded once and held in memory.

    `unread` are the photos that were left out because they cannot be read. Raises BadRecipe as
    well if none of a class is left, MissingFile if there are no photos, BadData if none can be
    read.
    """

    def __init__(self, root: Path, folders: Sequence[str]) -> None:
        super().__init__(root, folders)
        self.photos: list[Tensor] = []
        self.targets = []
        for labelled, photo in opened(self.files, self.unread):
            self.photos.append(pil_to_tensor(photo))
            self.targets.append(labelled.target)
        _check_classes(self.targets, folders, self.unread)

    def photo(self, index: int) -> Tensor:
        """One photo: uint8 (3, H, W)."""
        return self.photos[index]

    def __getitem__(self, index: int) -> Sample:
        return self.transform(self.photos[index]), self.targets[index]


class Stacked:
    """Equally large photos of parquet files: uint8 (N, 3, H, W), and their classes: int64 (N,).

    `folders` fixes which `wnid` is which class. Raises BadRecipe if the data has other ones or
    photos of several sizes. `unread`: as in `InMemory`.
    """

    def __init__(self, files: Sequence[Path], folders: Sequence[str]) -> None:
        index = {folder: position for position, folder in enumerate(folders)}
        photos: list[Tensor] = []
        targets: list[int] = []
        self.unread: list[Unread] = []

        def rows() -> Iterator[Labelled]:
            for row in read_rows(files):
                if row.folder not in index:
                    raise BadRecipe(f"{row.name} is of class {row.folder}, which the recipe lacks.")
                yield Labelled(row.name, row.data, index[row.folder])

        for labelled, photo in opened(rows(), self.unread):
            photos.append(torch.from_numpy(np.array(photo)))
            targets.append(labelled.target)
            if photos[-1].shape != photos[0].shape:
                raise BadRecipe(f"{labelled.name} is not as large as the photos before it.")
        _check_classes(targets, folders, self.unread)
        self.photos = torch.stack(photos).permute(0, 3, 1, 2).contiguous()
        self.targets = torch.tensor(targets)

    @classmethod
    def of(cls, photos: Tensor, targets: Tensor) -> "Stacked":
        """From tensors that are there already: uint8 (N, 3, H, W) and int64 (N,)."""
        made = cls.__new__(cls)
        made.photos, made.targets, made.unread = photos, targets, []
        return made

    def __len__(self) -> int:
        return len(self.targets)

    def batches(
        self, recipe: Recipe, epoch: int, device: torch.device, rank: int = 0, processes: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch on `device`: uint8 (B, 3, s, s) and int64 (B,); of several processes' batches
        those of `rank`.

        Order and views depend on the seed, the epoch and the rank alone, as in `batches`.
        """
        self.photos, self.targets = self.photos.to(device), self.targets.to(device)
        seed = recipe.seed * 100_003 + epoch
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed)).to(device)
        draw = torch.Generator(device).manual_seed(seed * 1_009 + rank)
        size = recipe.batch_size
        for number in range(rank, len(self) // (size * processes) * processes, processes):
            chosen = order[number * size : (number + 1) * size]
            views = random_views(
                self.photos[chosen],
                recipe.image_size_px(epoch),
                recipe.crop_scale(epoch),
                recipe.colour_jitter,
                draw,
            )
            yield views, self.targets[chosen]


def _check_classes(
    targets: Sequence[int], folders: Sequence[str], unread: Sequence[Unread]
) -> None:
    """Raises BadData if no photo can be read, BadRecipe if a class has none."""
    if unread and not targets:
        raise nothing_read(unread)
    there = set(targets)
    missing = [folder for index, folder in enumerate(folders) if index not in there]
    if missing:
        raise BadRecipe(f"No photos of the recipe's classes {', '.join(missing[:5])}.")


def training_photos(
    source: Path, folders: Sequence[str], in_memory: bool = True
) -> Folders | Stacked:
    """The photos of a folder (<class>/<photo>, or train*.parquet) or of one parquet file.

    `in_memory`: folders are decoded once; else each photo in every epoch, for more photos than
    memory holds. Raises BadRecipe if their classes are not `folders`.
    """
    if files := parquet_files(source):
        return Stacked(files, folders)
    return InMemory(source, folders) if in_memory else Folders(source, folders)


def augmentation(recipe: Recipe, epoch: int) -> v2.Transform:
    """A random view of a photo in `epoch`: uint8 (3, H, W) -> uint8 (3, size, size)."""
    steps: list[v2.Transform] = [
        v2.RandomResizedCrop(
            recipe.image_size_px(epoch), scale=(recipe.crop_scale(epoch), 1.0), antialias=True
        ),
        v2.RandomHorizontalFlip(),
    ]
    if recipe.colour_jitter:
        steps.append(v2.ColorJitter(*[recipe.colour_jitter] * 3))
    return v2.Compose(steps)


def batches(dataset: Folders, recipe: Recipe, epoch: int, workers: int) -> DataLoader[Sample]:
    """One epoch of shuffled, augmented batches: uint8 (N, 3, s, s) and int64 (N,).

    Order and augmentation depend on the recipe's seed and the epoch alone, so every member of a
    family sees the same views in the same order, and a resumed run those that it would have seen.
    """
    dataset.transform = augmentation(recipe, epoch)
    seed = recipe.seed * 100_003 + epoch
    torch.manual_seed(seed)  # without workers the augmentation draws from the main generator
    return DataLoader(
        dataset,
        recipe.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,  # shares the photos' memory
        generator=torch.Generator().manual_seed(seed),
        prefetch_factor=4 if workers else None,
    )


def normalise(photos: Tensor, seen: Recipe | Preprocess) -> Tensor:
    """uint8 (N, 3, H, W) -> float32, minus mean, by standard deviation, channels last."""
    mean = torch.tensor(seen.mean, device=photos.device).view(1, 3, 1, 1)
    std = torch.tensor(seen.std, device=photos.device).view(1, 3, 1, 1)
    return ((photos / 255 - mean) / std).to(memory_format=torch.channels_last)
