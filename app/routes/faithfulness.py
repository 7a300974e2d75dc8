"""Can a heat map be trusted? Curves, controls, maps of random networks, a box of the reader's."""

from dataclasses import asdict

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from app.inference.engine import Answer, Examination
from app.routes.answers import CHANGED, ImageInfo, Map, Target, Timing, View, image_info
from app.routes.api import PROBLEMS, built
from app.routes.deps import ask_exam
from app.routes.forms import FaithfulnessFields, body
from cbam.evaluate.examine import NOT_PROOF, Examined
from cbam.evaluate.faithfulness import Curves, Order
from cbam.evaluate.localisation import InBox
from cbam.evaluate.randomisation import Strip
from cbam.said import Said

faithfulness = APIRouter(prefix="/api/v1", tags=["v1"])


class TriedOrder(BaseModel):
    """The target's probability while pixels go, and while they come back, in one order."""

    deletion: list[float] = Field(description="from the whole photo to none of it")
    insertion: list[float] = Field(description="from none of the photo to all of it")
    deletion_area: float = Field(description="mean height of the curve (AUC): lower is better")
    insertion_area: float = Field(description="mean height of the curve (AUC): higher is better")
    overall: float = Field(description="insertion area minus deletion area: higher is better")


class TriedMap(BaseModel):
    """A map's curves beside those of orders that know nothing of the answer."""

    steps: int
    fill: str = Field(description="what stood where pixels were taken away")
    shares: list[float] = Field(description="share of the pixels at each point of the curves")
    map: TriedOrder
    centre: TriedOrder = Field(description="pixels in the order of their distance to the centre")
    random: list[TriedOrder] = Field(
        description="random maps as coarse as the real one; insertion is of each read backwards"
    )
    deletion_beats: int = Field(description="random orders with a larger deletion area")
    insertion_beats: int = Field(description="random orders with a smaller insertion area")
    random_overall: list[float] = Field(
        description="insertion area of each random order minus the deletion area of the next one: "
        "what `overall` is of an order that knows nothing"
    )
    evidence: bool = Field(description="false: the map is zero, and its order a random one")


class RandomStage(BaseModel):
    """The map of the network whose weights are random from the head down to a stage."""

    stage: str = Field(description="the modules that became random last")
    map: Map
    rank_correlation: float | None = Field(
        description="Spearman's, with the trained network's map; null: one of the two is flat"
    )
    ssim: float = Field(description="structural similarity of the two maps as pictures")


class Randomisation(BaseModel):
    """Whether the map depends on the weights. The centre's numbers are a control."""

    stages: list[RandomStage] = Field(description="from the head to the stem")
    centre_rank_correlation: float | None = Field(
        description="the same of a map that is hottest in the centre, whatever the photo"
    )
    centre_ssim: float


class ThresholdIoU(BaseModel):
    """Box around the largest region above a share of the maximum, against the drawn one."""

    threshold: float
    iou: float


class BoxCheck(BaseModel):
    """How a map and the drawn box agree."""

    hit: bool = Field(description="the map's hottest point lies in the box")
    energy: float = Field(description="share of the map inside the box")
    ious: list[ThresholdIoU]
    centre_hit: bool = Field(description="the centre of the view lies in the box")
    uniform_energy: float = Field(description="energy of a map that is the same everywhere")
    uniform_iou: float = Field(description="IoU of a box around the whole view")


class ModelFaithfulness(BaseModel):
    """What came out for one model."""

    model: str
    target_probability: float
    layer: str
    view: View
    map: Map = Field(description="the heat map that was tried")
    curves: TriedMap | None = Field(description="null: they were left out")
    randomisation: Randomisation | None = Field(description="null: it was not asked for")
    box: BoxCheck | None = Field(description="null: no box was sent")
    verdict: str = Field(description="what it comes to, in plain sentences; no proof")
    said: list[Said] = Field(description="these sentences with their numbers, for other languages")
    timing_ms: Timing
    changed: dict[str, str] = CHANGED


class Faithfulness(BaseModel):
    """Answer of /faithfulness."""

    image: ImageInfo
    target: Target
    method: str
    versus: list[Target] = Field(description="classes that the target was contrasted with")
    note: str = Field(description="what these tests cannot say")
    results: list[ModelFaithfulness]


@faithfulness.post(
    "/faithfulness",
    response_model=Faithfulness,
    responses=PROBLEMS,
    openapi_extra=body(FaithfulnessFields),
)
async def try_maps(request: Request) -> Response:
    """Deletion and insertion curves of each model's map, beside random orders and the centre.

    On demand also maps of networks with random weights, and how the map agrees with a box. It takes
    dozens of passes a model, in slices between other requests; only a few such requests run at
    once.
    """
    examination = await ask_exam(request)
    return await built(request, lambda: answered(examination))


def answered(examination: Examination) -> Faithfulness:
    """The answer of /faithfulness."""
    answer = examination.answer
    first = answer.explanations[0]

    def target(item: object) -> Target:
        return Target.model_validate(item, from_attributes=True)

    return Faithfulness(
        image=image_info(answer),
        target=target(first.target),
        method=first.method,
        versus=[target(each) for each in first.versus],
        note=NOT_PROOF,
        results=[_of_model(each, answer) for each in examination.examined],
    )


def _of_model(examined: Examined, answer: Answer) -> ModelFaithfulness:
    explanation = examined.explanation
    return ModelFaithfulness(
        model=explanation.model,
        target_probability=explanation.target.probability,
        layer=explanation.layer,
        view=View(**asdict(explanation.view)),
        map=Map.of(explanation.heatmap),
        curves=None if examined.curves is None else _curves(examined.curves),
        randomisation=None if examined.strip is None else _randomisation(examined.strip),
        box=None if examined.box is None else _box(examined.box),
        verdict=examined.verdict,
        said=examined.said,
        timing_ms=Timing.model_validate({**answer.waits, **explanation.timing_ms}),
        changed=dict(explanation.changed),
    )


def _curves(found: Curves) -> TriedMap:
    return TriedMap(
        steps=found.trial.steps,
        fill=found.trial.fill,
        shares=found.trial.shares.tolist(),
        map=_order(found.map),
        centre=_order(found.centre),
        random=[_order(each) for each in found.random],
        deletion_beats=found.deletion_beats,
        insertion_beats=found.insertion_beats,
        random_overall=list(found.random_overall),
        evidence=found.evidence,
    )


def _order(order: Order) -> TriedOrder:
    return TriedOrder(
        deletion=order.deletion.tolist(),
        insertion=order.insertion.tolist(),
        deletion_area=order.deletion_area,
        insertion_area=order.insertion_area,
        overall=order.overall,
    )


def _randomisation(found: Strip) -> Randomisation:
    return Randomisation(
        stages=[
            RandomStage(stage=each.stage, map=Map.of(each.map), **asdict(each.similarity))
            for each in found.stages
        ],
        centre_rank_correlation=found.centre.rank_correlation,
        centre_ssim=found.centre.ssim,
    )


def _box(found: InBox) -> BoxCheck:
    ious = [ThresholdIoU(threshold=at, iou=iou) for at, iou in found.ious.items()]
    return BoxCheck.model_validate({**asdict(found), "ious": ious})
