"""The types of the answers: JSON for the API, and the same values for the page."""

import base64
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from app.inference.engine import Answer, Findings
from cbam.attention import ATTENTION, Use
from cbam.backends.choose import BACKENDS
from cbam.cards.card import Card
from cbam.cards.detector import DetectorCard
from cbam.cards.reliance import reliance, reliance_said
from cbam.detectors import DETECTORS
from cbam.explain.detection import Detected, counterparts
from cbam.explain.explanation import BlockAttention, Explanation, Floats, GateMap
from cbam.explain.explanation import Prediction as Named
from cbam.explain.methods import METHODS, CostClass
from cbam.explain.methods import Method as CAMMethod
from cbam.explain.verdict import verdict
from cbam.model import Model
from cbam.said import Said


class Map(BaseModel):
    """A raw map as 8-bit values: value = min + byte / 255 * (max - min)."""

    shape: tuple[int, ...] = Field(
        description="rows and columns; some gates have channels before them"
    )
    dtype: str = "uint8"
    min: float
    max: float
    data: str = Field(description="base64 of one byte for each cell, row by row")

    @classmethod
    def of(cls, values: Floats) -> "Map":
        low, high = float(values.min()), float(values.max())
        spread = high - low
        levels = (values - low) / spread * 255 if spread > 0 else np.zeros_like(values)
        data = np.rint(levels).astype(np.uint8).tobytes()
        return cls(shape=values.shape, min=low, max=high, data=base64.b64encode(data).decode())


class Prediction(BaseModel):
    """A class and its probability: the softmax of the logits divided by the card's temperature."""

    index: int
    label: str
    probability: float


class ClassMap(BaseModel):
    """The heat map of one class."""

    index: int
    label: str
    map: Map


Gate = list[float] | Map  # one value per channel, or a map along its kind's axes


class BlockMaps(BaseModel):
    """One block's gates, by kind. "channel" and "spatial" are null if it has no such gate."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Gate]

    block: str
    channel: list[float] | None
    spatial: Map | None


class View(BaseModel):
    """The part of the photo that the model saw, in pixels of the upright photo."""

    x0: int
    y0: int
    x1: int
    y1: int


class Timing(BaseModel):
    """Where the time went, in milliseconds."""

    decode: float
    queue: float
    trunk: float
    head: float


class Word(BaseModel):
    """An everyday word and its classes' summed probability; "cat" has five ImageNet classes."""

    word: str
    probability: float
    indices: list[int] = Field(description="the word's classes, or one class without such a word")


NoneOfThese = Annotated[
    bool,
    Field(description="the photo may show none of the model's classes; this is only a weak hint"),
]


CHANGED: Any = Field(
    description="gates that were changed and how; if there are any, this is an intervention on a "
    "trained network"
)


class ModelPrediction(BaseModel):
    """One model's most probable classes."""

    model: str
    predictions: list[Prediction]
    words: list[Word] = Field(description="everyday words, the most probable first")
    none_of_these: NoneOfThese
    timing_ms: Timing
    changed: dict[str, str] = CHANGED


class ModelAttention(BaseModel):
    """One model's gates, block by block; an empty list if it has none."""

    model: str
    view: View
    attention: list[BlockMaps]
    changed: dict[str, str] = CHANGED


class ModelExplanation(BaseModel):
    """One model's answer."""

    model: str
    predictions: list[Prediction]
    words: list[Word] = Field(description="everyday words, the most probable first")
    target_probability: float
    none_of_these: NoneOfThese
    layer: str = Field(
        description="the explained block; several, with commas, share a map: see `fuse` of /explain"
    )
    view: View
    heatmaps: list[ClassMap] = Field(
        description="first the target's map, then those of other top classes, if they cost nothing"
    )
    attention: list[BlockMaps]
    timing_ms: Timing
    changed: dict[str, str] = CHANGED


class ImageInfo(BaseModel):
    """The photo as it was decoded."""

    width: int
    height: int
    sha256: str = Field(description="SHA-256 of the bytes that were sent")


class Target(BaseModel):
    """A class or word: the one that every heat map explains, or one it is contrasted with."""

    index: int = Field(
        description="the class; for a word, the one of its classes that the first model prefers"
    )
    label: str
    indices: list[int] = Field(
        [], description="for a word: its classes, whose probabilities are summed"
    )


class Verdict(BaseModel):
    """What the models' answers come to."""

    headline: str = Field(description="says whether the models agree, disagree, or are not sure")
    words: list[str] = Field(description="the most probable word of each model, each word once")
    sure: bool = Field(description="at least one model gives its word a probability of 0.5 or more")
    none_of_these: bool = Field(description="whether most of the models say so")
    warning: str = Field(description="`none_of_these` as a sentence, or empty")


class Explained(BaseModel):
    """Answer of /explain."""

    image: ImageInfo
    verdict: Verdict
    target: Target
    method: str
    fuse: str = Field(description="how the maps of several blocks became one")
    versus: list[Target] = Field(description="the classes that the target was contrasted with")
    results: list[ModelExplanation]


class Rectangle(BaseModel):
    """A box in pixels of the upright photo."""

    x0: float
    y0: float
    x1: float
    y1: float


class FoundBox(BaseModel):
    """A thing that a detector found."""

    box: Rectangle
    index: int
    label: str
    score: float = Field(description="geometric mean of the class's probability and centredness")
    counterparts: dict[str, int | None] = Field(
        description="by model: the position of its box around the same thing, of the same class "
        "and with an IoU of 0.5 at least; null: it has none"
    )


class FoundMap(BaseModel):
    """The heat map of one box, over the whole photo."""

    detection: int = Field(description="the box's position in `detections`")
    map: Map
    energy_in_box: float | None = Field(description="share of the map in the box; null: it is zero")
    energy_uniform: float = Field(description="the same of a map that is the same everywhere")
    energy_of_box: float = Field(description="the same of a map that fills the box's cells")


class ModelDetections(BaseModel):
    """One detector's answer."""

    model: str
    detections: list[FoundBox] = Field(description="the surest first")
    layer: str
    heatmaps: list[FoundMap]
    attention: list[BlockMaps]
    timing_ms: Timing


class DetectedBoxes(BaseModel):
    """Answer of /detect."""

    image: ImageInfo
    of: str = Field(description="what the heat maps explain")
    method: str
    masks: int | None = Field(description="how often parts were hidden; null: another method")
    seed: int | None = Field(description="of these masks; null: another method")
    score: float = Field(description="least score of a box")
    iou: float = Field(description="of two boxes of one class that overlap more, one stays")
    limit: int = Field(description="most boxes of a model")
    results: list[ModelDetections]


class Predicted(BaseModel):
    """Answer of /predict."""

    image: ImageInfo
    verdict: Verdict
    results: list[ModelPrediction]


class Attended(BaseModel):
    """Answer of /attention."""

    image: ImageInfo
    results: list[ModelAttention]


class ModelIntervention(BaseModel):
    """One model before and after its gates were changed. It was not retrained."""

    model: str
    changed: dict[str, str] = CHANGED
    flipped: bool = Field(description="whether its most probable class is another one")
    before: ModelExplanation
    after: ModelExplanation


class Intervened(BaseModel):
    """Answer of /intervene."""

    image: ImageInfo
    target: Target
    method: str
    versus: list[Target] = Field(description="classes that the target was contrasted with")
    results: list[ModelIntervention]


class GateInfo(BaseModel):
    """A kind of gate that a model has."""

    name: str = Field(description="the gate's key in the blocks of /explain")
    axes: str = Field(description="the axes along which its map varies: C, HW, CHW ...")
    word: str = Field(description="the question that the gate answers")
    says: str
    title: str = Field(description="for people: channel gate")
    use: Use = Field(
        description="multiplied with the features, added to them, or shown: a step on the way"
    )
    lowest: float | None = Field(description="the least value that it can have; null: any")
    highest: float | None = Field(description="the greatest value that it can have; null: any")
    neutral: float | None = Field(
        description="where it takes no side; null: there is no such value"
    )
    text: str = Field(description="the name of what it says, for other languages")


class ModelInfo(BaseModel):
    """A model's card."""

    name: str
    family: str
    title: str = Field(description="the network's usual name: CBAM-ResNet-18")
    attention: str
    phrase: str = Field(description="what the attention adds, in a few words")
    gates: list[GateInfo]
    backbone: str
    params: int
    classes: list[str]
    temperature: float = Field(description="divides the logits before the softmax")
    known_from: float | None = Field(
        description="a smaller largest logit means `none_of_these`; null: not measured"
    )
    input_size: int
    backend: str = Field(description="the back end that runs the network up to its last block")
    precision: str = Field(
        description="the library and number format; says 'approximate' unless float32"
    )
    layers: list[str]
    blocks: list[str] = Field(description="names of the blocks that have gates")
    metrics: dict[str, dict[str, Any]]
    reliance: str = Field(description="whether its answers depend on its gates; may be empty")
    reliance_said: Said | None = Field(
        description="this sentence with its numbers, for other languages; null: not measured"
    )
    licence: str
    data: str


class Queue(BaseModel):
    """Answer of /queue."""

    waiting: int = Field(
        description="questions that wait for the models, without those that the models work on; "
        "of a question that waits, at most so many others are before it"
    )
    length: int = Field(description="most questions that may wait; a further one gets a 503")
    loading: bool = Field(description="whether the models are still being loaded")


class DetectorInfo(BaseModel):
    """A detector's card. It is loaded when somebody asks it for the first time."""

    name: str
    family: str
    family_title: str
    title: str = Field(description="what people call it: FCOS on CBAM-ResNet-50")
    network: str = Field(description="the network that it stands on: CBAM-ResNet-50")
    attention: str = Field(description="of that network")
    phrase: str = Field(description="what the attention adds, in a few words")
    gates: list[GateInfo]
    kind: str
    paper: str = Field(description="of the kind of detector")
    classifier: str = Field(
        description="the model whose network it stands on; empty: it has a network of its own"
    )
    classes: list[str]
    input_size: int = Field(description="pixels of the photo's longer side, as the network sees it")
    metrics: dict[str, dict[str, Any]]
    licence: str
    data: str


class FamilyInfo(BaseModel):
    """Models trained alike that differ in attention only."""

    name: str
    title: str
    default: bool
    models: list[str]


class Models(BaseModel):
    """Answer of /models."""

    families: list[FamilyInfo]
    models: list[ModelInfo]
    detectors: list[DetectorInfo]


class FoundClass(BaseModel):
    """A class that a search found, or an everyday word that means several."""

    target: str = Field(description="send this as `target` or `versus`; usually the label")
    label: str
    indices: list[int] = Field(description="the class, or all classes of the word")
    folder: str = Field(description="what data sets call the class: for ImageNet its WordNet id")
    synonyms: list[str] = Field(description="other names in WordNet 3.0")
    matched: str = Field(description="the name that matched, if it is not the label; else empty")


class Classes(BaseModel):
    """Answer of /classes."""

    family: str
    total: int = Field(description="number of matches, of which at most `limit` are listed")
    classes: list[FoundClass] = Field(description="the best match first")


class MethodInfo(BaseModel):
    """A CAM method."""

    name: str
    title: str
    paper: str
    note: str
    cost: str
    cost_class: CostClass = Field(
        description="low: about a forward pass; medium: a pass through the head for each channel; "
        "high: a pass through the whole network for each channel"
    )
    versus: bool = Field(description="whether the method contrasts the target with other classes")
    ignores_class: bool = Field(description="whether its map is the same for every class")
    groups: bool = Field(description="whether it explains a word that means several classes, too")


class Methods(BaseModel):
    """Answer of /methods."""

    methods: list[MethodInfo]


def image_info(answer: Answer) -> ImageInfo:
    """Size of the upright photo and the digest of what was sent."""
    width, height = answer.explanations[0].photo.size
    return ImageInfo(width=width, height=height, sha256=answer.sha256)


def _timing(explanation: Explanation, answer: Answer) -> Timing:
    return Timing.model_validate({**answer.waits, **explanation.timing_ms})


def _verdict(answer: Answer) -> Verdict:
    found = verdict(answer.explanations)
    return Verdict(
        headline=found.headline,
        words=list(found.words),
        sure=found.sure,
        none_of_these=found.none_of_these,
        warning=found.warning(answer.explanations[0].classes),
    )


def _target(item: Named) -> Target:
    return Target(index=item.index, label=item.label, indices=list(item.indices))


def _predictions(explanation: Explanation) -> list[Prediction]:
    return [
        Prediction(index=item.index, label=item.label, probability=item.probability)
        for item in explanation.predictions
    ]


def _words(explanation: Explanation) -> list[Word]:
    return [
        Word(word=item.label, probability=item.probability, indices=list(item.indices))
        for item in explanation.words
    ]


def _blocks(attention: Sequence[BlockAttention]) -> list[BlockMaps]:
    return [
        BlockMaps(
            **{
                "block": item.block,
                "channel": None,
                "spatial": None,
                **{name: _gate(gate) for name, gate in item.gates.items()},
            }
        )
        for item in attention
    ]


def _gate(gate: GateMap) -> Gate:
    if gate.values.ndim == 1:
        return [round(float(value), 5) for value in gate.values]
    return Map.of(gate.values)


def explained(answer: Answer) -> Explained:
    """The answer of /explain."""
    first = answer.explanations[0]
    return Explained(
        image=image_info(answer),
        verdict=_verdict(answer),
        target=_target(first.target),
        method=first.method,
        fuse=first.fuse,
        versus=[_target(item) for item in first.versus],
        results=[_explanation(each, answer) for each in answer.explanations],
    )


def _explanation(each: Explanation, answer: Answer) -> ModelExplanation:
    return ModelExplanation(
        model=each.model,
        predictions=_predictions(each),
        words=_words(each),
        target_probability=each.target.probability,
        none_of_these=each.none_of_these,
        layer=each.layer,
        view=View(**asdict(each.view)),
        heatmaps=[
            ClassMap(index=item.index, label=item.label, map=Map.of(item.map))
            for item in each.heatmaps
        ],
        attention=_blocks(each.attention),
        timing_ms=_timing(each, answer),
        changed=dict(each.changed),
    )


def intervened(before: Answer, after: Answer) -> Intervened:
    """The answer of /intervene."""
    first = before.explanations[0]
    return Intervened(
        image=image_info(before),
        target=_target(first.target),
        method=first.method,
        versus=[_target(item) for item in first.versus],
        results=[
            ModelIntervention(
                model=old.model,
                changed=dict(new.changed),
                flipped=old.predictions[0].index != new.predictions[0].index,
                before=_explanation(old, before),
                after=_explanation(new, after),
            )
            for old, new in zip(before.explanations, after.explanations, strict=True)
        ],
    )


def predicted(answer: Answer) -> Predicted:
    """The answer of /predict."""
    return Predicted(
        image=image_info(answer),
        verdict=_verdict(answer),
        results=[
            ModelPrediction(
                model=each.model,
                predictions=_predictions(each),
                words=_words(each),
                none_of_these=each.none_of_these,
                timing_ms=_timing(each, answer),
                changed=dict(each.changed),
            )
            for each in answer.explanations
        ],
    )


def attended(answer: Answer) -> Attended:
    """The answer of /attention."""
    return Attended(
        image=image_info(answer),
        results=[
            ModelAttention(
                model=each.model,
                view=View(**asdict(each.view)),
                attention=_blocks(each.attention),
                changed=dict(each.changed),
            )
            for each in answer.explanations
        ],
    )


def detected(findings: Findings) -> DetectedBoxes:
    """The answer of /detect."""
    found, options, hidden = findings.found, findings.options, findings.hidden
    width, height = found[0].photo.size
    return DetectedBoxes(
        image=ImageInfo(width=width, height=height, sha256=findings.sha256),
        of=options.of,
        method=found[0].method,
        masks=hidden.masks if hidden else None,
        seed=hidden.seed if hidden else None,
        score=options.score,
        iou=options.iou,
        limit=options.limit,
        results=[
            ModelDetections(
                model=each.model,
                detections=found_boxes(each, found),
                layer=each.layer,
                heatmaps=[
                    FoundMap(
                        detection=item.detection,
                        map=Map.of(item.map),
                        energy_in_box=item.energy_in_box,
                        energy_uniform=item.energy_uniform,
                        energy_of_box=item.energy_of_box,
                    )
                    for item in each.heatmaps
                ],
                attention=_blocks(each.attention),
                timing_ms=Timing.model_validate({**findings.waits, **each.timing_ms}),
            )
            for each in found
        ],
    )


def found_boxes(mine: Detected, every: Sequence[Detected]) -> list[FoundBox]:
    """One model's boxes, each linked to the others' boxes around the same thing."""
    links = {other.model: counterparts(mine, other) for other in every if other is not mine}
    return [
        FoundBox(
            box=Rectangle(**dict(zip(("x0", "y0", "x1", "y1"), each.box, strict=True))),
            index=each.index,
            label=each.label,
            score=each.score,
            counterparts={name: link[number] for name, link in links.items()},
        )
        for number, each in enumerate(mine.detections)
    ]


def _on_card(card: Card | DetectorCard) -> dict[str, Any]:
    """What /models shows of any card."""
    attention = ATTENTION[card.attention]
    return {
        "name": card.name,
        "family": card.family,
        "title": card.title,
        "attention": card.attention,
        "phrase": attention.phrase,
        "gates": [GateInfo(**asdict(kind)) for kind in attention.gates],
        "classes": list(card.labels),
        "metrics": card.metrics,
        "licence": card.licence,
        "data": card.data,
    }


def model_info(model: Model) -> ModelInfo:
    """A card as /models shows it."""
    card = model.card
    return ModelInfo(
        **_on_card(card),
        backbone=card.backbone,
        params=model.parameters,
        temperature=card.temperature,
        known_from=card.known_from,
        input_size=card.preprocess.size_px,
        backend=model.backend,
        precision=BACKENDS[model.backend].title,
        layers=model.layers,
        blocks=model.layers if ATTENTION[card.attention].gates else [],
        reliance=reliance(card),
        reliance_said=reliance_said(card),
    )


def detector_info(card: DetectorCard) -> DetectorInfo:
    """A detector's card as /models shows it."""
    kind = DETECTORS[card.kind]
    return DetectorInfo(
        **_on_card(card),
        family_title=card.family_title,
        network=card.body_title,
        kind=kind.title,
        paper=kind.paper,
        classifier=card.classifier,
        input_size=card.frame.size_px,
    )


def classes(card: Card, text: str, limit: int) -> Classes:
    """What a text may mean among the classes of a card's family."""
    found = card.search(text, None)
    listed = [FoundClass.model_validate(asdict(each)) for each in found[:limit]]
    return Classes(family=card.family, total=len(found), classes=listed)


def method_info(name: str, method: CAMMethod) -> MethodInfo:
    """A method as /methods shows it."""
    return MethodInfo.model_validate({**vars(method), "name": name})


def methods() -> Methods:
    """All of METHODS."""
    return Methods(methods=[method_info(name, method) for name, method in METHODS.items()])
