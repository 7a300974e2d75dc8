"""What is measured on: photos with their true class and, where known, boxes around the object."""

import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from PIL import Image

from cbam.data.parquet import parquet_files, read_rows
from cbam.errors import BadData, BadImage, MissingFile, UnknownName
from cbam.images.decode import decode
from cbam.images.formats import SUFFIXES
from cbam.images.strangers import PICTURE_SUFFIXES

Region = tuple[float, float, float, float]  # x0, y0, x1, y1, relative to the photo


@dataclass(frozen=True)
class Labelled:
    """A photo (a file or its bytes), its class index, and where the object is."""

    name: str
    photo: Path | bytes
    target: int
    regions: tuple[Region, ...] = ()
    word: str = ""  # if only an everyday word of several classes is known; `target` is the first


@dataclass(frozen=True)
class Unread:
    """A photo that could not be read and was left out, and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class Opened(Protocol):
    """A photo of a data set: its name, and its file or that one's bytes."""

    @property
    def name(self) -> str: ...
    @property
    def photo(self) -> Path | bytes: ...


P = TypeVar("P", bound=Opened)


def opened(photos: Iterable[P], unread: list[Unread]) -> Iterator[tuple[P, Image.Image]]:
    """Each photo, decoded to upright RGB; those that cannot be read are added to `unread`."""
    for labelled in photos:
        try:
            given = labelled.photo
            photo = decode(given if isinstance(given, bytes) else given.read_bytes())
        except BadImage as error:
            unread.append(Unread(labelled.name, str(error)))
        except OSError as error:
            unread.append(Unread(labelled.name, f"{error.strerror or error}."))
        else:
            yield labelled, photo


def nothing_read(unread: Sequence[Unread]) -> BadData:
    """The error for a data set of which no photo can be read."""
    return BadData(f"None of the {len(unread)} photos can be read. The first is {unread[0]}")


def labelled_photos(
    folders: Sequence[str], source: Path, boxes: Path | None = None
) -> list[Labelled]:
    """`source`/<class folder>/<photo> at any depth, sorted, or the rows of a parquet file.

    What systems and programs leave behind is skipped: see `class_folders` and `picture_files`.

    `folders` names the folder (in parquet the `wnid`) of each class, in class order.
    `boxes` is a CSV file with `file,x0,y0,x1,y1` (relative; several rows a photo; `file` is
    <source's name>/<class folder>/<photo>); a parquet file holds its own. Raises UnknownName for a
    class that is not in `folders`, MissingFile if there is no photo, BadData for broken boxes.
    """
    known = {folder: index for index, folder in enumerate(folders)}
    if source.suffix == ".parquet":
        found = _from_parquet(source, known)
    else:
        found = _from_folders(source, known, read_boxes(boxes) if boxes else {})
    if not found:
        raise MissingFile(f"No photos in {source}. Expected {source}/<class folder>/<photo>.")
    return found


def other_photos(source: Path) -> list[Labelled]:
    """All photos in a folder and the folders in it, or in a parquet file, whatever they show.

    Their class is -1. Raises MissingFile if there is no photo.
    """
    if source.suffix == ".parquet" and source.is_file():
        found = [Labelled(row.name, row.data, -1) for row in read_rows(parquet_files(source))]
    else:
        known = (*SUFFIXES, *PICTURE_SUFFIXES)
        paths = sorted(path for path in source.rglob("*") if path.suffix.lower() in known)
        found = [Labelled(str(path.relative_to(source)), path, -1) for path in paths]
    if not found:
        raise MissingFile(f"No photos in {source}.")
    return found


def read_boxes(path: Path) -> dict[str, list[Region]]:
    """Boxes by file from `file,x0,y0,x1,y1`, relative to width and height; several rows a file."""
    boxes: dict[str, list[Region]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for row in csv.DictReader(file):
                region = (float(row["x0"]), float(row["y0"]), float(row["x1"]), float(row["y1"]))
                boxes.setdefault(row["file"], []).append(region)
    except OSError as error:
        raise MissingFile(f"The boxes in {path} cannot be read: {error.strerror}.") from error
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise BadData(
            f"{path} is no list of boxes. Expected lines of file,x0,y0,x1,y1, relative to width "
            f"and height, below these words: {error}."
        ) from error
    return boxes


def _left_behind(name: str) -> bool:
    """Whether a file or folder comes from a system or program, not from the data set.

    `._x.jpg` and `__MACOSX` (macOS), `.DS_Store`, `.ipynb_checkpoints` (Jupyter) and the like.
    """
    return name.startswith(".") or name == "__MACOSX"


def class_folders(source: Path) -> list[Path]:
    """The folders in `source` that may be classes, sorted. Raises MissingFile if it is none."""
    try:
        inside = sorted(source.iterdir())
    except OSError as error:
        raise MissingFile(
            f"There are no photos in {source}: {error.strerror}. Expected {source}/<class>/<photo>."
        ) from error
    return [path for path in inside if path.is_dir() and not _left_behind(path.name)]


def picture_files(folder: Path) -> list[Path]:
    """The picture files in a folder at any depth, sorted: by their endings, whatever is in them."""
    found: list[Path] = []
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not _left_behind(name)]
        found += [
            path
            for name in files
            if (path := Path(place) / name).suffix.lower() in (*SUFFIXES, *PICTURE_SUFFIXES)
            and not _left_behind(name)
        ]
    return sorted(found)


def _from_folders(
    source: Path, known: Mapping[str, int], boxes: Mapping[str, Sequence[Region]]
) -> list[Labelled]:
    found: list[Labelled] = []
    for folder in class_folders(source):
        if folder.name not in known:
            raise UnknownName.of(f"class folder in {source}", folder.name, known)
        for path in picture_files(folder):
            name = path.relative_to(source.parent).as_posix()
            found.append(Labelled(name, path, known[folder.name], tuple(boxes.get(name, ()))))
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
            try:
                with Image.open(io.BytesIO(row.data)) as image:  # the header alone
                    width, height = image.size
            except (OSError, ValueError, SyntaxError):
                width = height = 1  # broken: whoever decodes it will say so
            x0, y0, x1, y1 = row.box
            regions = ((x0 / width, y0 / height, (x1 + 1) / width, (y1 + 1) / height),)
        found.append(Labelled(row.name, row.data, known[row.folder], regions))
    return found
