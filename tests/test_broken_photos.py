"""One broken photo among many: it is named, and the work goes on without it."""

import io
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commanding import Run
from PIL import Image

import cbam.data.labelled as labelled_module
from app.cli.shared import NAMED, SOME_UNREAD
from cbam.cards.card import Card
from cbam.data.labelled import labelled_photos
from cbam.errors import BadData, BadRecipe, MissingFile
from cbam.evaluate.card_metrics import measure_model
from cbam.model import Model
from cbam.training.data import InMemory, Stacked

pytest_plugins = ["commanding"]

# What systems and programs leave in folders of photos.
LEFT_BEHIND = ("._0.png", ".DS_Store", ".hidden.png", "Thumbs.db", "notes.txt")
LEFT_BEHIND_FOLDERS = (".ipynb_checkpoints", "__MACOSX", ".git")
BROKEN = {
    "empty.png": (b"", "empty file"),
    "text.jpg": (b"not found", "This is text"),
    "page.jpg": (b"<!DOCTYPE html><html></html>", "web page"),
    "cut.png": (None, "truncated"),
    "phone.jxl": (b"\xff\x0a" + bytes(50), "JPEG XL"),
    "old.tif": (b"II*\0" + bytes(50), "TIFF"),
}


@pytest.fixture
def photos(tmp_path: Path, tiny_model: Model, make_photo: Callable[..., Image.Image]) -> Path:
    """Two good photos in each class, all kinds of broken ones in the first, and litter."""
    root = tmp_path / "val"
    rows = ["\ufefffile,x0,y0,x1,y1"]  # as Windows Notepad saves it
    for number, label in enumerate(tiny_model.card.labels):
        (root / label).mkdir(parents=True)
        for seed in (2 * number, 2 * number + 1):
            make_photo(seed, 48, 48).save(root / label / f"{seed}.png")
            rows.append(f"val/{label}/{seed}.png,0,0,1,1")
    first = root / tiny_model.card.labels[0]
    for name, (data, _) in BROKEN.items():
        (first / name).write_bytes((first / "0.png").read_bytes()[:900] if data is None else data)
        rows.append(f"val/{first.name}/{name},0,0,1,1")
    for name in LEFT_BEHIND:
        (first / name).write_bytes(b"\0\5\x16\7")
    for name in LEFT_BEHIND_FOLDERS:
        for place in (root, first):
            (place / name).mkdir()
            make_photo().save(place / name / "0-checkpoint.png")
    (tmp_path / "boxes.csv").write_text("\r\n".join(rows) + "\r\n\r\n", encoding="utf-8")
    return root


def test_only_photos_of_the_data_set_are_found(photos: Path, tiny_model: Model):
    found = labelled_photos(tiny_model.card.class_folders, photos)
    names = {Path(each.name).name for each in found}
    assert names == {*BROKEN, *(f"{seed}.png" for seed in range(10))}


def test_evaluate_goes_on_and_lists_what_it_left_out(run: Run, photos: Path, tiny_card: Card):
    status, out, err = run("evaluate", tiny_card.folder, "--val", photos)
    assert status == SOME_UNREAD == 4
    assert "val photos" in out
    lines = err.splitlines()
    assert lines[0] == f"{len(BROKEN)} photos could not be read and were left out:"
    assert len(lines) == 1 + len(BROKEN)
    for name, (_, reason) in BROKEN.items():
        (line,) = [line for line in lines if f"/{name}: " in line]
        assert reason in line


def test_what_is_measured_is_that_of_the_good_photos(
    photos: Path, tiny_model: Model, tmp_path: Path
):
    boxes = tmp_path / "boxes.csv"
    with_broken = measure_model(tiny_model, photos, photos, boxes, None)
    assert [Path(each.name).name for each in with_broken.unread] == sorted(BROKEN)
    assert with_broken.metrics["val"]["photos"] == with_broken.metrics["boxed"]["photos"] == 10
    for name in BROKEN:
        (photos / tiny_model.card.labels[0] / name).unlink()
    without = measure_model(tiny_model, photos, photos, boxes, None)
    assert without.unread == []
    assert without.metrics == with_broken.metrics


@pytest.mark.parametrize("which", ["val", "boxed", "both", "two sets"])
def test_every_photo_is_decoded_once(
    which: str,
    photos: Path,
    tiny_model: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    count, decode = [], labelled_module.decode
    monkeypatch.setattr(labelled_module, "decode", lambda data: count.append(1) or decode(data))
    boxes = tmp_path / "boxes.csv"
    val = None if which == "boxed" else photos
    boxed = None if which == "val" else photos
    if which == "two sets":
        boxed = tmp_path / "val" / ".." / "val"  # another name
    measure_model(tiny_model, val, boxed, boxes if boxed else None, None)
    assert len(count) == (10 + len(BROKEN)) * (2 if which == "two sets" else 1)


def test_many_broken_photos_are_counted_and_the_first_are_named(
    run: Run, photos: Path, tiny_card: Card
):
    for number in range(30):
        (photos / tiny_card.labels[1] / f"x{number}.png").write_bytes(b"")
    status, _, err = run("evaluate", tiny_card.folder, "--val", photos)
    assert status == SOME_UNREAD
    assert err.startswith(f"{30 + len(BROKEN)} photos could not be read")
    assert err.splitlines()[-1] == f"  ... and {30 + len(BROKEN) - NAMED} more"
    assert len(err.splitlines()) == NAMED + 2


def test_a_data_set_without_any_readable_photo_is_an_error(run: Run, photos: Path, tiny_card: Card):
    for path in photos.rglob("*.png"):
        path.write_bytes(b"")
    status, _, err = run("evaluate", tiny_card.folder, "--val", photos)
    assert status == 1
    assert "None of the 16 photos can be read" in err


def test_photos_without_boxes_are_named_before_the_work(photos: Path, tiny_model: Model):
    with pytest.raises(BadData, match=r"no box for val/.*, .*, .* and 13 more"):
        measure_model(tiny_model, None, photos, None, None)


@pytest.mark.parametrize(
    "text",
    ["a,b\n1,2\n", "file,x0,y0,x1,y1\nval/a.png,0,0,one,1\n", "file,x0,y0,x1,y1\na\n"],
)
def test_a_list_of_boxes_that_is_none_is_refused(
    text: str, photos: Path, tiny_model: Model, tmp_path: Path
):
    boxes = tmp_path / "other.csv"
    boxes.write_text(text, encoding="utf-8")
    with pytest.raises(BadData, match=r"file,x0,y0,x1,y1"):
        labelled_photos(tiny_model.card.class_folders, photos, boxes)
    with pytest.raises(MissingFile, match="gone"):
        labelled_photos(tiny_model.card.class_folders, photos, tmp_path / "gone.csv")


def test_training_leaves_broken_photos_out_and_names_them(photos: Path, tiny_model: Model):
    data = InMemory(photos, tiny_model.card.class_folders)
    assert len(data) == 10
    assert {Path(each.name).name for each in data.unread} == set(BROKEN)


def rows_of(photos: Path, column: str, folders: tuple[str, ...]) -> Path:
    """The photos as a parquet file."""
    found = labelled_photos(folders, photos)
    table = {
        "name": [each.name for each in found],
        "wnid": [folders[each.target] for each in found],
        column: [each.photo.read_bytes() for each in found],
        "box": [[0, 0, 9, 9] for _ in found],
    }
    path = photos.parent / "train.parquet"
    pq.write_table(pa.table(table), path)
    return path


def test_broken_rows_of_a_parquet_file_are_left_out_and_named(photos: Path, tiny_model: Model):
    folders = tiny_model.card.class_folders
    path = rows_of(photos, "png", folders)
    data = Stacked([path], folders)
    assert len(data) == 10
    assert {Path(each.name).name for each in data.unread} == set(BROKEN)
    measured = measure_model(tiny_model, path, path, None, None)
    assert measured.metrics["boxed"]["photos"] == 10
    assert len(measured.unread) == len(BROKEN)


def test_a_class_without_a_readable_photo_cannot_be_trained(photos: Path, tiny_model: Model):
    folders = tiny_model.card.class_folders
    for path in (photos / folders[1]).iterdir():
        path.write_bytes(b"")
    with pytest.raises(BadRecipe, match=folders[1]):
        InMemory(photos, folders)
    with pytest.raises(BadRecipe, match=folders[1]):
        Stacked([rows_of(photos, "png", folders)], folders)


def test_training_reads_photos_upright(tmp_path: Path, make_photo: Callable[..., Image.Image]):
    (tmp_path / "a").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    make_photo(0, 60, 40).save(buffer, "JPEG", exif=exif)
    (tmp_path / "a" / "x.jpg").write_bytes(buffer.getvalue())
    assert InMemory(tmp_path, ["a"]).photos[0].shape == (3, 60, 40)
