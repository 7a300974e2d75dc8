"""Detectors' training: photos with boxes, kept features, a head that learns."""

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from detecting import LABELS, OPTIONS, squares, tiny_classifier
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

import cbam
from app.cli.main import app
from cbam.cards.detector import frozen_network
from cbam.data.boxed import Boxed, boxed_photos
from cbam.detector import open_detector
from cbam.errors import BadData, BadRecipe, MissingFile
from cbam.evaluate.detection import measure_detector
from cbam.images.frame import Frame
from cbam.training.detection import last_stages, train_detector, write_detector
from cbam.training.detector_recipe import DetectorRecipe, read_detector_recipe
from cbam.training.features import Features, keep_features, view_of

RECIPES = Path(__file__).parent.parent / "recipes"


def recipe(**changes: object) -> DetectorRecipe:
    values = {
        "family": "things",
        "title": "Things",
        "detector": "fcos",
        "detector_options": OPTIONS,
        "classifiers": {"cbam": "tiny-cbam"},
        "labels": list(LABELS),
        "partly": ["blue"],
        "data": "none",
        "licence": "MIT",
        "size_px": 96,
        "views": 2,
        "epochs": 3,
        "batch_size": 8,
        "ema_decay": 0.5,
    }
    return DetectorRecipe.model_validate({**values, **changes})


def test_a_parquet_file_gives_photos_with_their_objects(tmp_path: Path):
    path = squares(tmp_path / "train.parquet", 2, complete=[True, False])
    first, second = boxed_photos(path, ["red"], partly=["red"])
    assert first.labels == (0,)
    assert first.regions[0][2] - first.regions[0][0] == pytest.approx(24 / 96)
    assert first.marked == (True,)
    assert second.labels == ()  # a blue thing, which nobody asked for
    assert second.marked == (False,)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("0.png,red,0.5,0,0.4,1\n", "lies not in"),
        ("0.png,red,0.5,0,x,1\n", "no column or number"),
    ],
)
def test_boxes_that_cannot_be_are_refused(tmp_path: Path, rows: str, says: str):
    path = squares(tmp_path / "train.parquet", 1)
    path.with_name("boxes.csv").write_text("name,class,x0,y0,x1,y1\n" + rows)
    with pytest.raises(BadData, match=says):
        boxed_photos(path, LABELS)


def test_a_missing_file_of_boxes_is_named(tmp_path: Path):
    path = squares(tmp_path / "train.parquet", 1)
    path.with_name("boxes.csv").unlink()
    with pytest.raises(MissingFile, match="boxes.csv"):
        boxed_photos(path, LABELS)


def boxed(tmp_path: Path, count: int = 12) -> list[Boxed]:
    return boxed_photos(squares(tmp_path / "train.parquet", count), LABELS)


def test_boxes_travel_with_the_views(tmp_path: Path):
    """In every view of every photo, the box's middle has the square's colour."""
    for number, each in enumerate(boxed(tmp_path)):
        for view in range(4):
            photo, boxes, labels = view_of(each, view, seed=100 * number + view)
            assert isinstance(photo, Image.Image)
            for box, label in zip(boxes.tolist(), labels.tolist(), strict=True):
                middle = int((box[0] + box[2]) / 2), int((box[1] + box[3]) / 2)
                red, _, blue = photo.getpixel(middle)  # type: ignore[misc]
                assert (red > blue) == (LABELS[label] == "red")


def test_a_view_depends_on_its_seed_alone(tmp_path: Path):
    (each,) = boxed(tmp_path, 1)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, other = (view_of(each, 1, seed=3) for _ in range(2))
    assert one[0].tobytes() == other[0].tobytes()
    assert torch.equal(before, torch.random.get_rng_state())


def test_features_are_kept_once_and_more_views_can_be_added(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("cbam.training.features.PHOTOS_A_FILE", 5)
    photos, frame, passed = boxed(tmp_path), Frame(96), []

    def stages(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        passed.append(len(images))
        return images[:, :, ::16, ::16], images[:, :1, ::32, ::32]

    keep_features(photos, frame, 1, 0, stages, tmp_path / "kept")
    assert sum(passed) == 12
    passed.clear()
    keep_features(photos, frame, 2, 0, stages, tmp_path / "kept")
    assert sum(passed) == 12  # the second views alone
    features = Features(tmp_path / "kept", 12, 2)
    example = features.example(11, 0)
    expected = frame(Image.open(io.BytesIO(photos[11].photo)))[None, :, ::16, ::16]
    torch.testing.assert_close(example.stages[0], expected.half().float())
    assert example.labels.tolist() == [1]
    order = [*features.order(4, epoch=0, seed=0)]
    assert sorted(number for batch in order for number, _ in batch) == [*range(12)]
    assert {view for batch in order for _, view in batch} == {0, 1}
    assert order == [*features.order(4, epoch=0, seed=0)]
    assert order != [*features.order(4, epoch=1, seed=0)]


def lines(tmp_path: Path, photos: Sequence[Boxed], run: str, **changes: object) -> list[str]:
    said: list[str] = []
    train_detector(
        recipe(**changes), "cbam", [*photos], tmp_path / "models", tmp_path / run, say=said.append
    )
    return said


def test_a_training_that_stopped_goes_on_where_it_was(tmp_path: Path):
    tiny_classifier(tmp_path / "models")
    photos = boxed(tmp_path)
    lines(tmp_path, photos, "whole")
    # Stopped after two epochs: the schedule is that of three, as the recipe says.
    stop = RuntimeError("power cut")

    def cut_off(line: str) -> None:
        if " 3/3" in line:
            raise stop

    run = tmp_path / "parts"
    with pytest.raises(RuntimeError, match="power cut"):
        train_detector(recipe(), "cbam", photos, tmp_path / "models", run, say=cut_off)
    assert torch.load(run / "checkpoint.pt", weights_only=True)["epoch"] == 2
    again = lines(tmp_path, photos, "parts")
    assert len([line for line in again if "classification" in line]) == 1
    whole, parts = (load_file(tmp_path / run / "weights.safetensors") for run in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert not [name for name in whole if name.startswith("backbone.body")]
    for name, value in whole.items():
        torch.testing.assert_close(value, parts[name])


@pytest.mark.parametrize(("precision", "error"), [("no", 1e-3), ("bf16", 0.05)])
def test_the_features_have_the_recipes_precision(tmp_path: Path, precision: str, error: float):
    card = tiny_classifier(tmp_path / "models")
    photos = boxed(tmp_path, 4)
    lines(tmp_path, photos, "run", precision=precision, epochs=1, views=1)
    kept = Features(tmp_path / "run" / "features", 4, 1).example(0, 0).stages
    image = Frame(96, card.preprocess.mean, card.preprocess.std)(
        Image.open(io.BytesIO(photos[0].photo))  # type: ignore[arg-type]
    )
    exact = last_stages(frozen_network(card, {}), 96)(image[None])
    for mine, its in zip(kept, exact, strict=True):
        off = float((mine - its).norm() / its.norm())
        assert off < error
        assert (off > 1e-3) == (precision == "bf16")


def test_the_command_trains_a_detector_that_finds_and_measures_it(tmp_path: Path):
    """Red and blue squares: enough to learn in seconds what is where."""
    models, runs = tmp_path / "models", tmp_path / "runs"
    tiny_classifier(models)
    data = squares(tmp_path / "data" / "train.parquet", 40)
    text = RECIPES.joinpath("animals.toml").read_text(encoding="utf-8")
    assert 'detector = "fcos"' in text
    path = tmp_path / "things.toml"
    path.write_text(
        'family = "things"\ntitle = "Things"\ndetector = "fcos"\ndata = "squares"\n'
        'licence = "MIT"\nlabels = ["red", "blue"]\nsize_px = 96\nviews = 1\nepochs = 25\n'
        "batch_size = 8\nlearning_rate = 0.003\nema_decay = 0.8\n"
        "detector_options = { channels = 32, convs = 1 }\n"
        '[classifiers]\ncbam = "tiny-cbam"\n'
    )
    given = ["train", str(path), "--data", str(data), "--runs", str(runs), "--models", str(models)]
    done = CliRunner().invoke(app, given, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    model = cbam.load(models / "resnet18-cbam-things")
    photos = boxed_photos(data, LABELS)
    hits = 0
    for each in photos:
        found = model.detect(each.photo, score=0.1, maps=0).detections
        hits += bool(found) and found[0].index == each.labels[0]
    assert hits > 30
    measured = CliRunner().invoke(
        app,
        ["evaluate", str(model.card.folder), "--boxed", str(data), "--write"],
        catch_exceptions=False,
    )
    assert measured.exit_code == 0, measured.output
    card = cbam.load(models / "resnet18-cbam-things").card
    assert card.metrics["boxes"]["map50"] > 0.5
    assert card.metrics["boxes"]["photos"] == 40
    assert card.metrics["heat_maps"]["boxes"] > 20


def test_a_broken_photo_does_not_end_training_or_measuring(tmp_path: Path):
    tiny_classifier(tmp_path / "models")
    photos = boxed(tmp_path)
    photos[3] = replace(photos[3], photo=b"no photo")
    given = recipe(epochs=1)
    trained = train_detector(given, "cbam", photos, tmp_path / "models", tmp_path / "run")
    assert trained.unread == ("3.png",)
    card = write_detector(given, "cbam", trained.weights, tmp_path / "models", "test")
    measured = measure_detector(open_detector(card), photos)
    assert [each.name for each in measured.unread] == ["3.png"]
    assert measured.metrics["boxes"]["photos"] == 11
    with pytest.raises(BadData, match="can be read"):
        measure_detector(open_detector(card), photos[3:4])
    with pytest.raises(BadData, match="can be read"):
        train_detector(given, "cbam", photos[3:4], tmp_path / "models", tmp_path / "none")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ('detector = "fcos"', "no detector 'fcas'"),
        ('partly = ["person"]', "`partly` names cow2"),
    ],
)
def test_a_recipe_that_names_nothing_known_is_refused(tmp_path: Path, change: str, says: str):
    text = (RECIPES / "animals.toml").read_text(encoding="utf-8")
    wrong = {'detector = "fcos"': 'detector = "fcas"', 'partly = ["person"]': 'partly = ["cow2"]'}
    path = tmp_path / "recipe.toml"
    path.write_text(text.replace(change, wrong[change]))
    with pytest.raises(BadRecipe, match=says):
        read_detector_recipe(path)


def test_a_member_stands_on_a_classifier_with_its_own_attention(tmp_path: Path):
    tiny_classifier(tmp_path / "models", "se")
    wrong = recipe(classifiers={"cbam": "tiny-se"})
    with pytest.raises(BadRecipe, match="has the attention 'se'"):
        train_detector(wrong, "cbam", [], tmp_path / "models", tmp_path / "run")
    with pytest.raises(BadRecipe, match="no member 'none'"):
        train_detector(recipe(), "none", [], tmp_path / "models", tmp_path / "run")


def test_coco_and_voc_give_the_same_objects(tmp_path: Path):
    """A thing at the pixels 10 to 29 across and 20 to 59 down, in a photo of 100 x 80."""
    thing = {"image_id": 7, "category_id": 3, "bbox": [10, 20, 20, 40], "iscrowd": 0}
    crowd = {**thing, "iscrowd": 1}
    other = {**thing, "category_id": 4}
    photo = {"id": 7, "file_name": "a.jpg", "width": 100, "height": 80}
    categories = [{"id": 3, "name": "blue"}, {"id": 4, "name": "green"}]
    instances = tmp_path / "coco" / "annotations" / "instances_val.json"
    instances.parent.mkdir(parents=True)
    whole = {"images": [photo], "annotations": [thing, crowd, other], "categories": categories}
    instances.write_text(json.dumps(whole))
    (coco,) = boxed_photos(instances, LABELS)
    assert coco.photo == tmp_path / "coco" / "val" / "a.jpg"

    voc = tmp_path / "voc"
    for folder in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (voc / folder).mkdir(parents=True)
    (voc / "ImageSets/Main/val.txt").write_text("a  1\n\n")
    box = "<bndbox><xmin>11</xmin><ymin>21</ymin><xmax>30</xmax><ymax>60</ymax></bndbox>"
    (voc / "Annotations/a.xml").write_text(
        "<annotation><size><width>100</width><height>80</height></size>"
        f"<object><name>blue</name>{box}</object><object><name>cup</name>{box}</object>"
        "</annotation>"
    )
    (pascal,) = boxed_photos(voc / "ImageSets/Main/val.txt", LABELS)
    assert pascal.photo == voc / "JPEGImages/a.jpg"
    assert coco.regions == pascal.regions == ((0.1, 0.25, 0.3, 0.75),)
    assert coco.labels == pascal.labels == (1,)
    assert coco.marked == pascal.marked == (True, True)


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("annotations/instances_x.json", "[]", BadData),
        ("annotations/instances_x.json", "{", BadData),
        ("ImageSets/Main/x.txt", "a\n", MissingFile),
        ("ImageSets/Main/x.txt", "", MissingFile),
        ("x.csv", "", BadData),
    ],
)
def test_data_of_no_known_kind_is_refused(tmp_path: Path, name: str, text: str, error: type):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    with pytest.raises(error):
        boxed_photos(path, LABELS)
