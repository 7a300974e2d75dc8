"""Photos as data sets have them."""

from collections.abc import Sequence
from pathlib import Path

from cbam.data.labelled import Labelled


def in_class_folder(photos: Sequence[Labelled], root: Path, name: str) -> Path:
    """Copy photos from files to <root>/<name>/<photo>: the root."""
    (root / name).mkdir(parents=True)
    for each in photos:
        assert isinstance(each.photo, Path)
        (root / name / each.name).write_bytes(each.photo.read_bytes())
    return root
