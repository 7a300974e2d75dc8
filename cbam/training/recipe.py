"""Recipes: how a family is trained, as a small TOML file that holds only what differs from here."""

import math
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file

from cbam.attention import ATTENTION, PLAIN
from cbam.backbones import BACKBONES
from cbam.cards.card import Card, read_card, write_card
from cbam.cards.int8 import STORAGE
from cbam.data.text import read_text, sentence
from cbam.errors import BadCard, BadRecipe
from cbam.images.preprocess import Preprocess


class Phase(BaseModel):
    """So many epochs at one image size."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    image_size_px: int = Field(ge=32)
    epochs: int = Field(ge=1)


class Finish(Phase):
    """A further, short schedule after the phases: a warm restart with a half cosine of its own.

    Random crops show things larger than the whole photo does; a network trained small and tested
    large loses accuracy, and a few epochs at a matching size bring it back: "FixRes", Touvron et
    al. 2019, https://arxiv.org/abs/1906.06423. Several restarts: "SGDR", Loshchilov and Hutter
    2016, https://arxiv.org/abs/1608.03983.
    """

    learning_rate: float = 0.02  # at its start; half a cosine to 0
    crop_scale_min: float = 0.5  # milder crops: closer to the whole photo of the test
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] | None = None  # None: the recipe's
    ema_decay: float = 0.98  # a shorter memory than before: the old statistics have to go


class Recipe(BaseModel):
    """Everything that all members of a family share; they differ in attention only."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: str  # models are named <backbone>[-<attention>]-<family>
    title: str  # the family's name for people
    backbone: str = "resnet18"
    backbone_options: dict[str, Any] = {}  # width, stem, stride_in
    attention: list[str] = ["none", "se", "cbam"]  # the members
    attention_options: dict[str, dict[str, Any]] = {}  # by attention name: reduction, kernel ...
    labels: dict[str, str]  # folder of the training data -> what the user reads
    data: str  # one sentence: what it is and whose
    licence: str  # of the weights

    seed: int = 0  # weights, order of the data and augmentation
    phases: list[Phase] = Field(min_length=1)  # progressive sizes: small ones cost little
    finish: list[Finish] = []  # after them, one after the other
    batch_size: int = 64  # per process
    batch_of_all: int = Field(
        0, ge=0
    )  # photos a step in all processes together; 0: batch_size each
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.05  # at the top of the schedule
    momentum: float = 0.9  # SGD only
    nesterov: bool = True  # SGD only
    weight_decay: float = 5e-4  # on matrices and kernels
    decay_norms: bool = False  # on biases and norms, too, as most code of 2018 did
    warmup_epochs: float = 2  # linear from 0; then the schedule
    schedule: Literal["cosine", "step"] = "cosine"  # one half cosine to 0, or a tenth at each step
    step_epochs: int = Field(30, ge=1)  # of the schedule "step"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    crop_scale_min: float = 0.25  # random resized crop: smallest share of the photo's area
    colour_jitter: float = 0.0  # brightness, contrast, saturation; 0: none
    ema_decay: float = 0.998  # average of the weights, per step; 0: the last weights
    in_memory: bool = True  # decode folders of photos once; false: anew in every epoch, from disk
    precision: Literal["auto", "bf16", "no"] = "auto"  # "no": float32; auto: the faster one here
    test_size_px: int = 192  # what the trained model is given
    test_fit: Literal["stretch", "crop"] = "crop"  # whole frame squashed, or centre crop
    test_resize_ratio: float = Field(1.0, ge=1)  # "crop": the shorter side, in units of the size
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    @property
    def main_epochs(self) -> int:
        """Epochs of all phases together, without the finish."""
        return sum(phase.epochs for phase in self.phases)

    @property
    def epochs(self) -> int:
        """All epochs."""
        return self.main_epochs + sum(finish.epochs for finish in self.finish)

    def finish_at(self, epoch: float) -> tuple[Finish, float] | None:
        """The finish that `epoch` lies in and the epochs done of it; None in the phases."""
        done = epoch - self.main_epochs
        if not self.finish or done < 0:
            return None
        for finish in self.finish[:-1]:
            if done < finish.epochs:
                return finish, done
            done -= finish.epochs
        return self.finish[-1], done

    def crop_scale(self, epoch: int) -> float:
        """Smallest share of the photo's area that a random crop has in `epoch`."""
        at = self.finish_at(epoch)
        return at[0].crop_scale_min if at else self.crop_scale_min

    def smoothing(self, epoch: int) -> float:
        """The label smoothing in `epoch`."""
        at = self.finish_at(epoch)
        own = at[0].label_smoothing if at else None
        return self.label_smoothing if own is None else own

    def image_size_px(self, epoch: int) -> int:
        """The training size in `epoch`, counted from 0."""
        for phase in (*self.phases, *self.finish):
            if epoch < phase.epochs:
                return phase.image_size_px
            epoch -= phase.epochs
        raise IndexError(f"The recipe has {self.epochs} epochs.")

    def rate(self, epoch: float) -> float:
        """The learning rate after `epoch` epochs, as a share of `learning_rate`.

        Linear warm-up, then half a cosine to 0, or a tenth after every `step_epochs`; every finish
        has a half cosine of its own.
        """
        if epoch < self.warmup_epochs:
            return max(epoch / self.warmup_epochs, 1e-3)
        if at := self.finish_at(epoch):
            finish, done = at
            return finish.learning_rate / self.learning_rate * _half_cosine(done / finish.epochs)
        if self.schedule == "step":
            return 0.1 ** int(epoch // self.step_epochs)
        length = max(self.main_epochs - self.warmup_epochs, 1e-9)
        return _half_cosine((epoch - self.warmup_epochs) / length)

    def shared_by(self, processes: int) -> "Recipe":
        """The recipe as each of so many processes runs it. Raises BadRecipe if it cannot be shared.

        `batch_of_all` is divided among them.
        """
        if not self.batch_of_all:
            return self
        if self.batch_of_all % processes:
            raise BadRecipe(
                f"{self.batch_of_all} photos a step cannot be shared by {processes} processes: "
                "start a number of processes that divides it."
            )
        return self.model_copy(update={"batch_size": self.batch_of_all // processes})

    def model_name(self, attention: str) -> str:
        """`resnet18-cbam-imagenette`; without attention `resnet18-imagenette`."""
        return model_name(self.backbone, attention, self.family)

    def build_options(self, attention: str) -> dict[str, Any]:
        """Keyword arguments for `cbam.build`."""
        return {
            "attention": attention,
            "num_classes": len(self.labels),
            "attention_options": self.attention_options.get(attention, {}),
            **self.backbone_options,
        }


def model_name(backbone: str, attention: str, family: str) -> str:
    """`resnet18-cbam-imagenette`; without attention `resnet18-imagenette`."""
    middle = "" if attention == PLAIN else f"{attention}-"
    return f"{backbone}-{middle}{family}"


def _half_cosine(done: float) -> float:
    """1 at the start, 0 when `done` reaches 1."""
    return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def recipe_values(path: Path, changes: Sequence[str] = ()) -> dict[str, Any]:
    """What a TOML file says, with `changes` such as `start.network=resnet18` made to it.

    `base = "other.toml"` in it: what it leaves out is as in that recipe, which lies beside it. A
    change's value is TOML, or a text if it is none. Raises BadRecipe.
    """
    try:
        values = tomllib.loads(read_text(path))
        if base := values.pop("base", None):
            other = read_text(path.with_name(str(base)))
            values = {**tomllib.loads(other), **values}
    except (OSError, ValueError) as error:
        raise BadRecipe(f"{path}: {sentence(error)}.") from error
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise BadRecipe(f"'{change}' changes nothing. Write KEY=VALUE, such as batch_size=32.")
        *sections, last = key.strip().split(".")
        inside = values
        for section in sections:
            inside = inside.setdefault(section, {})
            if not isinstance(inside, dict):
                raise BadRecipe(f"'{change}': '{section}' is no section of {path}.")
        inside[last] = _value(text.strip())
    return values


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def read_recipe(path: Path, values: dict[str, Any] | None = None) -> Recipe:
    """The recipe in a TOML file, or from its `recipe_values`. Raises BadRecipe with the reason."""
    values = recipe_values(path) if values is None else values
    try:
        recipe = Recipe.model_validate(values)
    except ValueError as error:
        raise BadRecipe(f"{path}: {sentence(error)}.") from error
    if recipe.backbone not in BACKBONES:
        known = ", ".join(BACKBONES)
        raise BadRecipe(f"{path}: no backbone '{recipe.backbone}'. Known: {known}.")
    for name in recipe.attention:
        if name not in ATTENTION:
            raise BadRecipe(f"{path}: no attention '{name}'. Known: {', '.join(ATTENTION)}.")
    return recipe


def write_model(
    recipe: Recipe, attention: str, weights: Path, models: Path, recipe_name: str
) -> Card:
    """A trained member as a model under `models`: its float32 `weights` as int8, and its card."""
    name = recipe.model_name(attention)
    card = Card(
        name=name,
        family=recipe.family,
        family_title=recipe.title,
        backbone=recipe.backbone,
        attention=attention,
        labels=tuple(recipe.labels.values()),
        folders=tuple(recipe.labels),
        preprocess=Preprocess(
            recipe.test_size_px,
            recipe.test_fit,
            recipe.mean,
            recipe.std,
            recipe.test_resize_ratio,
        ),
        licence=recipe.licence,
        data=recipe.data,
        recipe=recipe_name,
        weights_sha256="",
        storage=STORAGE,
        backbone_options=recipe.backbone_options,
        attention_options=recipe.attention_options.get(attention, {}),
        folder=models / name,
    )
    return write_card(card, load_file(weights))


def refuse_to_overwrite(folder: Path, run: Path) -> None:
    """Raises BadRecipe if `folder` holds a model that did not come from the training in `run`.

    A training that is resumed may write its own model again.
    """
    card, wrote = folder / "card.toml", run / WROTE
    if not card.exists():
        return
    try:
        mine = wrote.read_text(encoding="utf-8") == read_card(folder).weights_sha256
    except (OSError, BadCard):
        mine = False
    if not mine:
        raise BadRecipe(
            f"{folder} holds another model already. Give the recipe another family, write with "
            "--models to another folder, or replace that model with --force."
        )


WROTE = "wrote.txt"  # in a training's folder: the sha256 of the weights of the model made of it


def remember(card: Card, run: Path) -> None:
    """Note that the training in `run` wrote this model."""
    (run / WROTE).write_text(card.weights_sha256, encoding="utf-8")
