"""Everything that is measured of a model, as it stands on its card."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from cbam.errors import BadCard
from cbam.evaluate.accuracy import accuracy, labelled_photos, logits, tensors
from cbam.evaluate.localisation import BASELINE, localise, read_boxes
from cbam.model import Model

Metrics = dict[str, dict[str, Any]]  # by data set
COMMAND = "cbam-lens evaluate"


def measure_model(
    model: Model, val: Path | None, boxed: Path | None, boxes: Path | None, runs: Path | None
) -> Metrics:
    """Accuracy on `val` and `boxed`, localisation on `boxed`, agreement with float32 weights.

    What is not given is not measured. Raises BadCard if `runs` lacks the model's float32 weights.
    """
    metrics: Metrics = {}
    if val is not None:
        photos = labelled_photos(model.card, val)
        scores = logits(model.network, tensors(model, (path for path, _ in photos)))
        targets = torch.tensor([target for _, target in photos])
        measured = _rounded(asdict(accuracy(scores, targets)))
        metrics["val"] = {**measured, "command": COMMAND + " --val"}
        if runs is not None:
            weights = runs / model.name / "weights.safetensors"
            if not weights.is_file():
                raise BadCard(f"No float32 weights of '{model.name}': {weights} is missing.")
            reference = model.card.network().eval().to(memory_format=torch.channels_last)
            reference.load_state_dict(load_file(weights))
            exact = logits(reference, tensors(model, (path for path, _ in photos)))
            metrics["int8"] = _rounded(
                {
                    "top1_agreement": float((exact.argmax(1) == scores.argmax(1)).float().mean()),
                    "float32_top1": accuracy(exact, targets).top1,
                    "largest_logit_difference": float((exact - scores).abs().max()),
                }
            ) | {"command": COMMAND + " --val --runs"}
    if boxed is not None and boxes is not None:
        photos = labelled_photos(model.card, boxed)
        scores = logits(model.network, tensors(model, (path for path, _ in photos)))
        right = accuracy(scores, torch.tensor([target for _, target in photos]))
        mine, base = localise(model, boxed, read_boxes(boxes))
        command = COMMAND + " --boxed --boxes"
        metrics["boxed"] = {
            "top1": round(right.top1, 4),
            "top5": round(right.top5, 4),
            **_rounded(asdict(mine)),
            "command": command,
        }
        metrics["boxed_baseline"] = {**_rounded(asdict(base)), "what": BASELINE, "command": command}
    return metrics


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    """Four digits: more would be noise."""
    return {
        key: round(value, 4) if isinstance(value, float) else value for key, value in values.items()
    }
