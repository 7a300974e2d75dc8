"""Recipes for detectors: a small head on a family's frozen classifiers, or a whole network."""

import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cbam.attention import ATTENTION, PLAIN
from cbam.backbones import BACKBONES
from cbam.cards.detector import Whole
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
    precision: Literal["auto", "bf16", "no"] = "auto"  # "no": float32; auto: the faster one here

    def model_name(self, backbone: str, attention: str) -> str:
        """`resnet50-cbam-animals`; without attention `resnet50-animals`."""
        middle = "" if attention == PLAIN else f"{attention}-"
        return f"{backbone}-{middle}{self.family}"


class WholeRecipe(BaseModel):
    """Everything that all members share; each is trained as a whole, backbone and head.

    The defaults are SSD300's on PASCAL VOC.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: str  # detectors are named <backbone>[-<attention>]-<family>
    title: str  # the family's name for people
    detector: str  # a name in DETECTORS
    detector_options: dict[str, Any] = {}  # of its constructor
    backbone: str  # a name in BACKBONES
    backbone_options: dict[str, Any] = {}
    attention: list[str] = [PLAIN, "se", "cbam"]  # the members
    attention_options: dict[str, dict[str, Any]] = {}  # by attention
    # Whose weights the backbone begins with: a model, or torchvision:vgg16; one for all members, or
    # one for each attention. Empty: fresh weights.
    start: str | dict[str, str] = ""
    labels: list[str]  # as the boxes name the classes
    partly: list[str] = []  # classes that are not marked in photos whose `complete` is false
    data: str  # one sentence: what it is and whose
    licence: str  # of the weights

    seed: int = 0  # weights, views and order of the photos
    size_px: int = Field(300, ge=32)  # SSD: both sides; else the longer side, a multiple of 32
    views: Literal["ssd", "flip", "none"] = "ssd"  # how photos are changed: see VIEWS
    epochs: int = Field(232, ge=1)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(1e-3, gt=0)  # SGD's
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    warmup_steps: int = Field(500, ge=0)  # linear from 0
    milestones: list[int] = []  # epochs after which the learning rate is divided by 10
    ema_decay: float = Field(0.0, ge=0, lt=1)  # average of the weights, per step; 0: none
    clip_norm: float = Field(10.0, gt=0)  # of a step's gradient
    precision: Literal["auto", "bf16", "float32"] = "auto"  # auto: the faster one on this device

    @model_validator(mode="after")
    def _known(self) -> Self:
        named: list[tuple[str, str, Collection[str]]] = [
            ("detector", self.detector, DETECTORS),
            ("backbone", self.backbone, BACKBONES),
            *(("attention", each, ATTENTION) for each in self.attention),
        ]
        for what, name, table in named:
            if name not in table:
                raise ValueError(f"no {what} '{name}', known: {', '.join(table)}")
        if not DETECTORS[self.detector].square and self.size_px % 32:
            raise ValueError(f"size_px is {self.size_px}; it has to be a multiple of 32")
        if wrong := set(self.partly) - set(self.labels):
            raise ValueError(f"`partly` names {', '.join(sorted(wrong))}, no label")
        return self

    def model_name(self, attention: str) -> str:
        """`vgg16-cbam-voc`; without attention `vgg16-voc`."""
        middle = "" if attention == PLAIN else f"{attention}-"
        return f"{self.backbone}-{middle}{self.family}"

    def whole(self, attention: str) -> Whole:
        """What a member is built of, for its card."""
        options = self.attention_options.get(attention, {})
        return Whole(backbone=self.backbone, attention=attention, attention_options=options)

    def start_of(self, attention: str) -> str:
        """Whose weights a member's backbone begins with; empty: fresh ones."""
        return self.start if isinstance(self.start, str) else self.start.get(attention, "")

    def rate(self, step: int, steps: int) -> float:
        """The learning rate in a step, of `steps` an epoch, as a share of `learning_rate`."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        passed = sum(step >= epoch * steps for epoch in self.milestones)
        return float(0.1**passed)


def is_whole_recipe(path: Path) -> bool:
    """Whether a detector's recipe trains whole networks: it names a backbone."""
    try:
        return "backbone" in tomllib.loads(read_text(path))
    except (OSError, ValueError):
        return False


def read_whole_recipe(path: Path) -> WholeRecipe:
    """The recipe in a TOML file. Raises BadRecipe with the reason."""
    try:
        return WholeRecipe.model_validate(tomllib.loads(read_text(path)))
    except (OSError, ValueError) as error:
        raise BadRecipe(f"{path}: {sentence(error)}.") from error


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
