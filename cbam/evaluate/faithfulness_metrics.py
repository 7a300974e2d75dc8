"""A model's faithfulness over many photos, as it stands on its card."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cbam.data.labelled import Unread, labelled_photos, nothing_read, opened
from cbam.evaluate.card_metrics import COMMAND, DIFFERENCE, Measured, differences, rounded
from cbam.evaluate.faithfulness import Trial, confidence, curves, road, score_of
from cbam.evaluate.held_gates import evenly
from cbam.explain.explainer import answer
from cbam.explain.question import Options, resolve
from cbam.model import Model
from cbam.slices import finished
from cbam.undisturbed import undisturbed

FAITHFULNESS = "faithfulness"
# Few steps and one random order for each photo: over many photos they say as much as many.
TRIAL = Trial(steps=5, orders=1)
OTHERS = "a random order, as coarse as the map, another one for each photo; and the photo's centre"


@undisturbed
def faithfulness_of(
    model: Model, photo: Image.Image, target: int, trial: Trial = TRIAL
) -> dict[str, float]:
    """The measures of one photo (upright RGB), explained for a class; higher gains are better.

    `deletion`, `insertion`: areas of the map's curves; `random`: of random orders, the same for
    both; `deletion_gain`, `insertion_gain`: how much better the map is than these; the centre's
    areas; `average_drop`, `increase`, `road`; `evidence`: 0 if the map is zero. All in [-1, 1].
    """
    options = Options(target, top_k=1, attention=False)
    (explanation,) = answer(resolve([model], options), photo)
    heat, image, score = (
        explanation.heatmap,
        model.card.preprocess(photo),
        score_of(model, explanation),
    )
    found = finished(curves(score, image, heat, trial))
    random = float(np.mean([each.deletion_area for each in found.random]))
    shown = confidence(score, image, heat)
    return {
        "deletion": found.map.deletion_area,
        "insertion": found.map.insertion_area,
        "deletion_gain": random - found.map.deletion_area,
        "insertion_gain": found.map.insertion_area - random,
        "average_drop": shown.drop,
        "increase": float(shown.increase),
        "road": road(score, image, heat, seed=trial.seed),
        "random": random,
        "centre_deletion": found.centre.deletion_area,
        "centre_insertion": found.centre.insertion_area,
        "evidence": float(found.evidence),
    }


BASELINES = ("random", "centre_deletion", "centre_insertion")


def measure_faithfulness(
    model: Model,
    source: Path,
    count: int | None = None,
    unread: list[Unread] | None = None,
    trial: Trial = TRIAL,
) -> Measured:
    """How faithful the maps of photos' true classes are, beside orders that know nothing.

    `count`: on so many of the photos, evenly spread; by default on all. The random orders have the
    photo's number as their seed, so that all models get the same ones. Photos that cannot be read
    are added to `unread`. Raises BadData if no photo can be read.
    """
    left_out = [] if unread is None else unread
    photos = evenly(labelled_photos(model.card.class_folders, source), count)
    numbers = {labelled.name: number for number, labelled in enumerate(photos)}
    rows = [
        faithfulness_of(model, photo, each.target, replace(trial, seed=numbers[each.name]))
        for each, photo in opened(photos, left_out)
    ]
    if not rows:
        raise nothing_read(left_out)
    columns = {name: np.array([row[name] for row in rows], dtype=np.float32) for name in rows[0]}
    evidence = columns.pop("evidence")
    base = {name: columns.pop(name) for name in BASELINES}
    command = f"{COMMAND} --faithfulness"
    about: dict[str, Any] = {"photos": len(rows), "command": command}
    means = {name: float(values.mean()) for name, values in columns.items()}
    how = {"steps": trial.steps, "fill": trial.fill, "no_evidence": int((evidence == 0).sum())}
    metrics = {
        FAITHFULNESS: {**rounded(means), **how, **about},
        f"{FAITHFULNESS}_baseline": {
            **rounded({name: float(values.mean()) for name, values in base.items()}),
            "what": OTHERS,
            **about,
        },
    }
    for other, (deletion, insertion) in {
        "random": ("random", "random"),
        "centre": ("centre_deletion", "centre_insertion"),
    }.items():
        metrics[f"{FAITHFULNESS}_against_{other}"] = {
            **differences(columns, {"deletion": base[deletion], "insertion": base[insertion]}),
            "what": DIFFERENCE,
            "command": command,
        }
    return Measured(metrics=metrics, per_photo=columns)


def faithfulness_against(mine: Measured, others: Mapping[str, Measured]) -> dict[str, Any]:
    """How much higher the model's measures are than those of other models on the same photos."""
    return {
        f"{FAITHFULNESS}_against_{name}": {
            **differences(mine.per_photo, other.per_photo),
            "what": DIFFERENCE,
            "command": f"{COMMAND} --faithfulness",
        }
        for name, other in others.items()
        if mine.per_photo and other.per_photo
    }
