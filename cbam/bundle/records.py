"""What a bundle holds, and its manifest.json, key by key."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from platform import python_version
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from cbam.attention import ATTENTION, Kind
from cbam.backends.choose import BACKENDS
from cbam.cards.card import Card
from cbam.errors import UnknownName
from cbam.explain.explanation import Explanation, Prediction
from cbam.explain.interventions import Gates
from cbam.explain.question import Options
from cbam.images.preprocess import Box, Preprocess
from cbam.model import Model

FORMAT: Literal["cbam-lens-bundle"] = "cbam-lens-bundle"
# What may move a number.
LIBRARIES = ("cbam-lens", "torch", "numpy", "pillow", "openvino", "numba", "grad-cam")
NAME = re.compile(r"[A-Za-z0-9._-]{1,120}")  # one step of a path inside a bundle
MOST_CELLS = 2**26  # of one map
Name = Annotated[str, Field(max_length=200)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Shape = Annotated[tuple[Annotated[int, Field(ge=1, le=MOST_CELLS)], ...], Field(max_length=3)]


class Record(BaseModel):
    """A part of the manifest. What it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Array(Record):
    """A map of float32 values as a NumPy file, and as a picture beside it."""

    file: str = Field(description="the .npy file; the picture has the same name and .png")
    shape: Shape


class ClassArray(Array):
    """The heat map of one class."""

    index: int
    label: Name


class GateArray(Array):
    """A gate's output, along its kind's axes."""

    kind: Kind


class BlockArrays(Record):
    """One block's gates."""

    block: Name
    gates: list[GateArray]


class Result(Record):
    """One model's answer: an Explanation without its photo, its arrays as files."""

    model: Name
    view: Box
    predictions: Annotated[tuple[Prediction, ...], Field(min_length=1)]
    target: Prediction
    method: Name
    layer: Annotated[str, Field(max_length=2000)]
    heatmaps: Annotated[list[ClassArray], Field(min_length=1)]
    attention: list[BlockArrays]
    versus: tuple[Prediction, ...]
    words: Annotated[tuple[Prediction, ...], Field(min_length=1)]
    classes: int
    none_of_these: bool
    changed: dict[str, str]
    fuse: Name


class Asked(Record):
    """The question, to be asked again. What was left to the models is named as they chose it."""

    target: int | str
    method: Name
    layer: Annotated[str, Field(max_length=2000)] | None
    top_k: int
    versus: int | str | None
    gates: Annotated[str, Field(max_length=100_000)]
    fuse: Name

    @classmethod
    def of(cls, options: Options, target: int | str) -> "Asked":
        """From options and what came of their target; lists become one text each."""
        layer = options.layer
        return cls(
            target=target,
            method=options.method,
            layer=layer if layer is None or isinstance(layer, str) else ",".join(layer),
            top_k=int(options.top_k),
            versus=_plain(options.versus),
            gates=gates_text(options.gates),
            fuse=options.fuse,
        )


class ModelRecord(Record):
    """The model that answered, and what ran it."""

    name: Name
    title: Name
    phrase: str
    family: Name
    attention: Name
    backbone: Name
    params: int
    classes: int
    weights_sha256: Sha256 | None = Field(description="null: the model was made in memory")
    gates_sha256: Sha256 | None = Field(description="of the gates' means; null: none are stored")
    preprocess: Preprocess
    temperature: float
    known_from: float | None
    backend: Name
    precision: str
    data: str
    licence: str

    @classmethod
    def of(cls, model: Model) -> "ModelRecord":
        """From a model's card."""
        card = model.card
        return cls(
            name=card.name,
            title=card.title,
            phrase=ATTENTION[card.attention].phrase if card.attention in ATTENTION else "",
            family=card.family,
            attention=card.attention,
            backbone=card.backbone,
            params=model.parameters,
            classes=len(card.labels),
            weights_sha256=card.weights_sha256 or None,
            gates_sha256=card.gates_sha256 or None,
            preprocess=card.preprocess,
            temperature=card.temperature,
            known_from=card.known_from,
            backend=model.backend,
            precision=BACKENDS[model.backend].title,
            data=card.data,
            licence=card.licence,
        )


class PhotoRecord(Record):
    """The photo as it was decoded."""

    file: str
    width: int
    height: int
    sha256: Sha256 = Field(description="of the file that was sent, which is not in the bundle")


class Manifest(Record):
    """manifest.json"""

    format: Literal["cbam-lens-bundle"] = FORMAT
    version: Literal[1] = 1
    made_with: dict[str, str] = Field(description="versions, by the library's name")
    photo: PhotoRecord
    question: Asked
    models: Annotated[list[ModelRecord], Field(min_length=1, max_length=64)]
    results: list[Result] = Field(description="of the networks as they are")
    changed: list[Result] | None = Field(description="the same with changed gates; null: none")
    files: dict[str, Sha256] = Field(description="sha256 of every other file of the bundle")


@dataclass(frozen=True, eq=False)
class Bundle:
    """One answer with all that a reader needs to understand, check and repeat it."""

    question: Asked
    models: tuple[ModelRecord, ...]
    explanations: tuple[Explanation, ...]  # one for each model, of the networks as they are
    photo_sha256: str  # of the photo's file
    changed: tuple[Explanation, ...] | None = None  # the same with changed gates
    made_with: Mapping[str, str] | None = None  # versions; None: those of this process

    @property
    def shown(self) -> tuple[Explanation, ...]:
        """What was asked for: with changed gates, if any were."""
        return self.changed or self.explanations


def bundle_of(
    explanations: Sequence[Explanation],
    models: Sequence[Model],
    options: Options,
    photo_sha256: str,
    changed: Sequence[Explanation] | None = None,
) -> Bundle:
    """What models answered to `options`; `changed`: the same with the gates that `options` change.

    Times are of a run, not of an answer: a bundle has none, so that the same answer gives the same
    file.
    """

    def timeless(each: Explanation) -> Explanation:
        return replace(each, timing_ms=dict.fromkeys(each.timing_ms, 0.0))

    return Bundle(
        Asked.of(options, target_of(models[0].card, explanations[0].target)),
        tuple(map(ModelRecord.of, models)),
        tuple(map(timeless, explanations)),
        photo_sha256,
        None if changed is None else tuple(map(timeless, changed)),
        versions(),
    )


def target_of(card: Card, target: Prediction) -> int | str:
    """How to ask for this target again: by its label, unless that means another class."""
    wanted = target.indices or (target.index,)
    try:
        return target.label if card.classes(target.label) == wanted else int(target.index)
    except UnknownName:
        return int(target.index)


def versions() -> dict[str, str]:
    """Versions of this project, of Python, and of the libraries here that compute an answer."""
    found = {"python": python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def gates_text(gates: Gates | None) -> str:
    """Changes of gates as one text. An array, which has none, is named by its shape."""
    if gates is None or isinstance(gates, str):
        return gates or ""
    return ", ".join(f"{places}={_how(how)}" for places, how in gates.items())


def _how(how: object) -> str:
    if isinstance(how, (str, int, float)):
        return str(how)
    return "an array of " + " x ".join(map(str, getattr(how, "shape", ("?",))))


def _plain(target: int | str | None) -> int | str | None:
    return target if target is None or isinstance(target, str) else int(target)
