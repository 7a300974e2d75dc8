"""The one place where models run: it loads them, takes questions and returns answers."""

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Generator, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from PIL import Image

from app.inference.cpu import available_cpus, cpu_quota, model_threads
from app.inference.errors import Busy, Loading
from app.inference.memory import return_freed_memory
from app.inference.queue import Alive, Batcher, Dropped, Full, Late
from app.settings import Settings
from app.telemetry.metrics import Metrics
from app.telemetry.observe import Trace
from cbam.backends.choose import AUTO, BACKENDS, EAGER, check_backend
from cbam.cards.card import weights_bytes
from cbam.cards.detector import DetectorCard
from cbam.cards.families import available, by_family, detectors
from cbam.detector import Detector, open_detector
from cbam.errors import BadCard, NotAvailable, TooSlow, UnknownName
from cbam.evaluate.examine import Exam, Examined, check_exam, examine_all
from cbam.explain.d_rise import DRiseOptions, d_rise_all
from cbam.explain.detection import Detected, DetectOptions
from cbam.explain.explainer import answer, answer_many, merged
from cbam.explain.explanation import Explanation
from cbam.explain.features import FeatureQuestion, Features, look_many
from cbam.explain.grad_cam_package import package
from cbam.explain.interventions import Changes
from cbam.explain.question import Layers, Options, Question, resolve
from cbam.images.decode import decode
from cbam.images.formats import format_of
from cbam.model import Model, load
from cbam.slices import Done, Work, next_slice

log = logging.getLogger("cbam_lens")
T = TypeVar("T")


@dataclass(frozen=True)
class Search:
    """A question to detectors."""

    cards: tuple[DetectorCard, ...]
    options: DetectOptions
    hidden: DRiseOptions | None = None  # how to hide the photo, for D-RISE: a long question


Asked = tuple[Question | Search | FeatureQuestion | Work[Any], Image.Image]  # of Work, one slice
Further = Callable[[Sequence[Explanation]], Question]
# From the answers to the question before: what shares a run, and what is asked.
_Ask = Callable[[Sequence[Any]], tuple[Hashable, Question | Search | FeatureQuestion]]


@dataclass(frozen=True)
class Answer:
    """Explanations, and the milliseconds that the request spent before it reached the models."""

    explanations: list[Explanation]
    waits: dict[str, float]  # "decode", "queue"
    sha256: str  # of the photo's file


@dataclass(frozen=True)
class Findings:
    """What detectors found, how they were asked, and what an Answer says of the request."""

    found: list[Detected]
    waits: dict[str, float]
    sha256: str
    options: DetectOptions
    hidden: DRiseOptions | None = None  # of D-RISE


@dataclass(frozen=True)
class Inside:
    """Features in one block of each model, and what an Answer says of the request."""

    found: list[Features]
    waits: dict[str, float]
    sha256: str


@dataclass(frozen=True)
class Examination:
    """The answer to a question, and what came out when its maps were tried, model by model."""

    answer: Answer
    examined: list[Examined]


@dataclass(frozen=True)
class _Key:
    """What questions must have in common to share a trunk pass."""

    models: tuple[str, ...]
    layers: tuple[Layers, ...]
    changes: tuple[Changes, ...]  # of their gates
    alone: object = None  # unique to a costly question, which must not hold up others

    @classmethod
    def of(cls, question: Question) -> "_Key":
        names = tuple(model.card.name for model in question.models)
        cheap = question.method.cost_class == "low"
        return cls(names, question.layers, question.changes, None if cheap else object())


class Engine:
    """The service's models and the queue in front of them.

    The app's lifespan starts and stops it. It is `ready` once every model is loaded and warm, until
    it drains. With the back end "auto" that is so in PyTorch; while it answers, each family moves
    to the fastest back end.
    """

    def __init__(self, settings: Settings, metrics: Metrics | None = None) -> None:
        self.settings = settings
        check_backend(settings.backend)
        self.metrics = metrics or Metrics()
        self.cards = available(settings.models_folder)
        if not self.cards:
            raise BadCard(f"No models in {settings.models_folder or 'the package'}.")
        for card in self.cards.values():
            weights_bytes(card)  # damaged weights fail the start, not the first request
        self.families = by_family(self.cards)
        if settings.family and settings.family not in self.families:
            raise UnknownName.of("family", settings.family, self.families)
        self.default_family = settings.family or next(iter(self.families))
        self.models: dict[str, Model] = {}
        self.detector_cards = detectors(settings.models_folder)
        for detector in self.detector_cards.values():
            weights_bytes(detector)
        self.detectors: dict[str, Detector] = {}  # those that somebody has asked
        self.draining = False
        self.problem = ""  # why it will never be ready
        self._loaded = False
        self._held_pixels = 0
        self._long = 0  # long questions under way
        self._model_thread = ThreadPoolExecutor(1, "model")
        self._picture_threads = ThreadPoolExecutor(settings.decode_threads, "pictures")
        self._backend_thread = ThreadPoolExecutor(1, "faster")
        self._detector_thread = ThreadPoolExecutor(1, "detectors")
        self._threads = 1  # of PyTorch, for each pass; known once the models are loaded
        self.queue: Batcher[Asked, list[Any]] = Batcher(
            self._answer_many,
            self._model_thread,
            self.metrics,
            length=settings.queue_length,
            batch=settings.batch,
            wait_s=settings.batch_wait_ms / 1000,
            deadline_s=settings.inference_timeout_s,
        )
        self._tasks: list[asyncio.Task[None]] = []
        self.metrics.watch(
            "cbam_lens_queue_depth",
            "Number of questions that wait for the models.",
            lambda: self.queue.depth,
        )
        self.metrics.watch(
            "cbam_lens_models_loaded",
            "Number of models that are loaded and ready.",
            lambda: len(self.models),
        )
        self.metrics.watch(
            "cbam_lens_long_questions",
            "Number of long questions under way, whose slices run between other questions.",
            lambda: self._long,
        )

    @property
    def ready(self) -> bool:
        """Every model is loaded and warm, and questions are taken."""
        return self._loaded and not self.draining

    @property
    def loading(self) -> bool:
        """It will be ready, but isn't yet."""
        return not (self._loaded or self.draining or self.problem)

    async def start(self) -> None:
        """Begin to load the models; once they are loaded, serve the queue."""
        self._tasks = [asyncio.create_task(self._serve())]

    def drain(self) -> None:
        """Take no more questions: from now on each gets a 503, and so does /readyz.

        Accepted questions are still answered; `stop` waits for them. Safe in a signal handler.
        """
        self.draining = True

    async def stop(self) -> None:
        """Drain: answer accepted questions within `drain_s`, and the rest with a 503."""
        self.drain()
        done = await self.queue.drained(self.settings.drain_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for threads in (
            self._model_thread,
            self._picture_threads,
            self._backend_thread,
            self._detector_thread,
        ):
            await asyncio.to_thread(threads.shutdown, cancel_futures=not done)  # waits

    def chosen(self, names: Sequence[str], family: str | None = None) -> list[Model]:
        """The models with these names; without names, those of `family` or of the default family.

        Raises UnknownName, and Busy while the models load and while the service drains.
        """
        if family and family not in self.families:
            raise UnknownName.of("family", family, self.families)
        for name in names:
            if name not in self.cards:
                raise UnknownName.of("model", name, self.cards)
        self._check_ready()
        wanted = list(dict.fromkeys(names)) or self.families[family or self.default_family]
        return [self.models[name] for name in wanted]

    def chosen_detectors(
        self, names: Sequence[str], family: str | None = None
    ) -> tuple[DetectorCard, ...]:
        """The cards of these detectors; without names, of `family` or of the first family.

        Raises UnknownName, NotAvailable if there are no detectors, and Busy as `chosen` does.
        """
        cards = self.detector_cards
        if not cards:
            raise NotAvailable(
                "This service has no detectors. Train a family with `cbam-lens train` and put it "
                "into the folder of the models."
            )
        for name in names:
            if name not in cards:
                raise UnknownName.of("detector", name, cards)
        families = dict.fromkeys(card.family for card in cards.values())
        if family and family not in families:
            raise UnknownName.of("family of detectors", family, families)
        self._check_ready()
        wanted = family or next(iter(families))
        chosen = names or [name for name, card in cards.items() if card.family == wanted]
        return tuple(cards[name] for name in dict.fromkeys(chosen))

    def _check_ready(self) -> None:
        """Raises Busy while the models load and while the service drains."""
        if self.draining:
            raise self._busy("draining", "The service is being stopped.")
        if self.loading:
            raise Loading("starting", "The models are being loaded.", self.settings.retry_after_s)
        if not self.ready:
            raise self._busy("starting", self.problem)

    async def explain(
        self,
        data: bytes,
        question: Question,
        alive: Alive,
        trace: Trace | None = None,
    ) -> Answer:
        """Decode an upload and ask the models about it; `trace` records the photo and the times.

        Raises BadImage, Busy (queue full, stopped), TooSlow.
        """
        (answer,) = await self.explain_in_turn(data, question, alive, trace)
        return answer

    async def explain_changed(
        self,
        data: bytes,
        question: Question,
        alive: Alive,
        trace: Trace | None = None,
    ) -> tuple[Answer, Answer]:
        """`explain` the networks as they are, then with the question's changes of their gates.

        Both answers are about the same class of a photo that is decoded once. A model of which
        nothing is changed is asked once.
        """
        before, after = await self.explain_in_turn(
            data, question.unchanged, alive, trace, question.after
        )
        explanations = merged(question, before.explanations, after.explanations)
        return before, replace(after, explanations=explanations)

    async def explain_in_turn(
        self,
        data: bytes,
        question: Question,
        alive: Alive,
        trace: Trace | None = None,
        *further: Further,
    ) -> list[Answer]:
        """Ask several questions about one upload, which is decoded once; one answer for each.

        Each of `further` makes its question from the answer before it. Raises as `explain` does.
        """
        limit_s = self.settings.inference_timeout_s

        def keyed(make: Further) -> _Ask:
            def ask(before: Sequence[Explanation]) -> tuple[Hashable, Question]:
                asked = replace(make(before), time_limit_s=limit_s)
                return _Key.of(asked), asked

            return ask

        asks = [keyed(make) for make in (lambda _: question, *further)]
        found = await self._ask(data, asks, alive, trace or Trace())
        return [Answer(*each) for each in found]

    async def detect(
        self, data: bytes, search: Search, alive: Alive, trace: Trace | None = None
    ) -> Findings:
        """The same of detectors. The first question to one loads it, while others are answered.

        Raises as `explain` does, and BadCard.
        """
        with self._long_question() if search.hidden else nullcontext():
            if any(card.name not in self.detectors for card in search.cards):
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self._detector_thread, self._open, search.cards)
            if search.hidden:
                return await self._detect_hidden(
                    data, search, search.hidden, alive, trace or Trace()
                )
            key = ("detect", *(card.name for card in search.cards))
            (found,) = await self._ask(data, [lambda _: (key, search)], alive, trace or Trace())
            return Findings(*found, search.options)

    async def _detect_hidden(
        self, data: bytes, search: Search, hidden: DRiseOptions, alive: Alive, trace: Trace
    ) -> Findings:
        """The same by D-RISE, in slices."""
        started = time.perf_counter()
        async with self._opened(data, trace) as photo:
            models = [self.detectors[card.name] for card in search.cards]
            work = d_rise_all(models, photo, search.options, hidden)
            found, queue_s = await self._in_slices(
                work, photo, alive, started, "Ask fewer detectors, or for fewer masks."
            )
        self._timed(trace, found, queue_s)
        waits = {"decode": trace.stages["decode"] * 1000, "queue": queue_s * 1000}
        return Findings(found, waits, trace.sha256, search.options, hidden)

    async def look(
        self, data: bytes, question: FeatureQuestion, alive: Alive, trace: Trace | None = None
    ) -> Inside:
        """Look inside one block of each model. Raises as `explain` does."""
        names = tuple(model.card.name for model in question.models)
        key = ("features", names, question.blocks, question.changes)
        (found,) = await self._ask(data, [lambda _: (key, question)], alive, trace or Trace())
        return Inside(*found)

    async def examine(
        self,
        data: bytes,
        models: Sequence[Model],
        question: Question,
        exam: Exam,
        alive: Alive,
        trace: Trace | None = None,
    ) -> Examination:
        """Explain a photo, and try the maps: in slices, between which other questions are answered.

        Only so many of these run at once, and each has a deadline. Raises as `explain` does,
        OptionClash, BadOption.
        """
        check_exam(exam, question.method_name)
        trace, started = trace or Trace(), time.perf_counter()
        asked = replace(question, time_limit_s=self.settings.inference_timeout_s)
        with self._long_question() if exam.long else nullcontext():
            async with self._opened(data, trace) as photo:
                explanations, queue_s = await self.queue.ask(_Key.of(asked), (asked, photo), alive)
                waits = {"decode": trace.stages["decode"] * 1000, "queue": queue_s * 1000}
                found = Answer(explanations, waits, trace.sha256)
                work, begun = examine_all(models, explanations, exam), time.perf_counter()
                examined, waited_s = await self._in_slices(
                    work,
                    photo,
                    alive,
                    started,
                    "Ask fewer models, fewer steps or orders, or leave the randomisation out.",
                )
        trace.stages["trial"] = max(0.0, time.perf_counter() - begun - waited_s)
        self._timed(trace, explanations, queue_s + waited_s)
        return Examination(found, examined)

    @contextmanager
    def _long_question(self) -> Iterator[None]:
        """Count a long question while it is under way. Raises Busy if there are enough of them."""
        if self._long >= self.settings.long_at_once:
            raise self._busy("long", "Other long questions are being answered.")
        self._long += 1
        try:
            yield
        finally:
            self._long -= 1

    async def _in_slices(
        self, work: Work[T], photo: Image.Image, alive: Alive, started: float, advice: str
    ) -> tuple[T, float]:
        """Do long work in the queue, slice by slice: its result, and the seconds that it waited.

        Raises Busy once the service stops, and TooSlow, with this advice, at the deadline.
        """
        limit_s, waited_s = self.settings.long_timeout_s, 0.0
        while True:
            if self.draining:
                raise self._busy("draining", "The service is being stopped.")
            if time.perf_counter() - started > limit_s:
                raise TooSlow(f"The trials did not end within {limit_s:g} s. {advice}")
            state, slice_s = await self.queue.ask(object(), (work, photo), alive)
            waited_s += slice_s
            if isinstance(state, Done):
                return state.result, waited_s

    @asynccontextmanager
    async def _opened(self, data: bytes, trace: Trace) -> AsyncGenerator[Image.Image, None]:
        """A photo, decoded in a place of the queue. Raises BadImage, Busy, TooSlow."""
        try:
            async with self.queue.place():
                photo = await self.in_picture_thread(self._decode, data, trace)
            with self._holding(photo):
                yield photo
        except Full:
            raise self._busy("queue_full", "Too many requests wait for the models.") from None
        except Dropped:
            raise self._busy("dropped", "The request was given up before its turn.") from None
        except Late:
            raise TooSlow(
                f"No answer within {self.settings.inference_timeout_s:g} s. Try again, or ask "
                "fewer models or a cheaper method."
            ) from None

    async def _ask(
        self, data: bytes, asks: Sequence[_Ask], alive: Alive, trace: Trace
    ) -> list[tuple[list[Any], dict[str, float], str]]:
        """For each question the models' answers, the milliseconds before them, the file's sha256.

        The photo is decoded once. Without models a question has no answers.
        """
        found: list[tuple[list[Any], dict[str, float], str]] = []
        async with self._opened(data, trace) as photo:
            for ask in asks:
                key, asked = ask(found[-1][0] if found else ())
                nobody = isinstance(asked, Question) and not asked.models
                answers, queue_s = (
                    ([], 0.0) if nobody else await self.queue.ask(key, (asked, photo), alive)
                )
                waits = {"decode": trace.stages["decode"] * 1000, "queue": queue_s * 1000}
                found.append((answers, waits, trace.sha256))
        every = [each for answers, _, _ in found for each in answers]
        self._timed(trace, every, sum(waits["queue"] for _, waits, _ in found) / 1000)
        return found

    def _timed(
        self, trace: Trace, every: Sequence[Explanation | Detected | Features], queue_s: float
    ) -> None:
        """Note in the trace where the time of these answers went, and that they are there."""
        trace.stages["queue"] = queue_s
        for part in ("trunk", "head"):
            trace.stages[part] = sum(each.timing_ms[part] for each in every) / 1000
        trace.answered = time.perf_counter()

    @contextmanager
    def _holding(self, photo: Image.Image) -> Iterator[None]:
        """Count a decoded photo's pixels while it waits: a few large photos could fill the memory.

        A single photo is always allowed. Raises Busy.
        """
        pixels = photo.width * photo.height
        if self._held_pixels and self._held_pixels + pixels > (
            self.settings.max_held_megapixels * 1e6
        ):
            raise self._busy("memory", "Too many large photos wait for the models.")
        self._held_pixels += pixels
        try:
            yield
        finally:
            self._held_pixels -= pixels

    async def in_picture_thread(self, call: Callable[..., Any], *args: Any) -> Any:
        """Run a call that decodes or encodes pictures, off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._picture_threads, call, *args)

    def _decode(self, data: bytes, trace: Trace) -> Image.Image:
        started = time.perf_counter()
        trace.format = kind.title if (kind := format_of(data)) else "other"
        trace.sha256 = hashlib.sha256(data).hexdigest()
        try:
            return decode(
                data,
                max_pixels=round(self.settings.max_megapixels * 1e6),
                max_side_px=self.settings.max_side_px,
            )
        finally:
            trace.stages["decode"] = time.perf_counter() - started

    def _busy(self, reason: str, detail: str) -> Busy:
        return Busy(reason, detail, self.settings.retry_after_s)

    def _load(self) -> None:
        """Load and warm every model. Runs in the model thread."""
        self._threads = threads = model_threads(
            self.settings.model_threads, min(available_cpus(), torch.get_num_threads()), cpu_quota()
        )
        torch.set_num_threads(threads)  # in this thread: OpenMP keeps one number per thread
        backend = EAGER if self.settings.backend == AUTO else self.settings.backend
        folders = [card.folder for card in self.cards.values()]
        with ThreadPoolExecutor(threads, "load", torch.set_num_threads, (threads,)) as loaders:
            models = list(loaders.map(lambda each: load(each, backend), folders))
        # The package's import takes seconds. Here it delays no request.
        with suppress(NotAvailable):  # a request for one of its methods reports it
            package()
        for model in models:
            answer(resolve([model]), _blank())
            self.models[model.name] = model
        _say_what_runs(models)
        return_freed_memory()

    def _fastest(self, names: Sequence[str]) -> dict[str, Model]:
        """These models in the fastest back end, warm. Runs beside the model thread."""
        torch.set_num_threads(self._threads)
        models = [self.models[name].in_backend(AUTO) for name in names]
        for model in models:
            answer(resolve([model]), _blank())
        _say_what_runs(models)
        return {model.name: model for model in models}

    def _warm_changes(self, model: Model) -> None:
        """Make the first change of a model's gates as quick as the next."""
        torch.set_num_threads(self._threads)
        answer(resolve([model], Options(gates="*=at:1")), _blank())

    async def _quicken(self) -> None:
        """What can wait until the service is ready, in a thread beside the model thread.

        With the back end `auto` the families move to the fastest, each as a whole: its members are
        compared. Then what changes gates is made and run once.
        """
        run = partial(asyncio.get_running_loop().run_in_executor, self._backend_thread)
        for names in self.families.values() if self.settings.backend == AUTO else ():
            try:
                self.models |= await run(self._fastest, names)
            except Exception:  # other libraries compile here; PyTorch goes on answering
                log.exception("No faster back end for %s", ", ".join(names))
        for model in list(self.models.values()):
            if not model.gates:
                continue
            try:
                await run(self._warm_changes, model)
            except Exception:  # a question that changes gates reports it, too
                log.exception("The changed gates of %s cannot be prepared", model.name)
        return_freed_memory()

    def _open(self, cards: Sequence[DetectorCard]) -> None:
        """Load and warm detectors that nobody has asked before. Runs in a thread of its own."""
        torch.set_num_threads(self._threads)
        for card in cards:
            if card.name not in self.detectors:
                detector = open_detector(card)
                detector.find(_blank())
                self.detectors[card.name] = detector
        return_freed_memory()

    def _answer_many(
        self, key: Hashable, asked: Sequence[Asked]
    ) -> Sequence[list[Any] | Exception]:
        """Answer questions that share a key. Runs in the model thread."""
        questions = [(each, photo) for each, photo in asked if isinstance(each, Question)]
        if questions:  # what shares a key is all of one kind
            return answer_many(questions)
        looks = [(each, photo) for each, photo in asked if isinstance(each, FeatureQuestion)]
        if looks:
            return look_many(looks)
        slices = [each for each, _ in asked if isinstance(each, Generator)]
        if slices:
            return [_next_of(each) for each in slices]
        return [self._found(each, photo) for each, photo in asked if isinstance(each, Search)]

    def _found(self, search: Search, photo: Image.Image) -> list[Detected] | Exception:
        """What the detectors found, or why they could not."""
        try:
            return [self.detectors[card.name].find(photo, search.options) for card in search.cards]
        except Exception as error:
            return error

    async def _serve(self) -> None:
        """Load the models, then answer what comes."""
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._model_thread, self._load)
        except Exception as error:
            self.problem = str(error)
            log.critical("The models cannot be loaded: %s", error)
            return
        self._loaded = True
        self._tasks.append(asyncio.create_task(self._quicken()))
        await self.queue.serve()


def _next_of(work: Work[Any]) -> Any:
    """The next slice of long work, or why there is none."""
    try:
        return next_slice(work)
    except Exception as error:
        return error


def _blank() -> Image.Image:
    return Image.new("RGB", (256, 256), "grey")


def _say_what_runs(models: Sequence[Model]) -> None:
    for name in dict.fromkeys(model.backend for model in models):
        run = ", ".join(model.name for model in models if model.backend == name)
        log.info("Back end %s (%s) runs %s", name, BACKENDS[name].title, run)
