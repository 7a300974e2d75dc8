"""How well detectors find: average precision by COCO's rules, and differences between detectors.

pycocotools matches boxes to objects. What it matched at an IoU of 0.5 is kept photo by photo, so
that photos can be drawn anew for bootstrap intervals.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cbam.data.boxed import Boxed
from cbam.data.labelled import Unread, nothing_read, opened
from cbam.detector import Detector
from cbam.errors import NotAvailable
from cbam.explain.detection import Detected, DetectOptions, overlap

ROUNDS = 1000
COMMAND = "cbam-lens evaluate --boxed"
# Everything that a detector says at all counts, as in COCO's rules; the surest box has a heat map.
ASKED = DetectOptions(score=0.05, limit=100, maps=1, attention=False)
RECALLS = np.linspace(0, 1, 101)
SIZES = ("small", "medium", "large")  # COCO's: less than 32 x 32 px, less than 96 x 96, more

Floats = NDArray[np.float64]
Region = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels


@dataclass(frozen=True)
class Said:
    """One photo: its size, what is in it and what a detector said, boxes in its pixels."""

    size: tuple[int, int]
    objects: tuple[tuple[Region, int], ...]  # box, class
    boxes: tuple[tuple[Region, int, float], ...]  # box, class, score
    marked: tuple[bool, ...]  # class by class: are all its objects known here?


@dataclass(frozen=True, eq=False)
class Matches:
    """One class's boxes over all photos, matched at an IoU of 0.5."""

    scores: Floats  # (n,)
    hits: NDArray[np.bool_]  # (n,): around an object that no surer box had taken
    photos: NDArray[np.int64]  # (n,): in which photo
    objects: NDArray[np.int64]  # (photos,): how many there are


@dataclass(frozen=True, eq=False)
class Precision:
    """Average precision over classes and class by class, in [0, 1]."""

    map50: float  # at an IoU of 0.5
    map75: float
    map50_95: float  # mean over IoUs of 0.5, 0.55 ... 0.95
    of_class: dict[str, float]  # at 0.5; a class without an object is left out
    of_size: dict[str, float]  # mean over IoUs, of objects up to 32 x 32 px, up to 96 x 96, larger
    matches: tuple[Matches, ...] = field(repr=False)  # class by class
    curves: dict[str, Floats] = field(repr=False)  # class -> precision at RECALLS, at an IoU of 0.5


@dataclass(frozen=True, eq=False)
class Measured:
    """What goes onto a detector's card, and its matches for comparing it with others."""

    metrics: dict[str, dict[str, Any]]
    precision: Precision
    unread: tuple[Unread, ...] = ()  # photos that were left out


def measure_detector(
    model: Detector, photos: Sequence[Boxed], step: Callable[[int], None] = lambda done: None
) -> Measured:
    """Average precision on photos, and how much of the heat maps lies in the boxes.

    `step` hears how many photos are done. Raises NotAvailable without pycocotools, BadData if no
    photo can be read.
    """
    unread: list[Unread] = []
    said: list[Said] = []
    energies: list[tuple[float, float, float]] = []
    for boxed, photo in opened(photos, unread):
        found = model.find(photo, ASKED)
        one = said_of(found, boxed)
        said.append(one)
        for each in found.heatmaps:
            box, label = found.detections[each.detection].box, found.detections[0].index
            right = any(known == label and overlap(box, at) >= 0.5 for at, known in one.objects)
            if right and each.energy_in_box is not None:
                energies.append((each.energy_in_box, each.energy_uniform, each.energy_of_box))
        step(len(said))
    if not said:
        raise nothing_read(unread)
    precision = average_precision(said, model.card.labels)
    boxes: dict[str, Any] = {
        "photos": len(said),
        "objects": sum(len(each.objects) for each in said),
        "map50": round(precision.map50, 4),
        "map75": round(precision.map75, 4),
        "map50_95": round(precision.map50_95, 4),
        "ap50": {label: round(value, 4) for label, value in precision.of_class.items()},
        "map_by_size": {name: round(value, 4) for name, value in precision.of_size.items()},
        "objects_by_size": sizes(said),
        "command": COMMAND,
    }
    metrics = {"boxes": boxes}
    if energies:
        inside, uniform, best = np.mean(energies, axis=0)
        metrics["heat_maps"] = {
            "boxes": len(energies),
            "energy_in_box": round(float(inside), 4),
            "energy_uniform": round(float(uniform), 4),
            "energy_of_box": round(float(best), 4),
            "what": "each photo's surest box, if it is right: share of its HiRes-CAM inside the "
            "box, of a map that is the same everywhere, of a map that fills the box's cells",
            "command": COMMAND,
        }
    return Measured(metrics, precision, tuple(unread))


def said_of(found: Detected, boxed: Boxed) -> Said:
    """A detector's answer beside the truth; what it says of classes not marked here is left out."""
    width, height = found.photo.size
    objects = tuple(
        ((x0 * width, y0 * height, x1 * width, y1 * height), label)
        for (x0, y0, x1, y1), label in zip(boxed.regions, boxed.labels, strict=True)
    )
    boxes = tuple(
        (each.box, each.index, each.score) for each in found.detections if boxed.marked[each.index]
    )
    return Said((width, height), objects, boxes, boxed.marked)


def average_precision(said: Sequence[Said], labels: Sequence[str]) -> Precision:
    """Average precision by COCO's rules. Raises NotAvailable without pycocotools."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise NotAvailable.extra("Measuring detectors", "train", "pycocotools") from error
    with redirect_stdout(io.StringIO()):  # it prints its progress
        truth = COCO()
        truth.dataset = _dataset(said, labels)
        truth.createIndex()
        judge = COCOeval(truth, _results(truth, said), "bbox")
        judge.evaluate()
        judge.accumulate()
    every, at_half = judge.eval["precision"], 0  # (IoUs, recalls, classes, sizes, limits)
    at_three_quarters = 5
    by_class = [_mean(every[at_half, :, number, 0, -1]) for number in range(len(labels))]
    return Precision(
        _mean(every[at_half, :, :, 0, -1]),
        _mean(every[at_three_quarters, :, :, 0, -1]),
        _mean(every[:, :, :, 0, -1]),
        {label: value for label, value in zip(labels, by_class, strict=True) if value >= 0},
        {
            name: value
            for number, name in enumerate(SIZES, 1)
            if (value := _mean(every[:, :, :, number, -1])) >= 0
        },
        tuple(_matches(judge, number, said) for number in range(len(labels))),
        {
            label: np.asarray(every[at_half, :, number, 0, -1], dtype=np.float64)
            for number, label in enumerate(labels)
            if by_class[number] >= 0
        },
    )


def sizes(said: Sequence[Said]) -> dict[str, int]:
    """How many objects there are of each of COCO's sizes, in pixels of the photos' files."""
    counts = dict.fromkeys(SIZES, 0)
    for each in said:
        for (x0, y0, x1, y1), _ in each.objects:
            area = (x1 - x0) * (y1 - y0)
            counts[SIZES[(area >= 32**2) + (area >= 96**2)]] += 1
    return counts


def map50(matches: Sequence[Matches], times: NDArray[np.int64]) -> float:
    """Mean average precision at an IoU of 0.5 if photo i were there `times[i]` times: (photos,)."""
    found = [_area(each, times) for each in matches]
    known = [value for value in found if value is not None]
    return float(np.mean(known)) if known else 0.0


def difference(mine: Precision, other: Precision) -> tuple[float, float, float]:
    """How much higher `mine`'s map50 is than `other`'s, and the 95 % interval of that.

    Percentile bootstrap over the same photos for both. Seeded: the same numbers every time.
    """
    photos = len(mine.matches[0].objects)
    draw = np.random.default_rng(0)
    found = np.empty(ROUNDS)
    for number in range(ROUNDS):
        times = np.bincount(draw.integers(photos, size=photos), minlength=photos)
        found[number] = map50(mine.matches, times) - map50(other.matches, times)
    low, high = np.percentile(found, (2.5, 97.5))
    return mine.map50 - other.map50, float(low), float(high)


def against(mine: Measured, others: Mapping[str, Measured]) -> dict[str, dict[str, Any]]:
    """How much higher a detector's map50 is than others' on the same photos, for its card."""
    return {
        f"against_{name}": {
            "map50": [round(value, 4) for value in difference(mine.precision, other.precision)],
            "what": "difference, and its 95 % bootstrap interval over photos",
            "command": COMMAND,
        }
        for name, other in others.items()
    }


def _area(each: Matches, times: NDArray[np.int64]) -> float | None:
    """The area under one class's precision-recall curve at COCO's 101 recalls; None: no object."""
    objects = int((each.objects * times).sum())
    if objects == 0:
        return None
    order = np.argsort(-each.scores, kind="mergesort")
    weights = times[each.photos[order]]
    right = np.cumsum(weights * each.hits[order])
    said = np.cumsum(weights)
    with np.errstate(invalid="ignore"):
        precision = np.where(said > 0, right / said, 0.0)
    precision = np.maximum.accumulate(precision[::-1])[::-1]  # no dips
    at = np.searchsorted(right / objects, RECALLS, side="left")  # past the end: never reached
    return float(np.append(precision, 0.0)[at].mean())


def _mean(values: NDArray[Any]) -> float:
    """COCO's mean: -1 marks what does not exist; -1 if nothing does."""
    known = values[values > -1]
    return float(known.mean()) if known.size else -1.0


def _dataset(said: Sequence[Said], labels: Sequence[str]) -> dict[str, Any]:
    """The truth in COCO's format."""
    objects = [
        (photo, box, label) for photo, each in enumerate(said) for box, label in each.objects
    ]
    return {
        "images": [
            {"id": photo, "width": each.size[0], "height": each.size[1]}
            for photo, each in enumerate(said)
        ],
        "categories": [{"id": number, "name": label} for number, label in enumerate(labels)],
        "annotations": [
            {
                "id": number,  # from 1: it takes 0 for "no match"
                "image_id": photo,
                "category_id": label,
                "bbox": _as_coco(box),
                "area": (box[2] - box[0]) * (box[3] - box[1]),
                "iscrowd": 0,
            }
            for number, (photo, box, label) in enumerate(objects, 1)
        ],
    }


def _results(truth: Any, said: Sequence[Said]) -> Any:
    """What a detector said in COCO's format."""
    results = [
        {"image_id": photo, "category_id": label, "bbox": _as_coco(box), "score": score}
        for photo, each in enumerate(said)
        for box, label, score in each.boxes
    ]
    # An empty list has no type that it knows.
    return truth.loadRes(results) if results else _nothing(truth)


def _nothing(truth: Any) -> Any:
    empty = type(truth)()
    empty.dataset = {**truth.dataset, "annotations": []}
    empty.createIndex()
    return empty


def _as_coco(box: Region) -> list[float]:
    """Corner and size."""
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def _matches(judge: Any, label: int, said: Sequence[Said]) -> Matches:
    """One class's matches at an IoU of 0.5, from what pycocotools kept for each photo."""
    scores: list[float] = []
    hits: list[bool] = []
    photos: list[int] = []
    sizes = len(judge.params.areaRng)
    for photo in range(len(said)):
        kept = judge.evalImgs[(label * sizes) * len(said) + photo]
        if kept is not None:
            scores.extend(kept["dtScores"])
            hits.extend(bool(match) for match in kept["dtMatches"][0])
            photos.extend([photo] * len(kept["dtScores"]))
    objects = [sum(known == label for _, known in each.objects) for each in said]
    return Matches(
        np.asarray(scores, dtype=np.float64),
        np.asarray(hits, dtype=np.bool_),
        np.asarray(photos, dtype=np.int64),
        np.asarray(objects, dtype=np.int64),
    )
