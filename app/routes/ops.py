"""Routes for operators: health, readiness, metrics and documentation."""

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from app.routes.deps import engine_of, ready_engine
from app.words import headers, language_of, words

ops = APIRouter(include_in_schema=False)


@ops.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "alive"}


@ops.get("/readyz")
async def readyz(request: Request) -> dict[str, object]:
    """The models are loaded and warm; 503 before that and while the service drains."""
    return {"status": "ready", "models": list(ready_engine(request).models)}


@ops.get("/metrics")
async def metrics(request: Request) -> Response:
    """What was counted since the start, for Prometheus."""
    text = generate_latest(engine_of(request).metrics.registry)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


@ops.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    """The API's documentation, all of it served from here."""
    root = request.scope.get("root_path", "").rstrip("/")
    language = language_of(request)
    page = request.app.state.templates.get_template("docs.html")
    html = page.render(root=root, t=words(language))
    return HTMLResponse(
        html, headers={**headers(request, language), "Vary": "Accept-Language, Cookie"}
    )
