"""Average precision: COCO's rules, checked by hand and against a second implementation."""

import contextlib
import io
from xml.etree import ElementTree

import numpy as np
import pytest
from faster_coco_eval import COCO, COCOeval_faster
from PIL import Image

from cbam.data.boxed import Boxed
from cbam.evaluate.detection import (
    Said,
    _dataset,
    _results,
    average_precision,
    difference,
    map50,
    said_of,
    sizes,
)
from cbam.evaluate.recall_curves import curve_data, curve_picture
from cbam.explain.detection import Detected, Detection

LABELS = ("cat", "dog", "cow")
SIZE = (100, 100)
MARKED = (True, True, True)
HERE = (10.0, 10.0, 50.0, 50.0)
THERE = (60.0, 60.0, 90.0, 90.0)


def test_average_precision_by_hand():
    """Two cats. The surest box is wrong, the next is one of them, the other is never found."""
    said = [
        Said(SIZE, ((HERE, 0), (THERE, 0)), ((HERE, 0, 0.8), ((0, 60, 20, 90), 0, 0.9)), MARKED)
    ]
    found = average_precision(said, LABELS)
    # Precision 1/2 up to a recall of 1/2: at 51 of the 101 recalls.
    assert found.map50 == pytest.approx(0.5 * 51 / 101)
    assert found.of_class == {"cat": found.map50}  # no dog, no cow: no number


def crowd(seed: int, photos: int = 30) -> list[Said]:
    """Photos with objects, and boxes that are near them or anywhere."""
    draw = np.random.default_rng(seed)
    said = []
    for _ in range(photos):
        corners = draw.uniform(0, 50, (int(draw.integers(1, 4)), 2))
        sides = draw.uniform(8, 50, corners.shape)
        objects = [
            (tuple(map(float, (*a, *(a + b)))), int(draw.integers(2)))
            for a, b in zip(corners, sides, strict=True)
        ]
        boxes = [
            (tuple(map(float, np.asarray(box) + draw.normal(0, 3, 4))), label, float(draw.random()))
            for box, label in objects
            if draw.random() > 0.2
        ]
        boxes += [
            ((1.0, 2.0, 30.0, 40.0), int(draw.integers(2)), float(draw.random())) for _ in range(2)
        ]
        said.append(Said(SIZE, tuple(objects), tuple(boxes), MARKED))  # type: ignore[arg-type]
    return said


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_equals_faster_coco_eval(seed: int):
    said = crowd(seed)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(_dataset(said, LABELS))
        judge = COCOeval_faster(truth, _results(truth, said), "bbox", print_function=lambda _: None)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    found = average_precision(said, LABELS)
    assert 0.2 < found.map50 < 0.9
    mine = (found.map50_95, found.map50, found.map75)
    assert mine == pytest.approx(tuple(judge.stats[:3]), abs=1e-6)
    sizes = dict(zip(("small", "medium", "large"), judge.stats[3:6], strict=True))
    assert found.of_size == pytest.approx({k: v for k, v in sizes.items() if v >= 0}, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_precision_of_drawn_photos_is_that_of_a_set_with_these_photos(seed: int):
    said = crowd(seed)
    once = average_precision(said, LABELS)
    assert map50(once.matches, np.ones(30, np.int64)) == pytest.approx(once.map50, abs=1e-9)
    times = np.random.default_rng(seed).integers(0, 3, 30)
    again = [each for each, count in zip(said, times, strict=True) for _ in range(count)]
    expected = average_precision(again, LABELS).map50
    # Boxes of copies have equal scores, whose order is free.
    assert map50(once.matches, times) == pytest.approx(expected, abs=0.01)


def test_a_detector_does_not_differ_from_itself_and_a_better_one_does():
    said = crowd(0, photos=60)
    mine = average_precision(said, LABELS)
    assert difference(mine, mine) == (0, 0, 0)
    perfect = [
        Said(s.size, s.objects, tuple((box, label, 0.9) for box, label in s.objects), MARKED)
        for s in said
    ]
    more, low, high = difference(average_precision(perfect, LABELS), mine)
    assert 0 < low < more < high


def test_without_a_box_nothing_is_precise():
    found = average_precision([Said(SIZE, ((HERE, 0),), (), MARKED)], LABELS)
    assert found.map50 == 0


def test_what_is_said_of_a_class_that_is_not_marked_does_not_count():
    photo = Image.new("RGB", SIZE)
    truth = Boxed("a", b"", ((0.1, 0.1, 0.5, 0.5),), (0,), (True, False, True))
    boxes = (Detection(HERE, 0, "cat", 0.9), Detection(THERE, 1, "dog", 0.8))
    found = Detected("m", photo, boxes, (), "score", "hirescam", "l", (), {})
    said = said_of(found, truth)
    assert said.objects == (((10, 10, 50, 50), 0),)
    assert said.boxes == ((HERE, 0, 0.9),)
    assert average_precision([said], LABELS).map50 == pytest.approx(1)


def test_a_curve_is_the_precision_at_each_recall_and_its_mean_the_average_precision():
    """As by hand above: precision 1/2 up to a recall of 1/2, then nothing."""
    said = [
        Said(SIZE, ((HERE, 0), (THERE, 0)), ((HERE, 0, 0.8), ((0, 60, 20, 90), 0, 0.9)), MARKED)
    ]
    found = average_precision(said, LABELS)
    data = curve_data({"one": found})
    assert data["recall"][:3] == [0, 0.01, 0.02]
    assert data["detectors"]["one"].keys() == {"cat"}
    cat = data["detectors"]["one"]["cat"]
    assert cat["precision"] == [0.5] * 51 + [0] * 50
    assert cat["ap50"] == pytest.approx(np.mean(cat["precision"]), abs=1e-4)


def test_the_picture_has_a_line_for_each_detector_and_class():
    one, other = average_precision(crowd(0), LABELS), average_precision(crowd(1), LABELS)
    picture = ElementTree.fromstring(curve_picture(curve_data({"a<b": one, "other": other})))
    lines = [each for each in picture.iter() if each.tag.endswith("polyline")]
    assert len(lines) == 2 * 2  # no cow was there
    texts = [each.text or "" for each in picture.iter() if each.tag.endswith("text")]
    assert f"a<b {one.of_class['cat']:.1%}" in texts
    assert f"other {other.of_class['dog']:.1%}" in texts
    points = [tuple(map(float, each.split(","))) for each in lines[0].get("points", "").split()]
    assert points == sorted(points)  # recall rises, precision falls: y points down


def test_objects_are_counted_by_size():
    boxes = ((0.0, 0.0, 31.0, 32.0), (0.0, 0.0, 40.0, 40.0), (0.0, 0.0, 97.0, 97.0))
    said = Said((100, 100), tuple((box, 0) for box in boxes), (), MARKED)
    assert sizes([said, said]) == {"small": 2, "medium": 2, "large": 2}
