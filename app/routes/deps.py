"""What every route that takes a photo does: read the form, ask the engine."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from fastapi import HTTPException, Request

from app.inference.engine import Answer, Engine, Examination, Findings, Inside, Search
from app.inference.queue import Alive
from app.routes.forms import DetectFields, FaithfulnessFields, FeaturesFields, Fields
from app.routes.uploads import FIELD_NAME, Upload, read_upload
from app.settings import Settings
from app.telemetry.observe import Trace
from cbam.explain.d_rise import check_question
from cbam.explain.features import resolve_features
from cbam.explain.question import Question, resolve
from cbam.model import Model

F = TypeVar("F", bound=Fields)


@dataclass(frozen=True)
class Asked(Generic[F]):
    """The fields that came with a photo, the models that they name, and these models' answer."""

    fields: F
    models: list[Model]
    answer: Answer


@dataclass(frozen=True)
class Changed(Asked[F]):
    """The same; `answer` is that of the models as they are, `after` that with changed gates."""

    after: Answer


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
    image, fields = await read(request, fields_type)
    return await ask_about(request, image, fields)


async def read(request: Request, fields_type: type[F]) -> tuple[bytes, F]:
    """The photo and the fields of a form. Raises HTTPException, ValidationError."""
    upload = await read_upload(request, settings_of(request))
    fields = fields_type.model_validate(fields_type.values(upload))
    return photo_of(upload), fields


def photo_of(upload: Upload) -> bytes:
    """The photo's bytes. Raises HTTPException 422 if none was sent."""
    if upload.image is None:
        raise HTTPException(
            422, f"No photo came. Send one as the form's file field '{FIELD_NAME}'."
        )
    return upload.image


async def ask_about(request: Request, image: bytes, fields: F) -> Asked[F]:
    """Ask the models that `fields` name about `image`."""
    models, question = _resolved(request, fields)
    return Asked(fields, models, await answer_to(request, image, question))


async def ask_changed(
    request: Request, image: bytes, fields: F, *, others: bool = True, before: bool = True
) -> Changed[F]:
    """Ask the models that `fields` name about `image`, as they are and with changed gates.

    Without `others`, only those whose gates are changed, see `Question.of_changed`. Without
    `before`, only with changed gates, for a caller who knows the rest: that stands on both sides.
    An open question is asked of all the same.
    """
    models, question = _resolved(request, fields)
    if not others:
        question = question.of_changed
        models = [model for model in models if model in question.models]
    if not before and not question.is_open:
        after = await answer_to(request, image, question)
        return Changed(fields, models, after, after)
    first, after = await engine_of(request).explain_changed(
        image, question, _alive(request), Trace.of(request.scope)
    )
    return Changed(fields, models, first, after)


def _resolved(request: Request, fields: Fields) -> tuple[list[Model], Question]:
    """The models that `fields` name, and the question. Only here, names become a question."""
    engine, top_k_max = engine_of(request), settings_of(request).top_k_max
    options = fields.options()
    if options.top_k > top_k_max:
        raise HTTPException(422, f"Field 'top_k' is {options.top_k}; at most {top_k_max}.")
    models = engine.chosen(fields.wanted(engine.families[engine.default_family]), fields.family)
    return models, resolve(models, options)


async def answer_to(request: Request, image: bytes, question: Question) -> Answer:
    """The models' answer."""
    return await engine_of(request).explain(
        image, question, _alive(request), Trace.of(request.scope)
    )


def _alive(request: Request) -> Alive:
    """Whether the client is still there; a question whose client has left is dropped."""

    async def alive() -> bool:
        return not await request.is_disconnected()

    return alive


async def ask_exam(request: Request) -> Examination:
    """Read a form with a photo and try the maps of the models that it names."""
    image, fields = await read(request, FaithfulnessFields)
    exam = fields.exam(settings_of(request).inference_timeout_s)
    models, question = _resolved(request, fields)
    return await engine_of(request).examine(
        image, models, question, exam, _alive(request), Trace.of(request.scope)
    )


async def ask_detectors(request: Request) -> Findings:
    """Read a form with a photo and ask the detectors that it names. Raises as its parts do."""
    image, fields = await read(request, DetectFields)
    engine, options = engine_of(request), fields.search()
    check_question(options)
    cards = engine.chosen_detectors(fields.models, fields.family)
    search = Search(cards, options, fields.hidden())
    return await engine.detect(image, search, _alive(request), Trace.of(request.scope))


async def look_inside(request: Request) -> Inside:
    """Read a form with a photo and look inside a block of the models. Raises as its parts do."""
    image, fields = await read(request, FeaturesFields)
    engine = engine_of(request)
    question = resolve_features(engine.chosen(fields.models, fields.family), fields.look())
    return await engine.look(image, question, _alive(request), Trace.of(request.scope))
