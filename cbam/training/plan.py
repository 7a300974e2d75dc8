"""Plans: how networks that already see are trained further, with gates in them.

A recipe with a section `[start]` is such a plan; it also says where the networks come from.
"""

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cbam.attention import ATTENTION
from cbam.attention.start import SPREAD
from cbam.errors import BadRecipe
from cbam.trace.insert import Start as Begin

BEFORE = "before"  # as the teacher: the network before the gates came


class Distil(BaseModel):
    """Learn from a teacher's answers, so that photos need no classes.

    The loss is the divergence of the answers, Hinton et al. 2015, https://arxiv.org/abs/1503.02531,
    and `features` times 1 - the cosine of the pooled features.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    teacher: str = BEFORE  # or as [start] network: a model's name or folder, torchvision:resnet18
    teacher_size_px: int | None = None  # it sees the same crop larger; None: as large
    temperature: Annotated[float, Field(gt=0)] = 1.0  # above 1: the answers that come second count
    features: Annotated[float, Field(ge=0)] = 2.0  # weight of the pooled features; 0: answers alone
    backend: str = "auto"  # what runs the teacher on a CPU; auto: the fastest one here


class Plan(BaseModel):
    """How long, how fast, on what: the same for all networks that are trained side by side."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: Annotated[int, Field(ge=1)] | None = None  # so many photos are seen, or
    minutes: Annotated[float, Field(gt=0)] | None = None  # so long it takes; one of the two
    train: Literal["all", "gates"] = "all"  # "gates": everything else stays as it is
    distil: Distil | None = None  # None: learn the photos' classes
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of classes

    seed: int = 0  # order of the photos, views
    image_size_px: Annotated[int, Field(ge=32)] | None = None  # None: as the network is tested
    photo_size_px: Annotated[int, Field(ge=32)] = 160  # photos are kept as squares of this side
    batch_size: Annotated[int, Field(ge=2)] = 64
    crop_scale_min: float = 0.25  # random crops: smallest share of the photo's area
    colour_jitter: float = 0.3  # brightness, contrast, saturation; 0: none
    learning_rate: float = 0.015  # at the top of the schedule; SGD, Nesterov
    momentum: float = 0.9
    weight_decay: float = 5e-5  # on matrices and kernels, not on biases and norms
    gate_step: float = 0.01  # AdamW's step for the gates, in sizes of each tensor
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05  # share of the whole: linear; then a cosine
    clip_norm: float = 5.0  # longest gradient
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.996  # average of the weights, per step
    precision: Literal["auto", "bf16", "no"] = "auto"  # "no": float32; auto: the faster one here
    held_out: int = 256  # photos that are not trained on, to see how it goes
    reports: Annotated[int, Field(ge=1)] = 10  # how often they are asked
    checkpoint_minutes: float = 5.0

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if (self.samples is None) == (self.minutes is None):
            raise ValueError("give either samples or minutes")
        return self

    def rate(self, done: float) -> float:
        """The share of the learning rates when this share of the training is done."""
        warm = max(min(1.0, done / self.warmup), 1e-3) if self.warmup else 1.0
        return warm * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


class Start(BaseModel):
    """Where the networks come from, and how the gates begin in them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: str  # a model's name or folder, torchvision:resnet18, or a file of weights
    like: str = ""  # of a file: the model, by name or folder, whose plain weights it could hold
    insert: str | list[str] = "cbam"  # the members, by attention; all see the same batches
    start: Begin = "lively"  # or "exact"
    spread: float = SPREAD  # of the lively gates, in logits
    anew: list[str] = []  # stages and layers that begin with fresh weights: ["layer3", "layer4"]

    @property
    def members(self) -> list[str]:
        """The kinds of attention to insert."""
        return [self.insert] if isinstance(self.insert, str) else self.insert

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name in self.members:
            if name not in ATTENTION:
                raise ValueError(f"no attention '{name}', known: {', '.join(ATTENTION)}")
        return self


class AttendRecipe(Plan):
    """A plan, where its networks come from, and what the trained models are called."""

    family: str  # models are named <backbone>[-<attention>]-<family>
    title: str  # the family's name for people
    data: str  # one sentence: what was trained on and whose
    licence: str  # of the weights
    start: Start
    attention_options: dict[str, dict[str, Any]] = {}  # by name: reduction, kernel ...
    test_size_px: int | None = None  # what the trained model is given; None: as its start


def read_attend_recipe(path: Path, values: dict[str, Any]) -> AttendRecipe:
    """The plan from a recipe's `recipe_values`. Raises BadRecipe with the reason."""
    try:
        return AttendRecipe.model_validate(values)
    except ValueError as error:
        raise BadRecipe(f"{path}: {error}") from error
