"""What every route that takes a photo does: read the form, ask the engine."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from fastapi import HTTPException, Request

from app.inference.engine import Answer, Engine, Findings, Search
from app.routes.forms import DetectFields, Fields
from app.routes.uploads import FIELD_NAME, Upload, read_upload
from app.settings import Settings
from app.telemetry.observe import Trace
from cbam.explain.detection import check_names
from cbam.explain.question import Question, resolve
from cbam.model import Model

F = TypeVar("F", bound=Fields)


@dataclass(frozen=True)
class Asked(Generic[F]):
    """The fields that came with a photo, the models that they name, and these models' answer."""

    fields: F
    models: list[Model]
    answer: Answer


def engine_of(request: Request) -> Engine:
    """The app's engine."""
    engine: Engine = request.app.state.engine
    return engine


def settings_of(request: Request) -> Settings:
    """The app's settings."""
    settings: Settings = request.app.state.settings
    return settings


def ready_engine(request: Request) -> Engine:
    """The app's engine, its models loaded and warm.

    Raises HTTPException 503 before that, and while the service drains.
    """
    if request.app.state.draining:
        raise HTTPException(503, "The service is stopping.")
    engine = engine_of(request)
    engine.chosen([])
    return engine


async def ask(request: Request, fields_type: type[F]) -> Asked[F]:
    """Read a form of `fields_type` with a photo and ask the models. Raises as its parts do."""
    upload = await read_upload(request, settings_of(request))
    fields = fields_type.model_validate(fields_type.values(upload))
    return await ask_about(request, photo_of(upload), fields)


def photo_of(upload: Upload) -> bytes:
    """The photo's bytes. Raises HTTPException 422 if none was sent."""
    if upload.image is None:
        raise HTTPException(
            422, f"No photo came. Send one as the form's file field '{FIELD_NAME}'."
        )
    return upload.image


async def ask_about(request: Request, image: bytes, fields: F) -> Asked[F]:
    """Ask the models that `fields` name about `image`. Only here, names become a question."""
    engine, top_k_max = engine_of(request), settings_of(request).top_k_max
    options = fields.options()
    if options.top_k > top_k_max:
        raise HTTPException(422, f"Field 'top_k' is {options.top_k}; at most {top_k_max}.")
    models = engine.chosen(fields.wanted(engine.families[engine.default_family]), fields.family)
    return Asked(fields, models, await answer_to(request, image, resolve(models, options)))


async def answer_to(request: Request, image: bytes, question: Question) -> Answer:
    """The models' answer; a question whose client has left is dropped."""

    async def alive() -> bool:
        return not await request.is_disconnected()

    return await engine_of(request).explain(image, question, alive, Trace.of(request.scope))


async def ask_detectors(request: Request) -> Findings:
    """Read a form with a photo and ask the detectors that it names. Raises as its parts do."""
    upload = await read_upload(request, settings_of(request))
    fields = DetectFields.model_validate(DetectFields.values(upload))
    engine, options = engine_of(request), fields.search()
    check_names(options)
    search = Search(engine.chosen_detectors(fields.models, fields.family), options)

    async def alive() -> bool:
        return not await request.is_disconnected()

    return await engine.detect(photo_of(upload), search, alive, Trace.of(request.scope))
