"""Everything that is measured of a model, as it stands on its card."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from cbam.data.labelled import Labelled, labelled_photos
from cbam.errors import BadCard, BadData
from cbam.evaluate.accuracy import accuracy, logits, tensors
from cbam.evaluate.gate_values import gate_values
from cbam.evaluate.held_gates import hold_kinds, hold_one_by_one, spread_over
from cbam.evaluate.localisation import BASELINE, localise
from cbam.evaluate.pairs import paired_difference
from cbam.model import Model

Metrics = dict[str, dict[str, Any]]  # by data set
COMMAND = "cbam-lens evaluate"


@dataclass(frozen=True)
class Measured:
    """What goes onto the card, and the same photo by photo: measure -> (photos,)."""

    metrics: Metrics = field(default_factory=dict)
    per_photo: dict[str, NDArray[np.float32]] = field(default_factory=dict)


def measure_model(
    model: Model, val: Path | None, boxed: Path | None, boxes: Path | None, runs: Path | None
) -> Measured:
    """Accuracy on `val` and `boxed`, localisation on `boxed`, agreement with float32 weights.

    What is not given is not measured. Raises BadCard if `runs` lacks the model's float32 weights.
    """
    measured = Measured()
    scores: Tensor | None = None
    if val is not None:
        photos = labelled_photos(model.card.class_folders, val)
        scores = _measure_val(measured, model, photos, runs)
    if boxed is not None:
        photos = labelled_photos(model.card.class_folders, boxed, boxes)
        if scores is None or boxed != val:  # the same photos are asked about once
            (scores,) = logits(tensors(model, photos), model.network)
        _measure_boxed(measured, model, photos, scores)
    return measured


def measure_gates(
    model: Model,
    source: Path,
    boxes: Path | None = None,
    judged: int | None = None,
    one_by_one: int | None = None,
) -> tuple[Metrics, dict[str, Tensor]]:
    """What every gate says over photos, what it is for, and the gates' means over the photos.

    `judged`: on how many of the photos all gates of a kind are held, evenly spread; `one_by_one`:
    the same for single gates; None: on all, 0: not at all. With boxes the maps of gates over places
    are held against them. A model without gates has nothing to measure: both are empty. Raises
    BadData for fewer than two photos: a photo is judged with the means of others.
    """
    photos = labelled_photos(model.card.class_folders, source, boxes)
    if not model.cut().places:
        return {}, {}
    if len(photos) < 2:
        raise BadData(f"There is one photo in {source}. Gates take two: means come from others.")
    found = gate_values(model, photos)
    measured = {"gate_values": {"photos": len(photos), **found.metrics()}}
    for name, count, hold in (
        ("gates", judged, hold_kinds),
        ("gates_one_by_one", one_by_one, hold_one_by_one),
    ):
        if positions := spread_over(len(photos), count):
            answers = hold(model, photos, found, positions)
            measured[name] = {"photos": len(positions), **answers.metrics()}
    command = COMMAND + " --gates"
    return {
        name: {**_rounded(values), "command": command} for name, values in measured.items()
    }, found.means


def against(mine: Measured, others: Mapping[str, Measured]) -> Metrics:
    """How much higher the model's measures are than those of other models on the same photos.

    By measure: the mean difference and its 95 % interval, [difference, low, high].
    """
    return {
        f"against_{name}": {
            **{
                measure: [
                    round(value, 4) for value in paired_difference(values, other.per_photo[measure])
                ]
                for measure, values in mine.per_photo.items()
                if measure in other.per_photo
            },
            "what": "mean difference, and its 95 % paired bootstrap interval",
            "command": COMMAND + " --val --boxed",
        }
        for name, other in others.items()
        if mine.per_photo.keys() & other.per_photo.keys()
    }


def _measure_val(
    measured: Measured, model: Model, photos: list[Labelled], runs: Path | None
) -> Tensor:
    """Fills in `measured`; the photos' logits: (photos, classes)."""
    networks = [model.network]
    if runs is not None:
        networks.append(_float32_network(model, runs))
    scores, *exact = logits(tensors(model, photos), *networks)
    targets = torch.tensor([labelled.target for labelled in photos])
    values = _rounded(asdict(accuracy(scores, targets)))
    measured.metrics["val"] = {**values, "command": COMMAND + " --val"}
    measured.per_photo["top1"] = (scores.argmax(1) == targets).float().numpy()
    if exact:
        measured.metrics["int8"] = _agreement(scores, exact[0], targets)
    return scores


def _measure_boxed(
    measured: Measured, model: Model, photos: list[Labelled], scores: Tensor
) -> None:
    right = accuracy(scores, torch.tensor([labelled.target for labelled in photos]))
    mine, base, per_photo = localise(model, photos)
    command = COMMAND + " --boxed"
    measured.metrics["boxed"] = {
        "top1": round(right.top1, 4),
        "top5": round(right.top5, 4),
        **_rounded(asdict(mine)),
        "command": command,
    }
    values = {**_rounded(asdict(base)), "what": BASELINE, "command": command}
    measured.metrics["boxed_baseline"] = values
    measured.per_photo.update(vars(per_photo))


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
    return {**_rounded(values), "command": COMMAND + " --val --runs"}


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    """Four digits: more would be noise."""

    def short(value: Any) -> Any:
        if isinstance(value, list):
            return [short(each) for each in value]
        if isinstance(value, dict):
            return _rounded(value)
        return round(value, 4) if isinstance(value, float) else value

    return {key: short(value) for key, value in values.items()}
