"""The service as one function: create_app(settings) -> FastAPI. Nothing happens at import."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path

import fastapi_offline
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.types import ASGIApp

from app import problems
from app.edge.access import Access
from app.edge.guard import Guard
from app.inference.engine import Engine
from app.oip.routes import oip
from app.routes.answers import detector_info
from app.routes.api import api, lists
from app.routes.bundle import bundles
from app.routes.faithfulness import faithfulness
from app.routes.inside import inside
from app.routes.live import live
from app.routes.ops import ops
from app.routes.pages import gallery, pages, read_paper
from app.settings import Settings
from app.telemetry import logs
from app.telemetry.observe import Observe
from app.templating import bundled, templates
from cbam import __version__


class Guarded(FastAPI):
    """An app that sends every answer through Guard, even the answer to an unexpected error."""

    def build_middleware_stack(self) -> ASGIApp:
        settings: Settings = self.state.settings
        inner = super().build_middleware_stack()
        guarded = Guard(inner, settings.root_path, settings.trusted_hosts)
        return Observe(guarded, self.state.engine.metrics)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The whole service. Raises CBAMLensError if its models' cards cannot be used."""
    settings = settings or Settings()
    logs.configure(settings.log_style)
    engine = Engine(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
        await engine.start()
        yield
        await engine.stop()

    app = Guarded(
        title="CBAM Lens",
        summary="See what attention changes.",
        description="Plain, SE and CBAM networks side by side: what each says, where each looked, "
        "and what its gates did. Errors are `application/problem+json` (RFC 9457).",
        version=__version__,
        license_info={"name": "MIT", "identifier": "MIT"},
        docs_url=None,  # we serve our own page; FastAPI's loads its scripts from a CDN
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.settings = settings
    app.state.engine = engine
    app.state.access = Access(settings)
    app.state.draining = False  # whether the service is stopping and only finishes its requests
    app.state.examples = {}  # what the page shows before a photo is chosen, by family
    app.state.static = bundled("static")
    app.state.gallery = gallery(app.state.static)
    app.state.detectors = [detector_info(card) for card in engine.detector_cards.values()]
    app.state.paper = read_paper(app.state.static)
    app.state.templates = templates()
    problems.install(app)
    app.include_router(pages)
    app.include_router(lists)
    for questions in (api, inside, faithfulness, bundles):
        app.include_router(questions, dependencies=app.state.access.dependencies)
    app.include_router(live)
    app.include_router(oip)
    app.include_router(ops)
    app.mount("/static", StaticFiles(directory=app.state.static), "static")
    swagger = Path(str(files(fastapi_offline))) / "static"
    app.mount("/swagger", StaticFiles(directory=swagger), "swagger")
    return app
