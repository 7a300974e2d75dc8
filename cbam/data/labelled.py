"""What is measured on: photos with their true class and, where known, boxes around the object."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from cbam.data.parquet import parquet_files, read_rows
from cbam.errors import MissingFile, UnknownName
from cbam.images.formats import SUFFIXES

Region = tuple[float, float, float, float]  # x0, y0, x1, y1, relative to the photo


@dataclass(frozen=True)
class Labelled:
    """A photo (a file or its bytes), its class index, and where the object is."""

    name: str
    photo: Path | bytes
    target: int
    regions: tuple[Region, ...] = ()


def labelled_photos(
    folders: Sequence[str], source: Path, boxes: Path | None = None
) -> list[Labelled]:
    """`source`/<class folder>/<photo>, sorted, or the rows of a parquet file.

    `folders` names the folder (in parquet the `wnid`) of each class, in class order.
    `boxes` is a CSV file with `file,x0,y0,x1,y1` (relative; several rows a photo; `file` is
    <source's name>/<class folder>/<photo>); a parquet file holds its own. Raises UnknownName for a
    class that is not in `folders`, MissingFile if there is no photo.
    """
    known = {folder: index for index, folder in enumerate(folders)}
    if source.suffix == ".parquet":
        found = _from_parquet(source, known)
    else:
        found = _from_folders(source, known, read_boxes(boxes) if boxes else {})
    if not found:
        raise MissingFile(f"No photos in {source}. Expected {source}/<class folder>/<photo>.")
    return found


def read_boxes(path: Path) -> dict[str, list[Region]]:
    """Boxes by file from `file,x0,y0,x1,y1`, relative to width and height; several rows a file."""
    boxes: dict[str, list[Region]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            region = (float(row["x0"]), float(row["y0"]), float(row["x1"]), float(row["y1"]))
            boxes.setdefault(row["file"], []).append(region)
    return boxes


def _from_folders(
    source: Path, known: Mapping[str, int], boxes: Mapping[str, Sequence[Region]]
) -> list[Labelled]:
    found: list[Labelled] = []
    for folder in sorted(path for path in source.iterdir() if path.is_dir()):
        if folder.name not in known:
            raise UnknownName.of(f"class folder in {source}", folder.name, known)
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in SUFFIXES:
                name = "/".join(path.parts[-3:])
                regions = tuple(boxes.get(name, ()))
                found.append(Labelled(name, path, known[folder.name], regions))
    return found


def _from_parquet(source: Path, known: Mapping[str, int]) -> list[Labelled]:
    if not source.is_file():
        raise MissingFile(f"There is no file {source}.")
    found: list[Labelled] = []
    for row in read_rows(parquet_files(source)):
        if row.folder not in known:
            raise UnknownName.of(f"class in {source}", row.folder, known)
        regions: tuple[Region, ...] = ()
        if row.box is not None:
            with Image.open(io.BytesIO(row.data)) as image:  # the header alone
                width, height = image.size
            x0, y0, x1, y1 = row.box
            regions = ((x0 / width, y0 / height, (x1 + 1) / width, (y1 + 1) / height),)
        found.append(Labelled(row.name, row.data, known[row.folder], regions))
    return found
