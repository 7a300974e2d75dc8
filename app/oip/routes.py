"""The Open Inference Protocol, version 2: what clients of KServe, Triton and MLServer speak.

    GET  /v2                          name and version
    GET  /v2/health/live, /ready      for probes
    GET  /v2/models/NAME              inputs and outputs, with their shapes
    GET  /v2/models/NAME/ready
    POST /v2/models/NAME/infer        one image -> probabilities (1, classes), heatmap (1, h, w)

`NAME` may be followed by `/versions/VERSION`. The image is a tensor called "image": either BYTES of
shape [1], which hold a photo's file as base64 text, or RGB pixels [1, H, W, 3], UINT8 or
FP32 in [0, 1]. Its data may also follow the JSON as raw bytes; a file is then sent without base64.
Answers are always JSON. Besides the two outputs above there are "labels" and every gate's map, such
as "layer4.1.spatial"; a request that names none under "outputs" gets all of them. "parameters" are
`target`, `method` and `layer`, as in /api/v1/explain; null counts as absent, and others, such as
hints for other servers, are ignored.

    curl localhost:8000/v2/models/resnet50-cbam-imagenet/infer -d '{"inputs": [{"name":
        "image", "shape": [1], "datatype": "BYTES", "data": ["'$(base64 -w0 photo.jpg)'"]}]}'
"""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from app.edge.access import admit
from app.oip import tensors as protocol
from app.problems import refusal
from app.routes.deps import answer_to, engine_of, ready_engine, settings_of
from app.routes.uploads import read_body
from cbam import __version__
from cbam.errors import CBAMLensError
from cbam.explain.question import Options, resolve
from cbam.model import Model


class _Route(APIRoute):
    """Errors in the protocol's format: `{"error": "what came, what would work"}`."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except protocol.BadRequest as error:
                return JSONResponse({"error": str(error)}, 400)
            except (HTTPException, CBAMLensError) as error:
                refused = refusal(request, error)
                return JSONResponse({"error": refused.detail}, refused.status, refused.headers)

        return handled


oip = APIRouter(
    prefix="/v2", route_class=_Route, dependencies=[Depends(admit)], include_in_schema=False
)


@oip.get("")
async def server() -> protocol.Server:
    """The server's name and version."""
    return protocol.Server(name="cbam-lens", version=__version__, extensions=[])


@oip.get("/health/live")
async def live() -> dict[str, bool]:
    """The process answers."""
    return {"live": True}


@oip.get("/health/ready")
async def ready(request: Request) -> dict[str, bool]:
    """All models are loaded and warm; 503 before that and while the service drains.

    The specification calls the value "live"; servers and clients in use call it "ready".
    """
    ready_engine(request)
    return {"live": True, "ready": True}


@oip.get("/models/{name}/ready")
@oip.get("/models/{name}/versions/{version}/ready")
async def model_ready(request: Request, name: str, version: str = "") -> dict[str, Any]:
    """This model is loaded and warm."""
    return {"name": _model(request, name, version).name, "ready": True}


@oip.get("/models/{name}")
@oip.get("/models/{name}/versions/{version}")
async def model_metadata(request: Request, name: str, version: str = "") -> protocol.ModelMetadata:
    """What goes into this model and what comes out."""
    return protocol.metadata(_model(request, name, version))


@oip.post("/models/{name}/infer")
@oip.post("/models/{name}/versions/{version}/infer")
async def infer(request: Request, name: str, version: str = "") -> Response:
    """One model's answer about one image."""
    model = _model(request, name, version)
    engine = engine_of(request)
    kind = request.headers.get("content-type", "").lower()
    if kind.startswith(("multipart/", "image/")):
        raise HTTPException(
            415, f"The body is '{kind[:80]}'. Send JSON; forms are for /api/v1/explain."
        )
    body = await read_body(request, settings_of(request))
    asked, photo = await engine.in_picture_thread(
        protocol.parse, body, request.headers.get(protocol.JSON_LENGTH)
    )
    names = protocol.wanted(asked, model)
    gates = not {protocol.PROBABILITIES, protocol.HEATMAP, protocol.LABELS}.issuperset(names)
    options = Options(
        asked.parameters.target,
        asked.parameters.method,
        asked.parameters.layer,
        top_k=len(model.card.labels),
        attention=gates,
    )
    answer = await answer_to(request, photo, resolve([model], options))
    json = await engine.in_picture_thread(
        protocol.response, asked, model, names, answer.explanations[0]
    )
    return Response(json, media_type="application/json")


def _model(request: Request, name: str, version: str) -> Model:
    """The model of this name. Raises HTTPException 404 (no such model or version), 503."""
    engine = engine_of(request)
    if name not in engine.cards:
        raise HTTPException(
            404, f"There is no model '{name[:80]}'. Known: {', '.join(engine.cards)}."
        )
    (model,) = engine.chosen([name])
    if version not in ("", protocol.version(model)):
        raise HTTPException(
            404,
            f"'{name}' has no version '{version[:80]}'. There is '{protocol.version(model)}'.",
        )
    return model
