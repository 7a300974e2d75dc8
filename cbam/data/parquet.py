"""Image parquet files: one row a photo, with its class and, if known, the object's box."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cbam.errors import BadData, NotAvailable

IMAGE_COLUMNS = ("webp", "jpeg", "png", "image", "bytes")  # the first that a file has
COLUMNS = ("name", "wnid", "box")


@dataclass(frozen=True)
class Row:
    """One photo of a parquet file."""

    name: str
    folder: str  # its class, as the folders of an ImageFolder are named: a WordNet id; "": unknown
    data: bytes  # the encoded photo
    box: tuple[int, int, int, int] | None  # x0, y0, x1, y1 in pixels, the last ones included


def parquet_files(path: Path) -> list[Path]:
    """`path` itself if it is a parquet file; in a folder its `train*.parquet`, sorted."""
    if path.suffix == ".parquet" and path.is_file():
        return [path]
    return sorted(path.glob("train*.parquet"))


def has_classes(path: Path) -> bool:
    """Whether a parquet file names its photos' classes, rather than a list of boxes beside it.

    Raises NotAvailable without pyarrow.
    """
    return "wnid" in _opened(path).schema_arrow.names


def count_rows(files: Sequence[Path]) -> int:
    """How many photos several files hold together. Raises NotAvailable without pyarrow."""
    return sum(_opened(path).metadata.num_rows for path in files)


def read_rows(files: Sequence[Path], labelled: bool = True) -> Iterator[Row]:
    """The photos of several files, in their order; a file is read piece by piece.

    Columns: `name`, `wnid`, the encoded photo in one of IMAGE_COLUMNS, and optionally `box`; if
    they need not be `labelled`, `name` and `wnid` may be missing. Raises BadData for a file of
    another shape, NotAvailable without pyarrow.
    """
    for path in files:
        file = _opened(path)
        present = file.schema_arrow.names
        images = [name for name in IMAGE_COLUMNS if name in present]
        needed = {"name", "wnid"} if labelled else set()
        if not images or not needed.issubset(present):
            raise BadData(
                f"{path} has the columns {', '.join(present)}. Expected: name, wnid, the photo in "
                f"one of {', '.join(IMAGE_COLUMNS)}, and optionally box."
            )
        columns = [name for name in (*COLUMNS, images[0]) if name in present]
        for batch in file.iter_batches(batch_size=1024, columns=columns):
            for row in batch.to_pylist():
                box = tuple(row["box"]) if row.get("box") is not None else None
                yield Row(row.get("name", path.name), row.get("wnid", ""), row[images[0]], box)


def _opened(path: Path) -> Any:
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise NotAvailable.extra("Parquet files", "train", "pyarrow") from error
    return pq.ParquetFile(path)
