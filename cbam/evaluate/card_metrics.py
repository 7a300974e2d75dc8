"""Everything that is measured of a model, as it stands on its card."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from cbam.cards.words import grouped
from cbam.data.boxed import boxes_file, photos_of_words
from cbam.data.labelled import (
    Labelled,
    Unread,
    labelled_photos,
    nothing_read,
    opened,
    other_photos,
)
from cbam.data.parquet import has_classes
from cbam.errors import BadCard, BadData, UnknownName
from cbam.evaluate.accuracy import accuracy, logits, tensors
from cbam.evaluate.calibration import BINS, OWN_FLAGGED, calibrate, tell_strangers
from cbam.evaluate.gate_values import gate_values
from cbam.evaluate.held_gates import WAYS, evenly, hold_kinds, hold_one_by_one
from cbam.evaluate.localisation import BASELINE, Tally, check_boxes
from cbam.evaluate.pairs import paired_difference
from cbam.model import Model

Metrics = dict[str, dict[str, Any]]  # by data set
COMMAND = "cbam-lens evaluate"
DIFFERENCE = "mean difference, and its 95 % paired bootstrap interval"
# What is measured of gates: their values, accuracy with all of a kind held, with each alone held.
GATES = GATE_VALUES, HELD, ONE_BY_ONE = "gate_values", "gates", "gates_one_by_one"
AGAINST = "against_"  # before the attention of the other model
USEFUL = 2  # a card gets a threshold that flags other things so many times as often as its own


@dataclass(frozen=True, eq=False)
class Measured:
    """What goes onto the card, and the same photo by photo: measure -> (photos,)."""

    metrics: Metrics = field(default_factory=dict)
    per_photo: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    unread: list[Unread] = field(default_factory=list)  # photos that were left out
    fitted: dict[str, Any] = field(default_factory=dict)  # fields of the card: "temperature" ...


def measure_model(
    model: Model,
    val: Path | None,
    boxed: Path | None,
    boxes: Path | None,
    runs: Path | None,
    others: Path | None = None,
    with_temperature: bool = False,
) -> Measured:
    """Accuracy on `val` and `boxed`, localisation on `boxed`, agreement with float32 weights.

    `others`: photos of other things than the model's classes, which it should tell from those in
    `val`. `with_temperature`: fit one on `val`. What is not given is not measured. Photos that
    cannot be read are left out and named. A photo is decoded once, also where `val` and `boxed` are
    the same. Raises BadCard if `runs` lacks the model's float32 weights, BadData if there are
    photos without a box or none can be read.
    """
    measured = Measured()
    folders = model.card.class_folders
    networks = [model.network]
    if runs is not None:
        networks.append(_float32_network(model, runs))
    photos = [] if val is None else labelled_photos(folders, val, boxes if val == boxed else None)
    with_boxes = photos
    if boxed is not None and boxed != val:
        with_boxes = _boxed(model, boxed, boxes)
    if boxed is not None:
        check_boxes(with_boxes)
    tally = None if boxed is None else Tally(model)
    if val is not None:
        look = _Look(model, photos, tally if val == boxed else None, measured.unread)
        scores, *exact = look.logits(networks)
        _measure_val(measured, scores, exact, look.targets)
        if with_temperature:
            _fit_temperature(measured, scores, look.targets)
        if others is not None:
            (strange,) = _Look(model, other_photos(others), None, measured.unread).logits(
                networks[:1]
            )
            _fit_threshold(measured, scores, strange)
        if tally is not None and val == boxed:
            _measure_boxed(measured, scores, look.targets, tally)
    if tally is not None and val != boxed:
        look = _Look(model, with_boxes, tally, measured.unread)
        (scores,) = look.logits(networks[:1])
        _measure_boxed(measured, scores, look.likeliest(scores), tally)
    return measured


def _boxed(model: Model, source: Path, boxes: Path | None) -> list[Labelled]:
    """Photos with boxes of their class, or of an everyday word: a data set of detectors."""
    listed = source.suffix == ".parquet" and boxes_file(source, boxes).is_file()
    if listed and source.is_file() and not has_classes(source):
        words = {**model.card.words, **grouped(model.card.class_folders)}
        return photos_of_words(words, source, boxes)
    return labelled_photos(model.card.class_folders, source, boxes)


class _Look:
    """One look at each photo of a data set, for all that is measured on it.

    `seen` are the photos that could be read.
    """

    def __init__(
        self, model: Model, photos: Sequence[Labelled], tally: Tally | None, unread: list[Unread]
    ) -> None:
        self.model, self.photos, self.tally, self.unread = model, photos, tally, unread
        self.seen: list[Labelled] = []

    def logits(self, networks: Sequence[nn.Module]) -> list[Tensor]:
        """Each network's logits (photos, classes). Raises BadData if no photo can be read."""
        batches = tensors(self.model, self._decoded())
        first = next(batches, None)
        if first is None:
            raise nothing_read(self.unread)
        return logits(chain([first], batches), *networks)

    def _decoded(self) -> Iterator[Image.Image]:
        for labelled, photo in opened(self.photos, self.unread):
            if self.tally is not None:
                self.tally.add(labelled, photo)
            self.seen.append(labelled)
            yield photo

    @property
    def targets(self) -> Tensor:
        """The true classes: (photos,)."""
        return torch.tensor([labelled.target for labelled in self.seen])

    def likeliest(self, scores: Tensor) -> Tensor:
        """The same, but of a word the class that the scores (photos, classes) put first."""
        targets = self.targets
        for number, labelled in enumerate(self.seen):
            if labelled.word:
                classes = torch.tensor(self.model.card.classes(labelled.word))
                targets[number] = classes[scores[number, classes].argmax()]
        return targets


def measure_gates(
    model: Model,
    source: Path,
    boxes: Path | None = None,
    count: int | None = None,
    unread: list[Unread] | None = None,
) -> tuple[Metrics, dict[str, Tensor]]:
    """What every gate says over photos, and the gates' means; with boxes, whether they see objects.

    `count`: on so many of the photos, evenly spread; by default on all. Photos that cannot be read
    are added to `unread`. A model without gates has nothing to measure: both are empty. Raises
    BadData if no photo can be read.
    """
    if not model.cut().places:
        return {}, {}
    photos = evenly(labelled_photos(model.card.class_folders, source, boxes), count)
    found = gate_values(model, photos, [] if unread is None else unread)
    about = {"photos": len(found.photos), "command": COMMAND + " --gates"}
    return {GATE_VALUES: {**about, **rounded(found.metrics())}}, found.means


def measure_held_gates(
    model: Model,
    source: Path,
    count: int | None = None,
    one_by_one: int | None = None,
    ways: Collection[str] = tuple(WAYS),
    unread: list[Unread] | None = None,
) -> Metrics:
    """What the gates are for: accuracy when they no longer answer the photo; empty without gates.

    `count`: on how many of the photos all gates of a kind are held, evenly spread; `one_by_one`: on
    how many of these each gate is held alone; None: on all, 0: not at all. `ways`: names in WAYS.
    Photos that cannot be read are added to `unread`. Raises BadData for fewer than two photos: a
    photo is judged with the means of others; UnknownName for another way.
    """
    for way in ways:
        if way not in WAYS:
            raise UnknownName.of("way to hold a gate", way, WAYS)
    if not model.cut().places:
        return {}
    photos = evenly(labelled_photos(model.card.class_folders, source), count)
    values = gate_values(model, photos, [] if unread is None else unread)
    if len(values.photos) < 2:
        raise BadData(f"One photo of {source} is too few: gates are held at the means of others.")
    measured = {HELD: hold_kinds(model, values, ways)}
    if one_by_one != 0:
        measured[ONE_BY_ONE] = hold_one_by_one(model, values, one_by_one)
    return {
        name: {
            "photos": len(answers.targets),
            **rounded(answers.metrics()),
            "command": COMMAND + " --hold",
        }
        for name, answers in measured.items()
    }


def against(mine: Measured, others: Mapping[str, Measured]) -> Metrics:
    """How much higher the model's measures are than those of other models on the same photos.

    By measure: the mean difference and its 95 % interval, [difference, low, high].
    """
    return {
        f"{AGAINST}{name}": {
            **differences(mine.per_photo, other.per_photo),
            "what": DIFFERENCE,
            "command": COMMAND + " --val --boxed",
        }
        for name, other in others.items()
        if mine.per_photo.keys() & other.per_photo.keys()
    }


def beside(known: Mapping[str, Any], found: Metrics) -> Metrics:
    """A card's numbers with new ones in their place.

    Differences to another model come from --val and from --boxed: those that were not measured
    again stay.
    """
    merged: Metrics = {**known, **found}
    for data_set in found.keys() & known.keys():
        if data_set.startswith(AGAINST):
            merged[data_set] = {**known[data_set], **found[data_set]}
    return merged


def differences(
    mine: Mapping[str, NDArray[np.float32]], other: Mapping[str, NDArray[np.float32]]
) -> dict[str, list[float]]:
    """By measure that both have: the mean of `mine - other` and its 95 % interval."""
    return {
        measure: [round(value, 4) for value in paired_difference(values, other[measure])]
        for measure, values in mine.items()
        if measure in other
    }


def _measure_val(
    measured: Measured, scores: Tensor, exact: Sequence[Tensor], targets: Tensor
) -> None:
    """Fills in `measured` from logits (photos, classes); `exact` are the float32 weights'."""
    values = rounded(asdict(accuracy(scores, targets)))
    measured.metrics["val"] = {**values, "command": COMMAND + " --val"}
    measured.per_photo["top1"] = (scores.argmax(1) == targets).float().numpy()
    if exact:
        measured.metrics["int8"] = _agreement(scores, exact[0], targets)


def _fit_temperature(measured: Measured, scores: Tensor, targets: Tensor) -> None:
    values = rounded(asdict(calibrate(scores, targets)))
    what = (
        f"expected calibration error, {BINS} bins; after: with the other half's temperature; "
        "by chance: of exact probabilities on as many photos"
    )
    measured.metrics["calibration"] = {**values, "what": what, "command": COMMAND + " --calibrate"}
    measured.fitted["temperature"] = values["temperature"]


def _fit_threshold(measured: Measured, scores: Tensor, strange: Tensor) -> None:
    values = rounded(asdict(tell_strangers(scores, strange)))
    what = "flagged: largest logit below known_from; own photos by the other half's threshold"
    measured.metrics["none_of_these"] = {**values, "what": what, "command": COMMAND + " --others"}
    # A warning that other things get hardly more often than the model's own says nothing.
    tells = values["others_flagged"] >= USEFUL * OWN_FLAGGED
    measured.fitted["known_from"] = values["known_from"] if tells else None


def _measure_boxed(measured: Measured, scores: Tensor, targets: Tensor, tally: Tally) -> None:
    right = accuracy(scores, targets)
    mine, base, per_photo = tally.result()
    command = COMMAND + " --boxed"
    measured.metrics["boxed"] = {
        "top1": round(right.top1, 4),
        "top5": round(right.top5, 4),
        **rounded(asdict(mine)),
        "command": command,
    }
    values = {**rounded(_there(asdict(base))), "what": BASELINE, "command": command}
    measured.metrics["boxed_baseline"] = values
    measured.metrics["boxed_against_baseline"] = {
        **differences(vars(per_photo), _there(vars(tally.blind))),
        "what": DIFFERENCE,
        "command": command,
    }
    measured.per_photo.update(vars(per_photo))


def _there(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that were measured."""
    return {name: value for name, value in values.items() if value is not None}


def _float32_network(model: Model, runs: Path) -> nn.Module:
    """The network as it was trained, before its weights were stored as int8."""
    weights = runs / model.name / "weights.safetensors"
    if not weights.is_file():
        raise BadCard(f"No float32 weights of '{model.name}': {weights} is missing.")
    network = model.card.network().eval().to(memory_format=torch.channels_last)
    network.load_state_dict(load_file(weights))
    return network


def _agreement(scores: Tensor, exact: Tensor, targets: Tensor) -> dict[str, Any]:
    """How the stored weights' logits compare with the float32 ones': (photos, classes) each."""
    values = {
        "top1_agreement": float((exact.argmax(1) == scores.argmax(1)).float().mean()),
        "float32_top1": accuracy(exact, targets).top1,
        "largest_logit_difference": float((exact - scores).abs().max()),
    }
    return {**rounded(values), "command": COMMAND + " --val --runs"}


def rounded(values: dict[str, Any]) -> dict[str, Any]:
    """Four digits: more would be noise."""

    def short(value: Any) -> Any:
        if isinstance(value, list):
            return [short(each) for each in value]
        if isinstance(value, dict):
            return rounded(value)
        return round(value, 4) if isinstance(value, float) else value

    return {key: short(value) for key, value in values.items()}
