"""Measures by hand: accuracy, calibration, and whether a map points into a box."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from app.cli import models
from app.cli.main import app
from cbam.cards.card import Card, read_card
from cbam.data.labelled import labelled_photos
from cbam.errors import BadCard, BadData, BadOption, MissingFile, OptionClash, UnknownName
from cbam.evaluate.accuracy import accuracy
from cbam.evaluate.card_metrics import against, beside, measure_model
from cbam.evaluate.localisation import GRID, hot_box, in_box, localise, measure, on_grid
from cbam.evaluate.pairs import paired_difference
from cbam.images.preprocess import Box
from cbam.model import Model


def test_top_1_and_top_5_count_the_right_places() -> None:
    scores = torch.tensor([[3.0, 2.0, 1.0, 0.0, -1.0, -2.0]] * 3)
    measured = accuracy(scores, torch.tensor([0, 4, 5]))  # first, fifth and sixth place
    assert measured.photos == 3
    assert measured.top1 == pytest.approx(1 / 3)
    assert measured.top5 == pytest.approx(2 / 3)


def test_calibration_is_the_gap_between_being_sure_and_being_right() -> None:
    # Two photos, each answered with 0.9 for class 0; one of them is right: |0.5 - 0.9| = 0.4.
    scores = torch.log(torch.tensor([[0.9, 0.1], [0.9, 0.1]]))
    assert accuracy(scores, torch.tensor([0, 1])).calibration_error == pytest.approx(0.4, abs=1e-6)
    # Always sure and always right: no gap.
    sure = torch.tensor([[100.0, 0.0], [0.0, 100.0]])
    assert accuracy(sure, torch.tensor([0, 1])).calibration_error == pytest.approx(0, abs=1e-6)


def test_a_box_is_drawn_on_the_part_of_the_photo_that_the_model_saw() -> None:
    # Photo 200 x 100, the view is its middle square: the photo's left half is the view's left half.
    mask = on_grid((0.0, 0.0, 0.5, 1.0), Box(50, 0, 150, 100), 200, 100)
    assert mask[:, : GRID // 2].all()
    assert not mask[:, GRID // 2 :].any()


def corner(side: int = GRID // 4) -> np.ndarray:
    """A map that is hot in its top left corner alone."""
    heat = np.zeros((GRID, GRID), dtype=np.float32)
    heat[:side, :side] = 2.0
    return heat


def test_a_map_in_the_box_hits_and_one_outside_misses() -> None:
    inside = corner() > 0
    assert measure(corner(), [inside]) == (1.0,) * 6
    assert measure(corner(), [~inside])[:2] == (0.0, 0.0)


def test_half_of_the_energy_in_the_box_is_half() -> None:
    left = np.zeros((GRID, GRID), dtype=bool)
    left[:, : GRID // 8] = True  # half of the corner's width
    hit, energy, iou, *_ = measure(corner(), [left])
    assert (hit, energy) == (1.0, pytest.approx(0.5))
    # Corner: 1/4 x 1/4 = 1/16 of the grid. Box: 1/8. Both: 1/32. Union: 1/16 + 1/8 - 1/32 = 5/32.
    assert iou == pytest.approx(1 / 5)


def test_any_of_several_boxes_counts() -> None:
    far = np.zeros((GRID, GRID), dtype=bool)
    far[-10:, -10:] = True
    assert measure(corner(), [far, corner() > 0]) == (1.0,) * 6


def test_a_map_without_evidence_is_a_miss() -> None:
    everywhere = np.ones((GRID, GRID), dtype=bool)
    assert measure(np.zeros((GRID, GRID), dtype=np.float32), [everywhere]) == (0.0,) * 6


def test_the_box_is_around_the_largest_region_above_the_threshold() -> None:
    heat = corner(20)
    heat[100:105, 100:105] = 3.0  # hotter, but smaller
    heat[30:80, 30:80] = 0.1  # larger, but below 15 % of the maximum
    rows, columns = np.nonzero(hot_box(heat))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (0, 19, 0, 19)


def test_a_higher_threshold_leaves_a_smaller_box() -> None:
    heat = corner(100) / 2  # 1.0, and in one quarter of it 0.4 times as much again
    heat[:50, :50] = 2.5
    whole = corner(100) > 0
    ious = measure(heat, [whole])[2:]  # above 15, 30, 50 and 70 % of 2.5
    assert ious == (1.0, 1.0, pytest.approx(0.25), pytest.approx(0.25))


def test_a_box_of_the_reader_is_judged_beside_a_map_that_is_the_same_everywhere() -> None:
    heat = np.array([[3.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    # The photo is 200 x 100 and the model sees its middle: the box holds the view's left half.
    found = in_box(heat, (0.0, 0.0, 0.5, 1.0), Box(50, 0, 150, 100), 200, 100)
    assert found.hit
    assert not found.centre_hit
    assert found.energy == pytest.approx(0.6875, abs=0.01)  # bilinear: 0.75 before, 2 cells mix
    assert (found.uniform_energy, found.uniform_iou) == (0.5, 0.5)
    assert set(found.ious) == {0.15, 0.3, 0.5, 0.7}


@pytest.mark.parametrize("region", [(0.5, 0, 0.5, 1), (-0.1, 0, 1, 1), (0, 0, float("nan"), 1)])
def test_what_is_no_box_is_refused(region: tuple[float, float, float, float]) -> None:
    with pytest.raises(BadOption, match="x0 < x1"):
        in_box(corner(), region, Box(0, 0, 10, 10), 10, 10)


def test_a_box_that_the_model_cannot_see_is_refused() -> None:
    with pytest.raises(OptionClash, match="x from 50 to 150"):
        in_box(corner(), (0.0, 0.0, 0.2, 1.0), Box(50, 0, 150, 100), 200, 100)


@pytest.fixture
def photos(tmp_path: Path, tiny_model: Model) -> Path:
    """Two photos a class in <class folder>/<photo>, and boxes.csv with the whole frame for each."""
    rows = ["file,x0,y0,x1,y1"]
    for label in tiny_model.card.labels[:2]:
        for index in range(2):
            path = tmp_path / "boxed" / label / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(index).integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(noise).save(path)
            rows.append(f"boxed/{label}/{index}.png,0,0,1,1")
    (tmp_path / "boxes.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return tmp_path


def test_whole_frame_boxes_are_hit_by_every_map_and_by_the_centre(
    photos: Path, tiny_model: Model
) -> None:
    labelled = labelled_photos(
        tiny_model.card.class_folders, photos / "boxed", photos / "boxes.csv"
    )
    mine, base, per_photo = localise(tiny_model, labelled)
    assert (mine.photos, base.photos) == (4, 4)
    assert base.pointing_game == base.energy_in_box == base.box_iou == 1.0
    assert mine.pointing_game == pytest.approx(1 - mine.no_evidence / 4)
    assert per_photo.pointing_game.shape == (4,)
    assert per_photo.pointing_game.mean() == pytest.approx(mine.pointing_game)
    assert per_photo.target_probability is not None
    assert mine.target_probability == pytest.approx(per_photo.target_probability.mean())
    # Against a baseline that is always right the difference is what is missed.
    metrics = measure_model(tiny_model, None, photos / "boxed", photos / "boxes.csv", None).metrics
    change, low, high = metrics["boxed_against_baseline"]["pointing_game"]
    assert change == pytest.approx(mine.pointing_game - 1, abs=1e-4)
    assert low <= change <= high <= 0
    assert metrics["boxed"]["target_probability"] == pytest.approx(
        mine.target_probability, abs=1e-4
    )
    assert "target_probability" not in metrics["boxed_baseline"]


def test_a_photo_without_a_box_is_named(photos: Path, tiny_model: Model) -> None:
    with pytest.raises(BadData, match=r"no box for boxed/.*\.png"):
        localise(tiny_model, labelled_photos(tiny_model.card.class_folders, photos / "boxed"))


def test_only_what_is_given_is_measured(photos: Path, tiny_model: Model) -> None:
    assert measure_model(tiny_model, None, None, None, None).metrics == {}
    metrics = measure_model(tiny_model, photos / "boxed", None, None, None).metrics
    assert list(metrics) == ["val"]
    assert metrics["val"]["photos"] == 4
    assert metrics["val"]["command"]


def test_missing_float32_weights_are_named(photos: Path, tiny_model: Model) -> None:
    with pytest.raises(BadCard, match=r"float32 weights.*weights\.safetensors is missing"):
        measure_model(tiny_model, photos / "boxed", None, None, photos / "runs")


def test_a_folder_of_another_class_is_refused(photos: Path, tiny_model: Model) -> None:
    (photos / "boxed" / "zebra").mkdir()
    with pytest.raises(UnknownName, match="zebra"):
        labelled_photos(tiny_model.card.class_folders, photos / "boxed")


def test_an_empty_folder_is_refused(tmp_path: Path, tiny_model: Model) -> None:
    with pytest.raises(MissingFile, match="No photos"):
        labelled_photos(tiny_model.card.class_folders, tmp_path)


@pytest.fixture
def parquet(tmp_path: Path, tiny_model: Model) -> Path:
    """Four photos of 40 x 20 in a parquet file; the box is the left half, last pixels included."""
    rows: dict[str, list[object]] = {"name": [], "wnid": [], "webp": [], "box": []}
    for index in range(4):
        label = tiny_model.card.labels[index % 2]
        noise = np.random.default_rng(index).integers(0, 256, (20, 40, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, "WEBP", lossless=True)
        rows["name"].append(f"val/{label}/{index}")
        rows["wnid"].append(label)
        rows["webp"].append(buffer.getvalue())
        rows["box"].append([0, 0, 19, 19])
    pq.write_table(pa.table(rows), tmp_path / "val.parquet")
    return tmp_path / "val.parquet"


def test_a_parquet_file_brings_photos_classes_and_boxes(parquet: Path, tiny_model: Model) -> None:
    found = labelled_photos(tiny_model.card.class_folders, parquet)
    assert [labelled.target for labelled in found] == [0, 1, 0, 1]
    assert {labelled.regions for labelled in found} == {((0.0, 0.0, 0.5, 1.0),)}
    measured = measure_model(tiny_model, parquet, parquet, None, None)
    assert measured.metrics["val"]["photos"] == measured.metrics["boxed"]["photos"] == 4
    # A uniform map on a box that is half of the photo.
    assert measured.metrics["boxed_baseline"]["energy_in_box"] == pytest.approx(0.5)


def test_boxes_of_everyday_words_measure_a_classifier_too(
    tmp_path: Path, make_model: Callable[..., Model], make_photo: Callable[..., Image.Image]
) -> None:
    """A data set of detectors: it says "cat", and the model knows two kinds of cats."""
    model = make_model(labels=("tabby", "tiger cat", "sorrel", "toaster"))
    cats_and_horse = ("n02123045", "n02123159", "n02389026", "n04442312")
    model = Model(replace(model.card, folders=cats_and_horse), model.network)
    buffer = io.BytesIO()
    make_photo().save(buffer, "PNG")
    rows = [{"name": name, "image": buffer.getvalue()} for name in ("both", "cat", "person")]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test.parquet")
    boxes = [
        "name,class,x0,y0,x1,y1",
        "both,cat,0,0,0.5,1",
        "both,cat,0.5,0,1,0.5",
        "both,horse,0,0,1,1",
        "cat,cat,0,0,0.5,1",
        "person,person,0,0,1,1",  # nothing that the model knows: left out
    ]
    (tmp_path / "boxes.csv").write_text("\n".join(boxes), encoding="utf-8")
    measured = measure_model(model, None, tmp_path / "test.parquet", None, None)
    found = measured.metrics["boxed"]
    assert found["photos"] == 3  # "both" once as a cat and once as a horse
    # Each is explained for its word, and is right if any class of the word comes first.
    explain = model.explain(make_photo(), target="cat")
    horse = model.explain(make_photo(), target="sorrel")
    probabilities = [explain.target.probability, horse.target.probability]
    assert found["target_probability"] == pytest.approx(
        (2 * probabilities[0] + probabilities[1]) / 3, abs=1e-3
    )
    top = model.explain(make_photo(), top_k=1).predictions[0].label
    right = {"tabby": 2 / 3, "tiger cat": 2 / 3, "sorrel": 1 / 3}.get(top, 0)
    assert found["top1"] == pytest.approx(right, abs=1e-3)
    (tmp_path / "boxes.csv").write_text("\n".join(boxes[:1] + boxes[-1:]), encoding="utf-8")
    with pytest.raises(MissingFile, match="everyday words"):
        measure_model(model, None, tmp_path / "test.parquet", None, None)


def test_differences_that_were_not_measured_again_stay_on_the_card() -> None:
    known = {"val": {"top1": 0.4, "top5": 0.8}, "against_se": {"top1": 0.1, "box_iou": 0.2}}
    found = {"val": {"top1": 0.5}, "against_se": {"top1": 0.3}, "against_none": {"top1": 0.0}}
    assert beside(known, found) == {
        "val": {"top1": 0.5},
        "against_se": {"top1": 0.3, "box_iou": 0.2},
        "against_none": {"top1": 0.0},
    }


def test_a_parquet_file_of_another_shape_is_refused(tmp_path: Path, tiny_model: Model) -> None:
    pq.write_table(pa.table({"picture": [b""]}), tmp_path / "other.parquet")
    with pytest.raises(BadData, match="picture.*Expected: name, wnid"):
        labelled_photos(tiny_model.card.class_folders, tmp_path / "other.parquet")
    with pytest.raises(MissingFile, match="no file"):
        labelled_photos(tiny_model.card.class_folders, tmp_path / "gone.parquet")
    with pytest.raises(BadData, match="picture.*Expected: name, wnid"):  # no list of boxes either
        measure_model(tiny_model, None, tmp_path / "other.parquet", None, None)


def test_a_paired_difference_keeps_the_pairs_together() -> None:
    hard = np.random.default_rng(0).random(200).astype(np.float32)  # differs by photo, a lot
    mean, low, high = paired_difference(hard + np.float32(0.1), hard)
    assert mean == pytest.approx(0.1, abs=1e-6)
    assert high - low < 1e-6  # always 0.1 better: the photos' own spread is no matter


def test_a_difference_of_chance_has_zero_in_its_interval() -> None:
    rng = np.random.default_rng(1)
    mine, other = (rng.random((2, 400)) < 0.5).astype(np.float32)
    mean, low, high = paired_difference(mine, other)
    assert low < mean < high
    assert low < 0 < high
    # The normal approximation: 1.96 standard errors to either side.
    error = 1.96 * float(np.std(mine - other)) / 20
    assert (high - low) / 2 == pytest.approx(error, rel=0.1)
    assert paired_difference(mine, other) == (mean, low, high)  # seeded


def test_models_are_compared_on_the_same_photos(photos: Path, tiny_model: Model) -> None:
    measured = measure_model(
        tiny_model, photos / "boxed", photos / "boxed", photos / "boxes.csv", None
    )
    found = against(measured, {"none": measured})
    assert list(found) == ["against_none"]
    for name in ("top1", "pointing_game", "energy_in_box", "box_iou"):
        assert found["against_none"][name] == [0, 0, 0]
    assert against(measured, {}) == {}


def test_several_sets_of_boxed_photos_stand_on_one_card(
    photos: Path, tiny_card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["evaluate", str(tiny_card.folder), "--write", "--boxed", str(photos / "boxed")]
    command += ["--boxes", str(photos / "boxes.csv")]
    for more in ([], ["--data", "zoo"]):
        result = CliRunner().invoke(app, [*command, *more])
        assert result.exit_code == 0, result.output
    metrics = read_card(tiny_card.folder).metrics
    assert metrics["boxed"] == metrics["boxed_zoo"]
    assert metrics["boxed_against_baseline"] == metrics["boxed_against_baseline_zoo"]
    monkeypatch.setattr(models, "available", lambda: {"tiny": read_card(tiny_card.folder)})
    shown = CliRunner().invoke(app, ["models", "boxes", "--markdown"]).stdout.splitlines()
    assert [line.split(" | ")[1] for line in shown[2:]] == ["validation", "zoo"]
    assert f"{metrics['boxed']['box_iou']:.1%}" in shown[2]


def test_the_analysis_of_a_family_stands_on_its_cards_and_is_printed(
    photos: Path, tiny_card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["evaluate", str(tiny_card.folder), "--data", "pets", "--write"]
    words += ["--boxed", str(photos / "boxed"), "--boxes", str(photos / "boxes.csv")]
    words += ["--faithfulness", str(photos / "boxed"), "--photos", "2"]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 0, found.output
    card = read_card(tiny_card.folder)
    boxed, tried = card.metrics["boxed_pets"], card.metrics["faithfulness_pets"]
    assert (boxed["photos"], tried["photos"]) == (4, 2)
    assert boxed["box_iou_30"] >= boxed["box_iou_70"]  # every box is the whole photo
    monkeypatch.setattr(models, "available", lambda: {card.name: card})
    printed = CliRunner().invoke(app, ["models", "analysis", "--markdown"]).output
    assert f"| {card.name} | pets | 4 | {boxed['target_probability']:.1%} |" in printed
    printed = CliRunner().invoke(app, ["models", "faithfulness", "--markdown"]).output
    assert f"| {card.name} | pets | 2 | {tried['deletion']:.3f} |" in printed
    assert f"| {tried['road']:+.3f} |" in printed
