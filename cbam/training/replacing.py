"""Files that are written whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write what then takes the place of `path`.

    A kill leaves the old file or the new one, never half of it.
    """
    partial = path.with_suffix(".partial")
    yield partial
    partial.replace(path)
