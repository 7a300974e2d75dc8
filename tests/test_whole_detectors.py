"""Detectors that are trained as a whole: recipes, resuming, cards, the command from end to end."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from detecting import LABELS, squares, tiny_classifier
from safetensors.torch import load_file
from typer.testing import CliRunner

import cbam
from app.cli.main import app
from app.routes.answers import detector_info
from cbam.cards.card import load_network
from cbam.cards.detector import read_detector_card, write_detector_card
from cbam.data.boxed import Boxed, boxed_photos
from cbam.detector import open_detector
from cbam.detectors import DETECTORS
from cbam.errors import BadCard, BadData, BadRecipe
from cbam.images.frame import Frame
from cbam.training.detector_recipe import WholeRecipe, is_whole_recipe, read_whole_recipe
from cbam.training.whole_detector import VIEWS, Views, begun, train_whole, write_whole

RECIPES = Path(__file__).parent.parent / "recipes"
WHOLE = sorted(
    path.name
    for path in RECIPES.glob("*.toml")
    if "\ndetector = " in path.read_text("utf-8") and "\nbackbone = " in path.read_text("utf-8")
)
SMALL = {"extras": [[8, 16]], "boxes": [6, 6, 4], "scales": [0.2, 0.4, 0.6, 0.9]}
PYRAMID = {"channels": 16, "rpn_post_nms_top_n_train": 50, "rpn_post_nms_top_n_test": 30}
OPTIONS = {
    "ssd": SMALL,
    "stairnet": {**SMALL, "stairs": 16},
    "faster_rcnn": PYRAMID,
    "fcos": {"channels": 32, "convs": 1},
}


def recipe(detector: str = "ssd", **changes: object) -> WholeRecipe:
    values = {
        "family": "things",
        "title": "Things",
        "detector": detector,
        "detector_options": OPTIONS[detector],
        "backbone": "resnet18",
        "backbone_options": {"width": 8},
        "attention": ["none", "cbam"],
        "labels": list(LABELS),
        "data": "none",
        "licence": "MIT",
        "size_px": 96,
        "epochs": 2,
        "batch_size": 4,
        "learning_rate": 0.01,
        "warmup_steps": 2,
        "precision": "float32",
    }
    return WholeRecipe.model_validate({**values, **changes})


def boxed(tmp_path: Path, count: int = 8) -> list[Boxed]:
    return boxed_photos(squares(tmp_path / "train.parquet", count), LABELS)


@pytest.mark.parametrize("detector", DETECTORS)
def test_every_kind_is_trained_written_loaded_and_asked(tmp_path: Path, detector: str):
    given = recipe(detector, ema_decay=0.5)
    trained = train_whole(given, "cbam", boxed(tmp_path), tmp_path, tmp_path / "run")
    assert trained.loss > 0
    card = write_whole(given, "cbam", trained.weights, tmp_path / "models", "test")
    assert card == read_detector_card(card.folder)
    assert card.attention == "cbam"
    expected = {
        "ssd": "SSD on CBAM-ResNet-18",
        "stairnet": "CBAM-StairNet on ResNet-18",
        "faster_rcnn": "Faster R-CNN on CBAM-ResNet-18",
        "fcos": "FCOS on CBAM-ResNet-18",
    }
    assert card.title == expected[detector]
    shown = detector_info(card)
    assert shown.network in shown.title
    assert shown.classifier == ""
    model = cbam.load(card.folder)
    photo = boxed(tmp_path)[0].photo
    for of in ("score", "left"):
        found = model.detect(photo, score=0.02, maps=2, of=of)
        for each in found.heatmaps:
            assert each.map.ndim == 2
            assert 0 < each.energy_uniform <= 1
    gates = {"stairs.0", "stairs.2"} if detector == "stairnet" else {"layer1.0", "layer3.1"}
    assert {each.block for each in found.attention} >= gates


def lines(photos: Sequence[Boxed], run: Path, stop: str = "") -> list[str]:
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if stop and stop in line:
            raise RuntimeError("power cut")

    train_whole(recipe(epochs=3, ema_decay=0.5), "cbam", photos, run.parent, run, say=say)
    return said


def test_a_training_that_stopped_goes_on_where_it_was(tmp_path: Path):
    photos = boxed(tmp_path)
    lines(photos, tmp_path / "whole")
    # The line is said before the checkpoint is written: two epochs are kept.
    with pytest.raises(RuntimeError, match="power cut"):
        lines(photos, tmp_path / "parts", stop=" 3/3")
    assert torch.load(tmp_path / "parts/checkpoint.pt", weights_only=True)["epoch"] == 2
    assert len([line for line in lines(photos, tmp_path / "parts") if "loss" in line]) == 1
    whole, parts = (load_file(tmp_path / run / "weights.safetensors") for run in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        torch.testing.assert_close(value, parts[name])


def test_the_command_trains_an_ssd_that_finds_and_measures_it(tmp_path: Path):
    """Red and blue squares, from a recipe to average precision."""
    data = squares(tmp_path / "data" / "train.parquet", 24)
    path = tmp_path / "things.toml"
    path.write_text(
        'family = "things"\ntitle = "Things"\ndetector = "ssd"\ndata = "squares"\n'
        'licence = "MIT"\nlabels = ["red", "blue"]\nsize_px = 96\nviews = "none"\nepochs = 20\n'
        'batch_size = 8\nlearning_rate = 0.02\nwarmup_steps = 10\nprecision = "float32"\n'
        'backbone = "resnet18"\nbackbone_options = { width = 8 }\nattention = ["cbam"]\n'
        "[detector_options]\nextras = [[8, 16]]\nboxes = [6, 6, 4]\nscales = [0.2, 0.4, 0.6, 0.9]\n"
    )
    runs, models = tmp_path / "runs", tmp_path / "models"
    given = ["train", str(path), "--data", str(data), "--runs", str(runs), "--models", str(models)]
    done = CliRunner().invoke(app, [*given, "--workers", "0"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    folder = models / "resnet18-cbam-things"
    measured = CliRunner().invoke(
        app, ["evaluate", str(folder), "--boxed", str(data), "--write"], catch_exceptions=False
    )
    assert measured.exit_code == 0, measured.output
    assert cbam.load(folder).card.metrics["boxes"]["map50"] > 0.5


def test_the_backbone_begins_with_a_models_weights(tmp_path: Path):
    card = tiny_classifier(tmp_path, "cbam")
    given = recipe(backbone_options={"width": 16}, start={"cbam": "tiny-cbam"})
    body = begun(given, "cbam", tmp_path).backbone.body
    torch.testing.assert_close(body.conv1.weight, load_network(card).conv1.weight)
    tiny_classifier(tmp_path, "none")
    with pytest.raises(BadRecipe, match="lack"):  # the plain network has no gates
        begun(given.model_copy(update={"start": "tiny-none"}), "cbam", tmp_path)


@pytest.mark.parametrize("views", VIEWS)
def test_boxes_travel_with_the_views(tmp_path: Path, views: str):
    """In every view, the box's middle has the square's colour."""
    photos, frame = boxed(tmp_path), Frame(96, square=True)
    seen = 0
    for epoch in range(3):
        for image, target, _ in Views(photos, frame, VIEWS[views], 0, epoch):
            for box, label in zip(target["boxes"].tolist(), target["labels"].tolist(), strict=True):
                x, y = int((box[0] + box[2]) / 2), int((box[1] + box[3]) / 2)
                red, _, blue = image[:, min(y, 95), min(x, 95)].tolist()
                if views != "ssd":  # colours vary, and channels change places
                    assert (red > blue) == (LABELS[label] == "red")
                seen += 1
            assert image.shape == (3, 96, 96)
    assert seen >= 12


def test_a_broken_photo_is_left_out_and_named(tmp_path: Path):
    photos = boxed(tmp_path)
    photos[3] = replace(photos[3], photo=b"no photo")
    trained = train_whole(recipe(epochs=1), "none", photos, tmp_path, tmp_path / "run")
    assert trained.unread == ("3.png",)
    with pytest.raises(BadData, match="can be read"):
        train_whole(recipe(epochs=1), "none", photos[3:4], tmp_path, tmp_path / "none")


def test_a_loss_that_is_no_number_ends_the_training(tmp_path: Path):
    given = recipe(epochs=1, learning_rate=1e30, clip_norm=1e30)
    with pytest.raises(BadRecipe, match="learning_rate"):
        train_whole(given, "none", boxed(tmp_path), tmp_path, tmp_path / "run")


def test_the_rate_warms_up_and_falls_at_the_milestones():
    given = recipe(warmup_steps=4, milestones=[2, 3])
    rates = [given.rate(step, steps=10) for step in (0, 3, 19, 20, 29, 30)]
    assert rates == pytest.approx([0.25, 1, 1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize("name", WHOLE)
def test_the_recipes_train_a_small_network_of_their_kind(tmp_path: Path, name: str):
    """As they are but for the size: one epoch, on squares that stand for two of their classes."""
    path = RECIPES / name
    assert is_whole_recipe(path)
    plan = read_whole_recipe(path)
    labels = plan.labels[:2]
    photos = [replace(each, marked=(True,) * len(plan.labels)) for each in boxed(tmp_path, 4)]
    small = plan.model_copy(
        update={
            **{"start": "", "epochs": 1, "batch_size": 2, "size_px": 96, "warmup_steps": 2},
            **{"backbone": "resnet18", "backbone_options": {"width": 8}, "precision": "float32"},
            "detector_options": OPTIONS[plan.detector],
        }
    )
    member = plan.attention[-1]
    trained = train_whole(small, member, photos, tmp_path, tmp_path / "run")
    card = write_whole(small, member, trained.weights, tmp_path / "models", name)
    assert open_detector(card).card.labels[:2] == tuple(labels)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"detector": "sdd"}, "no detector 'sdd'"),
        ({"backbone": "resnet19"}, "no backbone 'resnet19'"),
        ({"attention": ["cbum"]}, "no attention 'cbum'"),
        ({"partly": ["cow"]}, "`partly` names cow"),
        ({"detector": "fcos", "size_px": 100}, "multiple of 32"),
    ],
)
def test_a_recipe_that_names_nothing_known_is_refused(change: dict[str, object], says: str):
    values = recipe().model_dump() | change
    with pytest.raises(ValueError, match=says):
        WholeRecipe.model_validate(values)


def test_options_that_do_not_fit_are_refused(tmp_path: Path):
    with pytest.raises(BadRecipe, match="do not fit"):
        begun(recipe(detector_options={"colour": 1}), "none", tmp_path)
    with pytest.raises(BadRecipe, match="no member 'se'"):
        begun(recipe(), "se", tmp_path)


def test_a_card_that_names_no_network_is_refused(tmp_path: Path):
    trained = train_whole(recipe(epochs=1), "none", boxed(tmp_path, 4), tmp_path, tmp_path / "run")
    card = write_whole(recipe(), "none", trained.weights, tmp_path, "test")
    with pytest.raises(BadCard, match="no network of its own"):
        write_detector_card(replace(card, whole=None))
    card = write_whole(recipe(), "none", trained.weights, tmp_path, "test")
    path = card.folder / "card.toml"
    path.write_text(path.read_text().replace('backbone = "resnet18"', 'backbone = "resnet81"'))
    with pytest.raises(BadCard, match="resnet81"):
        read_detector_card(card.folder)
