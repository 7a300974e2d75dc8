"""Photos with a box around every object of some classes, for detectors."""

import csv
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from cbam.data.labelled import Region
from cbam.errors import BadData, MissingFile, NotAvailable


@dataclass(frozen=True)
class Boxed:
    """A photo (a file or its bytes) and its objects."""

    name: str
    photo: Path | bytes
    regions: tuple[Region, ...]  # x0, y0, x1, y1, relative to the photo
    labels: tuple[int, ...]  # each region's class
    marked: tuple[bool, ...]  # class by class: are all its objects marked here?


def boxed_photos(
    source: Path, labels: Sequence[str], boxes: Path | None = None, partly: Collection[str] = ()
) -> list[Boxed]:
    """The rows of a parquet file: `name`, `image` (a photo's file) and, optionally, `complete`.

    `boxes` is a CSV file `name,class,x0,y0,x1,y1`, relative to width and height, by default
    `boxes.csv` beside the parquet file. Objects of other classes than `labels` are left out. Where
    `complete` is false, objects of the classes in `partly` are not marked.
    Raises MissingFile, BadData, NotAvailable without pyarrow.
    """
    boxes = boxes or source.with_name("boxes.csv")
    for path in (source, boxes):
        if not path.is_file():
            raise MissingFile(f"There is no file {path}.")
    objects = _objects(boxes, {label: index for index, label in enumerate(labels)})
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise NotAvailable.extra("Parquet files", "train", "pyarrow") from error
    file = pq.ParquetFile(source)
    if missing := {"name", "image"} - set(file.schema_arrow.names):
        raise BadData(f"{source} lacks the columns {', '.join(sorted(missing))}.")
    columns = [name for name in ("name", "image", "complete") if name in file.schema_arrow.names]
    found: list[Boxed] = []
    for batch in file.iter_batches(batch_size=256, columns=columns):
        for row in batch.to_pylist():
            mine = objects[row["name"]]
            whole = row.get("complete", True)
            found.append(
                Boxed(
                    row["name"],
                    row["image"],
                    tuple(region for region, _ in mine),
                    tuple(label for _, label in mine),
                    tuple(whole or label not in partly for label in labels),
                )
            )
    if not found:
        raise MissingFile(f"No photos in {source}.")
    return found


def _objects(path: Path, index: dict[str, int]) -> dict[str, list[tuple[Region, int]]]:
    """Boxes and classes by photo. Raises BadData for a file of another shape or an empty box."""
    objects: dict[str, list[tuple[Region, int]]] = defaultdict(list)
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            try:
                label, name = row["class"], row["name"]
                x0, y0, x1, y1 = (float(row[side]) for side in ("x0", "y0", "x1", "y1"))
            except (KeyError, TypeError, ValueError) as error:
                raise BadData(
                    f"{path} has no column or number for {error}. "
                    "Expected: name,class,x0,y0,x1,y1, relative to the photo."
                ) from error
            if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
                raise BadData(f"{path}: the box {x0},{y0},{x1},{y1} of {name} lies not in [0, 1].")
            if label in index:
                objects[name].append(((x0, y0, x1, y1), index[label]))
    return objects
