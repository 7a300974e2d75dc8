"""Files that are written whole or not at all."""

from pathlib import Path

import pytest

from cbam.training.replacing import replacing


def test_a_file_takes_the_old_ones_place_when_it_is_whole(tmp_path: Path):
    path = tmp_path / "checkpoint.pt"
    path.write_text("old")
    with replacing(path) as file:
        file.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [*tmp_path.iterdir()] == [path]


def test_a_write_that_stops_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "checkpoint.pt"
    path.write_text("old")
    stop = OSError("disk full")

    def write() -> None:
        with replacing(path) as file:
            file.write_text("ne")
            raise stop

    with pytest.raises(OSError, match="disk full"):
        write()
    assert path.read_text() == "old"
