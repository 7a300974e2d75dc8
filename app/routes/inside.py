"""POST /api/v1/features: inside one block, before and after its gates."""

from dataclasses import asdict

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from app.inference.engine import Inside
from app.routes.answers import CHANGED, GateInfo, ImageInfo, Map, Timing, View
from app.routes.api import PROBLEMS, built
from app.routes.deps import look_inside
from app.routes.forms import FeaturesFields, body
from cbam.explain.explanation import Floats
from cbam.explain.features import ChannelSeen, Features, GateSeen
from cbam.explain.gate_words import OPEN, SHUT, Judgement, State
from cbam.said import Said

inside = APIRouter(prefix="/api/v1", tags=["v1"])  # guarded in create_app

Values = list[float] | Map  # one value per channel, or a map


class JudgementInfo(BaseModel):
    """What a gate does to this photo, against what it does to other photos."""

    state: State
    sentence: str
    said: Said = Field(description="the sentence with its numbers, for other languages")
    open: float | None = Field(
        description=f"share of its values of at least {OPEN:g}; null: it does not multiply"
    )
    shut: float | None = Field(description=f"share of its values of at most {SHUT:g}")
    spread: float = Field(description="standard deviation of its values in this photo")
    usual_spread: float | None = Field(description="the same on average over validation photos")
    moved: float | None = Field(
        description="mean distance from its mean over validation photos, in units of its movement "
        "from photo to photo; null: not measured"
    )

    @classmethod
    def of(cls, judgement: Judgement) -> "JudgementInfo":
        return cls(sentence=judgement.sentence, **vars(judgement))


class PathInfo(BaseModel):
    """What one path of a gate sees, and what it adds to the logits."""

    path: str = Field(description="avg, max or learned")
    pooled: Values = Field(description="the features as this path sees them")
    hidden: list[float] | None = Field(description="a channel gate's hidden units, behind the ReLU")
    logits: Values = Field(description="the map is sigmoid(sum of the paths' logits + bias)")
    window: list[list[float]] | None = Field(
        description="a spatial gate's weights for this plane, norm folded in"
    )


class GateDetail(BaseModel):
    """One gate at work."""

    name: str
    kind: GateInfo
    map: Values = Field(description="what multiplies the features, or is added to them")
    judgement: JudgementInfo | None = Field(description="null: this gate was changed")
    paths: list[PathInfo] = Field(description="empty: this kind of gate does not say")
    bias: float
    dilation: int = Field(description="the window takes every so many-th place")
    shut: Map | None = Field(
        description=f"a spatial gate's places: 1 where it lets at most {SHUT:g} through; else null"
    )


class ChannelDetail(BaseModel):
    """One channel of the block."""

    index: int
    before: Map = Field(description="before the gates")
    after: Map = Field(description="behind them")
    weights: list[float] | None = Field(
        description="how each hidden unit of the channel gate counts for this channel"
    )
    bias: float | None = Field(description="what each path of the channel gate adds by itself")


class ModelFeatures(BaseModel):
    """One model's features in one block."""

    model: str
    block: str
    view: View
    channel_count: int = Field(description="channels of the block")
    gates: list[GateDetail]
    channels: list[ChannelDetail]
    changed: dict[str, str] = CHANGED
    timing_ms: Timing


class Looked(BaseModel):
    """Answer of /features."""

    image: ImageInfo
    results: list[ModelFeatures] = Field(description="models without gates are left out")


@inside.post(
    "/features",
    response_model=Looked,
    responses=PROBLEMS,
    openapi_extra=body(FeaturesFields),
)
async def features(request: Request) -> Response:
    """Channels of a block before and after its gates, and how each gate came to its values."""
    found = await look_inside(request)
    return await built(request, lambda: looked(found))


def looked(inside: Inside) -> Looked:
    """The answer of /features."""
    width, height = inside.found[0].photo.size
    return Looked(
        image=ImageInfo(width=width, height=height, sha256=inside.sha256),
        results=[_features(each, inside) for each in inside.found],
    )


def _features(each: Features, inside: Inside) -> ModelFeatures:
    return ModelFeatures(
        model=each.model,
        block=each.block,
        view=View(**asdict(each.view)),
        channel_count=each.channel_count,
        gates=[_gate(gate) for gate in each.gates],
        channels=[_channel(channel) for channel in each.channels],
        changed=dict(each.changed),
        timing_ms=Timing.model_validate({**inside.waits, **each.timing_ms}),
    )


def _gate(gate: GateSeen) -> GateDetail:
    return GateDetail(
        name=gate.name,
        kind=GateInfo(**asdict(gate.map.kind)),
        map=_values(gate.map.values),
        judgement=JudgementInfo.of(gate.judgement) if gate.judgement else None,
        paths=[
            PathInfo(
                path=name,
                pooled=_values(path.pooled),
                hidden=None if path.hidden is None else _listed(path.hidden),
                logits=_values(path.logits),
                window=[_listed(row) for row in gate.window[name]] if gate.window else None,
            )
            for name, path in gate.paths.items()
        ],
        bias=gate.bias,
        dilation=gate.dilation,
        shut=None if gate.shut is None else Map.of(gate.shut),
    )


def _channel(channel: ChannelSeen) -> ChannelDetail:
    return ChannelDetail(
        index=channel.index,
        before=Map.of(channel.before),
        after=Map.of(channel.after),
        weights=None if channel.weights is None else _listed(channel.weights),
        bias=channel.bias,
    )


def _values(values: Floats) -> Values:
    return _listed(values) if values.ndim == 1 else Map.of(values)


def _listed(values: Floats) -> list[float]:
    return [round(float(value), 5) for value in np.asarray(values)]
