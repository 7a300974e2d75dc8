"""The one place where models run: a bounded queue in front of one model thread."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import HTTPException
from PIL import Image

from app.settings import Settings
from cbam.cards import weights_bytes
from cbam.errors import BadCard, UnknownName
from cbam.explain.engine import Options, check, explain
from cbam.explain.explanation import Explanation
from cbam.images import decode
from cbam.model import Model, cards, load

log = logging.getLogger("cbam_lens")

Alive = Callable[[], Awaitable[bool]]


@dataclass
class _Job:
    """One request's turn with the models."""

    call: Callable[[], list[Explanation]]
    alive: Alive
    answer: "asyncio.Future[tuple[list[Explanation], float]]"
    queued_at: float


def _give_up(job: _Job) -> None:
    """End a job that will not run."""
    if not job.answer.done():
        job.answer.set_exception(HTTPException(503, "The request was given up before its turn."))


def _deliver(job: _Job, queue_ms: float, ran: "asyncio.Future[list[Explanation]]") -> None:
    """Hand a job's result, or its failure, to whoever waits; a failure is this one job's alone."""
    error = ran.exception()
    if job.answer.done():
        return  # it waited too long
    if error is not None:
        job.answer.set_exception(error)
    else:
        job.answer.set_result((ran.result(), queue_ms))


@dataclass(frozen=True)
class Answer:
    """Explanations, and what the request waited for beside the models, in milliseconds."""

    explanations: list[Explanation]
    waits: dict[str, float]  # "decode", "queue"


class Engine:
    """Models of a service, and the queue before them.

    Started and stopped by the app's lifespan; `ready` once every model is loaded and warm.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.cards = cards(settings.models_folder)
        if not self.cards:
            raise BadCard(f"No models in {settings.models_folder or 'the package'}.")
        for card in self.cards.values():
            weights_bytes(card)  # damaged weights end the start, not the first request
        self.families: dict[str, list[str]] = {}
        for card in self.cards.values():
            self.families.setdefault(card.family, []).append(card.name)
        if settings.family and settings.family not in self.families:
            raise UnknownName.of("family", settings.family, self.families)
        self.default_family = settings.family or next(iter(self.families))
        self.models: dict[str, Model] = {}
        self.ready = False
        self.problem = ""  # why it will never be ready
        self._queue: asyncio.Queue[_Job] = asyncio.Queue(settings.queue_length)
        self._model_thread = ThreadPoolExecutor(1, "model")
        self._picture_threads = ThreadPoolExecutor(settings.decode_threads, "pictures")
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin loading, and begin to serve the queue once that is done."""
        self._tasks = [asyncio.create_task(self._serve())]

    async def stop(self) -> None:
        """Finish what runs, refuse what waits."""
        self.ready = False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while not self._queue.empty():
            _give_up(self._queue.get_nowait())
        for threads in (self._model_thread, self._picture_threads):
            await asyncio.to_thread(threads.shutdown)  # waits for what runs

    def chosen(self, names: Sequence[str], family: str | None = None) -> list[Model]:
        """The models of these names; of the family, by default the default one, if there are none.

        Raises UnknownName, and HTTPException 503 while loading.
        """
        if family and family not in self.families:
            raise UnknownName.of("family", family, self.families)
        for name in names:
            if name not in self.cards:
                raise UnknownName.of("model", name, self.cards)
        if not self.ready:
            raise self._busy(self.problem or "The models are being loaded.")
        wanted = list(dict.fromkeys(names)) or self.families[family or self.default_family]
        return [self.models[name] for name in wanted]

    async def explain(
        self, data: bytes, models: Sequence[Model], options: Options, alive: Alive
    ) -> Answer:
        """Decode an upload and ask the models about it.

        Raises BadImage, UnknownName, and HTTPException 503 (queue full) or 504 (too slow).
        """
        check(models, options)  # before any work
        if self._queue.full():
            raise self._busy("Too many requests wait for the models.")
        started = time.perf_counter()
        photo = await self.in_picture_thread(self._decode, data)
        decoded = time.perf_counter()
        loop = asyncio.get_running_loop()
        job = _Job(lambda: explain(models, photo, options), alive, loop.create_future(), decoded)
        try:
            self._queue.put_nowait(job)
        except asyncio.QueueFull:
            raise self._busy("Too many requests wait for the models.") from None
        try:
            async with asyncio.timeout(self.settings.inference_timeout_s):
                explanations, queue_ms = await job.answer
        except TimeoutError:
            raise HTTPException(
                504,
                f"No answer within {self.settings.inference_timeout_s:g} s. Try again, or ask "
                "fewer models or a cheaper method.",
            ) from None
        return Answer(explanations, {"decode": (decoded - started) * 1000, "queue": queue_ms})

    async def in_picture_thread(self, call: Callable[..., Any], *args: Any) -> Any:
        """Run a call that decodes or encodes pictures, off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._picture_threads, call, *args)

    def _decode(self, data: bytes) -> Image.Image:
        return decode(
            data,
            max_pixels=round(self.settings.max_megapixels * 1e6),
            max_side_px=self.settings.max_side_px,
        )

    def _busy(self, reason: str) -> HTTPException:
        seconds = self.settings.retry_after_s
        return HTTPException(
            503, f"{reason} Try again in {seconds} s.", headers={"Retry-After": str(seconds)}
        )

    def _load(self) -> None:
        """Load and warm every model. Runs in the model thread."""
        blank = Image.new("RGB", (256, 256), "grey")
        for card in self.cards.values():
            model = load(card.folder)
            explain([model], blank)
            self.models[card.name] = model

    async def _serve(self) -> None:
        """Load the models, then answer one job after the other."""
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._model_thread, self._load)
        except Exception as error:
            self.problem = str(error)
            log.critical("The models cannot be loaded: %s", error)
            return
        self.ready = True
        while True:
            job = await self._queue.get()
            try:
                wanted = not job.answer.done() and await job.alive()
            except asyncio.CancelledError:
                _give_up(job)
                raise
            if not wanted:
                _give_up(job)  # the client went, or waited too long
                continue
            queue_ms = (time.perf_counter() - job.queued_at) * 1000
            running = loop.run_in_executor(self._model_thread, job.call)
            try:
                await asyncio.wait([running])
            finally:  # when the service stops meanwhile, the running answer is still delivered
                running.add_done_callback(partial(_deliver, job, queue_ms))
