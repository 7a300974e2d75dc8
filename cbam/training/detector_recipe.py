"""Recipes for detectors: a small head on the frozen network of a family's classifiers."""

import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from cbam.attention import PLAIN
from cbam.data.text import read_text, sentence
from cbam.detectors import DETECTORS
from cbam.errors import BadRecipe


class DetectorRecipe(BaseModel):
    """Everything that all members share; each stands on its own family's classifier."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: str  # detectors are named <backbone>[-<attention>]-<family>
    title: str  # the family's name for people
    detector: str  # a name in DETECTORS whose head can be trained alone
    detector_options: dict[str, Any] = {}  # of its constructor
    classifiers: dict[str, str]  # attention -> the model whose network it stands on
    backbone_options: dict[str, Any] = {}  # what differs from the classifier's own
    labels: list[str]  # as the boxes name the classes
    partly: list[str] = []  # classes that are not marked in photos whose `complete` is false
    data: str  # one sentence: what it is and whose
    licence: str  # of the weights

    seed: int = 0  # weights, views and order of the photos
    size_px: int = Field(224, ge=32, multiple_of=32)  # the photo's longer side
    views: int = Field(2, ge=1)  # of a photo: the first as it is, the others mirrored and zoomed
    epochs: int = Field(10, ge=1)  # in each, every photo appears once, in one of its views
    batch_size: int = Field(16, ge=1)  # photos of one shape
    learning_rate: float = Field(1e-3, gt=0)  # AdamW's, at the top of the schedule
    weight_decay: float = 0.05  # on kernels
    warmup_epochs: float = 0.5  # linear from 0; then half a cosine to 0
    ema_decay: float = Field(0.998, ge=0, lt=1)  # average of the weights, per step

    def model_name(self, backbone: str, attention: str) -> str:
        """`resnet50-cbam-animals`; without attention `resnet50-animals`."""
        middle = "" if attention == PLAIN else f"{attention}-"
        return f"{backbone}-{middle}{self.family}"


def is_detector_recipe(path: Path) -> bool:
    """Whether a recipe trains detectors: it names one. False if it cannot be read."""
    try:
        return "detector" in tomllib.loads(read_text(path))
    except (OSError, ValueError):
        return False


def read_detector_recipe(path: Path) -> DetectorRecipe:
    """The recipe in a TOML file. Raises BadRecipe with the reason."""
    try:
        recipe = DetectorRecipe.model_validate(tomllib.loads(read_text(path)))
    except (OSError, ValueError) as error:
        raise BadRecipe(f"{path}: {sentence(error)}.") from error
    able = [name for name, kind in DETECTORS.items() if kind.frozen]
    if recipe.detector not in able:
        known = ", ".join(able)
        raise BadRecipe(f"{path}: no detector '{recipe.detector}'. Known: {known}.")
    if wrong := set(recipe.partly) - set(recipe.labels):
        raise BadRecipe(f"{path}: `partly` names {', '.join(sorted(wrong))}, no label.")
    return recipe
