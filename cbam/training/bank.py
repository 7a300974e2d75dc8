"""A bank of photos of any sizes, with or without classes: decoded once, cut anew for every step."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample

from cbam.data.labelled import Unread, nothing_read, picture_files
from cbam.data.parquet import count_rows, parquet_files, read_rows
from cbam.errors import BadData, BadImage, MissingFile
from cbam.images.decode import decode
from cbam.images.preprocess import Preprocess
from cbam.training.data import normalise
from cbam.training.views import random_views

DECODERS = 4  # threads; Pillow lets go of Python's lock while it decodes
Encoded = tuple[str, str, bytes]  # name, class folder ("": none), the file


class Bank:
    """Photos squeezed into squares, each with its aspect ratio, so that all lie in one tensor.

    Views have the photos' own proportions again. `source` is a folder of photos, searched with all
    folders in it, or of `train*.parquet` files, or one parquet file. With `folders`, the photos'
    classes are kept: the folder that a photo lies in (in parquet the `wnid`), by its index in
    `folders`. With `kept`, the squares are written to a file in that folder and are mapped from it,
    the next time without decoding: for more photos than memory holds.
    Photos that cannot be read are left out and listed in `unread`.
    Raises MissingFile if there is no photo, BadData if none can be read or for one whose class is
    not in `folders`.
    """

    def __init__(
        self,
        source: str | Path,
        size_px: int = 160,
        folders: Sequence[str] = (),
        kept: Path | None = None,
    ) -> None:
        squares, about = _squares(Path(source), size_px, kept)
        self.unread = tuple(Unread(*each) for each in about["unread"])
        self.photos = torch.from_numpy(squares)  # uint8 (N, 3, size_px, size_px)
        self.aspects = torch.tensor(about["aspects"], dtype=torch.float32)  # width / height
        self.targets: Tensor | None = _targets(about["folders"], folders) if folders else None

    def __len__(self) -> int:
        return len(self.aspects)

    def views(
        self,
        chosen: Tensor,
        size_px: int,
        crop_scale_min: float,
        jitter: float,
        draw: torch.Generator,
    ) -> Tensor:
        """Random views of the photos with these indices (B,): uint8 (B, 3, size_px, size_px).

        They are cut on the device of `draw`.
        """
        photos = self.photos[chosen].to(draw.device)
        aspects = self.aspects[chosen].to(draw.device)
        return random_views(photos, size_px, crop_scale_min, jitter, draw, aspects)

    def centres(self, chosen: Tensor, size_px: int) -> Tensor:
        """The central squares of these photos: uint8 (B, 3, size_px, size_px)."""
        photos, aspects = self.photos[chosen].float(), self.aspects[chosen]
        points = max(1, round(photos.shape[-1] / size_px))  # averaged, so that nothing flickers
        theta = torch.zeros(len(chosen), 2, 3)
        theta[:, 0, 0], theta[:, 1, 1] = (1 / aspects).clamp(max=1), aspects.clamp(max=1)
        shape = [len(chosen), 3, points * size_px, points * size_px]
        grid = affine_grid(theta, shape, align_corners=False)
        views = grid_sample(photos, grid, padding_mode="border", align_corners=False)
        return avg_pool2d(views, points).round().to(torch.uint8)

    def sample(self, count: int, preprocess: Preprocess, seed: int = 0) -> Tensor:
        """Some photos as a network takes them, for `cbam.insert`: (count, 3, size_px, size_px)."""
        draw = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(self), generator=draw)[:count]
        return normalise(self.views(chosen, preprocess.size_px, 0.25, 0.0, draw), preprocess)


def _squares(
    source: Path, size_px: int, kept: Path | None
) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """The squares (N, 3, size_px, size_px), and of each the aspect ratio and the class folder.

    And of photos that could not be read, name and reason.
    """
    files, parquet = _files(source)
    count = count_rows(files) if parquet else len(files)
    if not count:
        raise MissingFile(
            f"No photos in {source}. Expected photos, in any folders, or train*.parquet."
        )
    shape = (count, 3, size_px, size_px)
    if kept is None:
        memory = np.empty(shape, np.uint8)
        about = _fill(memory, files, parquet)
        return memory[: len(about["aspects"])], about
    kept.mkdir(parents=True, exist_ok=True)
    state = [[str(each), each.stat().st_size, each.stat().st_mtime_ns] for each in files]
    name = hashlib.sha256(json.dumps([state, size_px]).encode()).hexdigest()[:12]
    path, notes = kept / f"photos-{name}.npy", kept / f"photos-{name}.json"
    if not notes.exists():  # it is written last: without it the other file is not complete
        mapped = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
        about = _fill(mapped, files, parquet)
        mapped.flush()
        notes.write_text(json.dumps(about), encoding="utf-8")
    about = json.loads(notes.read_text(encoding="utf-8"))
    # "c": torch wants memory that may be written; what would be written would not reach the file.
    return np.lib.format.open_memmap(path, "c")[: len(about["aspects"])], about


def _files(source: Path) -> tuple[list[Path], bool]:
    """The files that hold the photos, and whether they are parquet files."""
    if parquet := parquet_files(source):
        return parquet, True
    return picture_files(source), False


def _encoded(files: Sequence[Path], parquet: bool) -> Iterator[Encoded]:
    if parquet:
        for row in read_rows(files, labelled=False):
            yield row.name, row.folder, row.data
    else:
        for path in files:
            yield str(path), path.parent.name, path.read_bytes()


def _fill(squares: NDArray[np.uint8], files: Sequence[Path], parquet: bool) -> dict[str, Any]:
    """Decode all photos into `squares`; what else is known of them."""
    aspects: list[float] = []
    folders: list[str] = []
    unread: list[tuple[str, str]] = []
    size_px = squares.shape[-1]
    with ThreadPoolExecutor(DECODERS) as pool:
        photos = _encoded(files, parquet)
        while some := [*islice(photos, 256)]:
            found = pool.map(lambda each: _square(each, size_px), some)
            for (name, folder, _), square in zip(some, found, strict=True):
                if isinstance(square, str):
                    unread.append((name, square))
                    continue
                squares[len(aspects)], aspect = square
                aspects.append(aspect)
                folders.append(folder)
    if unread and not aspects:
        raise nothing_read([Unread(*each) for each in unread])
    return {"aspects": aspects, "folders": folders, "unread": unread}


def _square(photo: Encoded, size_px: int) -> tuple[NDArray[np.uint8], float] | str:
    """A photo squeezed into a square (3, size_px, size_px), and its width / height.

    Or why it cannot be read.
    """
    try:
        image = decode(photo[2])
    except BadImage as error:
        return str(error)
    small = image.resize((size_px, size_px), Image.Resampling.BILINEAR)
    return np.asarray(small).transpose(2, 0, 1), image.width / image.height


def _targets(found: Sequence[str | float], folders: Sequence[str]) -> Tensor:
    index = {folder: number for number, folder in enumerate(folders)}
    for folder in found:
        if folder not in index:
            raise BadData(
                f"There are photos of class '{folder}', which the network does not know. To train "
                "without classes, let the network before the gates came be the teacher: [distil]."
            )
    return torch.tensor([index[str(folder)] for folder in found])
