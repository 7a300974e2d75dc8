"""The REST API, version 1."""

import io
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from PIL import Image
from pydantic import BaseModel

from app.problems import STATUSES, Problem
from app.routes import answers
from app.routes.deps import ask, ask_changed, ask_detectors, engine_of, read, settings_of
from app.routes.forms import (
    AttentionFields,
    CompareFields,
    DetectFields,
    ExplainFields,
    HeatmapFields,
    InterveneFields,
    PredictFields,
    absent,
    body,
)
from cbam import render, sheets
from cbam.cards.search import LIMIT
from cbam.errors import UnknownName
from cbam.images.formats import TITLES

PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {
        "description": status.description,
        "content": {"application/problem+json": {"schema": Problem.model_json_schema()}},
    }
    for code, status in STATUSES.items()
    if status.description
}
HIDDEN = ("api_keys", "trusted_hosts", "forwarded_allow_ips")  # settings that clients must not see
PNG: dict[str, Any] = {"description": "a picture", "content": {"image/png": {}}}
lists = APIRouter(prefix="/api/v1", tags=["v1"])  # lists: open to everybody
api = APIRouter(prefix="/api/v1", tags=["v1"])  # questions to the models: guarded in create_app


async def built(request: Request, build: Callable[[], BaseModel | Image.Image]) -> Response:
    """The result of `build` as JSON or as a PNG without metadata, made off the event loop."""

    def response() -> Response:
        made = build()
        if isinstance(made, BaseModel):
            return Response(made.model_dump_json(), media_type="application/json")
        buffer = io.BytesIO()
        made.save(buffer, "PNG", compress_level=1)
        return Response(buffer.getvalue(), media_type="image/png")

    made: Response = await engine_of(request).in_picture_thread(response)
    return made


@lists.get("/models", responses={503: PROBLEMS[503]})
async def models(request: Request) -> answers.Models:
    """Families and models: their classes, measured quality, training data and licence."""
    engine = engine_of(request)
    loaded = engine.chosen(list(engine.cards))
    return answers.Models(
        families=[
            answers.FamilyInfo(
                name=name,
                title=engine.cards[members[0]].family_title,
                default=name == engine.default_family,
                models=members,
            )
            for name, members in engine.families.items()
        ],
        models=[answers.model_info(model) for model in loaded],
        detectors=request.app.state.detectors,
    )


@lists.get(
    "/classes", response_model=answers.Classes, responses={code: PROBLEMS[code] for code in (422,)}
)
async def classes(
    request: Request,
    family: Annotated[
        str,
        Query(max_length=200, description="a family; default: the default one"),
        absent(""),
    ] = "",
    q: Annotated[
        str,
        Query(
            max_length=200,
            description="part of a class's label or synonym, an everyday word, or a WordNet id; "
            "case, accents and punctuation do not matter; empty: nothing is found",
        ),
        absent(""),
    ] = "",
    limit: Annotated[
        int, Query(ge=1, le=100, description="the largest number of results"), absent(LIMIT)
    ] = LIMIT,
) -> Response:
    """Search a family's classes by name, synonym, everyday word or WordNet id, best match first."""
    engine = engine_of(request)
    name = family or engine.default_family
    if name not in engine.families:
        raise UnknownName.of("family", name, engine.families)
    card = engine.cards[engine.families[name][0]]
    return await built(request, lambda: answers.classes(card, q, limit))


@lists.get("/methods")
async def methods() -> answers.Methods:
    """CAM methods: what each one's map means and costs."""
    return answers.methods()


@lists.get("/queue")
async def queue(request: Request) -> answers.Queue:
    """How many questions wait for the models at this moment, and whether these are loaded."""
    engine = engine_of(request)
    return answers.Queue(
        waiting=engine.queue.depth,
        length=engine.settings.queue_length,
        loading=engine.loading,
    )


@lists.get("/limits")
async def limits(request: Request) -> dict[str, Any]:
    """What the service accepts, according to its settings."""
    hidden = {"models_folder", "family", "root_path", *HIDDEN}
    return {"formats": TITLES, **settings_of(request).model_dump(exclude=hidden)}


@api.post(
    "/predict",
    response_model=answers.Predicted,
    responses=PROBLEMS,
    openapi_extra=body(PredictFields),
)
async def predict(request: Request) -> Response:
    """Each model's most probable classes for a photo."""
    asked = await ask(request, PredictFields)
    return await built(request, lambda: answers.predicted(asked.answer))


@api.post(
    "/explain",
    response_model=answers.Explained,
    responses=PROBLEMS,
    openapi_extra=body(ExplainFields),
)
async def explain(request: Request) -> Response:
    """Predictions, heat maps for one class, and gate maps, model by model."""
    asked = await ask(request, ExplainFields)
    return await built(request, lambda: answers.explained(asked.answer))


@api.post(
    "/intervene",
    response_model=answers.Intervened,
    responses=PROBLEMS,
    openapi_extra=body(InterveneFields),
)
async def intervene(request: Request) -> Response:
    """Answers before and after gates were changed. The trained networks are not retrained."""
    image, fields = await read(request, InterveneFields)
    asked = await ask_changed(request, image, fields)
    return await built(request, lambda: answers.intervened(asked.answer, asked.after))


@api.post(
    "/heatmap",
    response_class=Response,
    responses={**PROBLEMS, 200: PNG},
    openapi_extra=body(HeatmapFields),
)
async def heatmap(request: Request) -> Response:
    """One model's heat map as a PNG: over the photo, bare in colour, or 8-bit grey."""
    asked = await ask(request, HeatmapFields)
    explanation, fields = asked.answer.explanations[0], asked.fields
    view = explanation.view
    width, height = view.x1 - view.x0, view.y1 - view.y0

    def paint() -> Image.Image:
        if fields.raw:
            return render.grey(explanation.heatmap, width, height)
        if not fields.overlay:
            return render.coloured(explanation.heatmap, width, height)
        return explanation.overlay(fields.opacity)

    return await built(request, paint)


@api.post(
    "/compare",
    response_class=Response,
    responses={**PROBLEMS, 200: PNG},
    openapi_extra=body(CompareFields),
)
async def compare(request: Request) -> Response:
    """All models of a family in one PNG, as in the paper's figure."""
    asked = await ask(request, CompareFields)
    return await built(request, lambda: sheets.compare_sheet(asked.answer.explanations))


@api.post(
    "/attention",
    response_model=answers.Attended,
    responses={**PROBLEMS, 200: {"content": {"image/png": {}}}},
    openapi_extra=body(AttentionFields),
)
async def attention(request: Request) -> Response:
    """The gates of every block: JSON, or one PNG sheet with `Accept: image/png`."""
    asked = await ask(request, AttentionFields)
    explanations = asked.answer.explanations
    if "image/png" not in request.headers.get("accept", ""):
        return await built(request, lambda: answers.attended(asked.answer))
    shown = [item for item in explanations if item.attention] or explanations
    return await built(request, lambda: sheets.attention_sheets(shown))


@api.post(
    "/detect",
    response_model=answers.DetectedBoxes,
    responses=PROBLEMS,
    openapi_extra=body(DetectFields),
)
async def detect(request: Request) -> Response:
    """Boxes of each detector of a family, heat maps of some of them, and gate maps."""
    findings = await ask_detectors(request)
    return await built(request, lambda: answers.detected(findings))
