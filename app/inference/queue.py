"""A bounded queue in front of the one thread where models run; questions of one key share a run.

An idle thread takes a single question at once. While a batch runs, the queue fills, and the next
batch takes all questions that fit together. A batch waits for further questions only if `wait_s`
is set.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from app.telemetry.metrics import Metrics

Q = TypeVar("Q")
A = TypeVar("A")
Alive = Callable[[], Awaitable[bool]]  # whether anybody still waits for the answer
Run = Callable[[Hashable, Sequence[Q]], Sequence[A | Exception]]  # one answer per question

SWEEP_S = 0.1  # shortest time between two searches of a full queue for clients that left


class Full(Exception):
    """No place in the queue."""


class Late(Exception):
    """No answer before the deadline."""


class Dropped(Exception):
    """The question will not be answered: nobody waits for it, or the service stops."""


@dataclass(eq=False)
class _Job(Generic[Q, A]):
    """One question on its way through the queue."""

    key: Hashable  # questions of one key can share a run
    question: Q
    alive: Alive
    answer: "asyncio.Future[tuple[A, float]]"  # and the seconds in the queue
    queued_at: float


class Batcher(Generic[Q, A]):
    """Runs `run(key, questions)` in `thread`, one batch after the other, once `serve` is awaited.

    `run` returns an exception as the answer to a question that failed. If it raises instead, each
    question is run on its own, so that only the faulty one fails.
    """

    def __init__(
        self,
        run: Run[Q, A],
        thread: Executor,
        metrics: Metrics,
        *,
        length: int,
        batch: int = 1,
        wait_s: float = 0,
        deadline_s: float = 30,
    ) -> None:
        self._run = run
        self._thread = thread
        self._metrics = metrics
        self._length = length
        self._batch = batch
        self._wait_s = wait_s
        self._deadline_s = deadline_s
        self._kept = 0  # places kept for questions that are being prepared
        self._waiting: list[_Job[Q, A]] = []
        self._running: list[_Job[Q, A]] = []
        self._arrived = asyncio.Event()
        self._swept_at = 0.0

    @property
    def depth(self) -> int:
        """The number of waiting questions, including those that are being prepared."""
        return self._kept + len(self._waiting)

    @property
    def owing(self) -> bool:
        """Whether anybody still waits for an answer."""
        jobs = (*self._waiting, *self._running)
        return self._kept > 0 or any(not job.answer.done() for job in jobs)

    @asynccontextmanager
    async def place(self) -> AsyncGenerator[None, None]:
        """Keep a place in the queue while a question is prepared for `ask`. Raises Full.

        With a place, nobody is turned away after the photo has been decoded.
        """
        if self.depth >= self._length:
            await self._sweep()
        if self.depth >= self._length:
            raise Full
        self._kept += 1
        try:
            yield
        finally:
            self._kept -= 1

    async def ask(self, key: Hashable, question: Q, alive: Alive) -> tuple[A, float]:
        """The answer, and the seconds for which the question waited in the queue.

        Raises Late, Dropped, and the exception that `run` gave as the answer, if any.
        """
        answer: asyncio.Future[tuple[A, float]] = asyncio.get_running_loop().create_future()
        job = _Job(key, question, alive, answer, time.perf_counter())
        self._waiting.append(job)
        self._arrived.set()
        limit = asyncio.timeout(self._deadline_s)
        try:
            async with limit:
                return await answer
        except TimeoutError as error:
            if not limit.expired():
                raise  # the question's own failure
            raise Late from error
        finally:  # if it is still queued, nobody waits for it any more
            self._drop(job, "late" if limit.expired() else "gone")

    async def serve(self) -> None:
        """Answer one batch after the other, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._running = await self._next()
            if not self._running:
                continue
            self._metrics.jobs.inc(len(self._running))
            self._metrics.batch_size.observe(len(self._running))
            started = time.perf_counter()
            ran = loop.run_in_executor(self._thread, self._answers, self._running)
            await asyncio.wait([ran])
            error = ran.exception()
            answers = [error] * len(self._running) if error else ran.result()
            for job, answer in zip(self._running, answers, strict=True):
                _deliver(job, answer, started)
            self._running = []

    async def drained(self, limit_s: float) -> bool:
        """Wait up to `limit_s` for all answers, then drop the rest. True if none was dropped."""
        end = time.monotonic() + limit_s
        while self.owing and time.monotonic() < end:
            await asyncio.sleep(0.01)
        done = not self.owing
        for job in [*self._waiting, *self._running]:
            self._drop(job, "stopped")
        return done

    async def _next(self) -> list[_Job[Q, A]]:
        """The first question that is still wanted, and those that can share its run."""
        if not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()  # idle: the first to come is taken at once
        elif self._wait_s and len(self._waiting) < self._batch:
            await asyncio.sleep(self._wait_s)
        batch: list[_Job[Q, A]] = []
        for job in list(self._waiting):
            if batch and job.key != batch[0].key:
                continue
            if await self._wanted(job):
                batch.append(job)
            if len(batch) == self._batch:
                break
        batch = [job for job in batch if not job.answer.done()]  # a deadline may have passed
        for job in batch:
            self._waiting.remove(job)
        return batch

    async def _wanted(self, job: _Job[Q, A]) -> bool:
        """Whether somebody waits for the answer; drops the job if not."""
        try:
            alive = not job.answer.done() and await job.alive()
        except Exception:  # the connection failed, not the service
            alive = False
        if not alive:
            self._drop(job, "gone")
        return alive

    async def _sweep(self) -> None:
        """Free the places of clients that left."""
        if time.monotonic() - self._swept_at >= SWEEP_S:
            self._swept_at = time.monotonic()
            for job in list(self._waiting):
                await self._wanted(job)

    def _drop(self, job: _Job[Q, A], reason: str) -> None:
        """End a job that no longer needs an answer. If it is running, its result is discarded."""
        if job in self._waiting:
            self._waiting.remove(job)
            self._metrics.dropped.labels(reason).inc()
        if not job.answer.done():
            job.answer.set_exception(Dropped(reason))

    def _answers(self, jobs: Sequence[_Job[Q, A]]) -> Sequence[A | Exception]:
        """One answer per job. Runs in the thread."""
        try:
            return self._run(jobs[0].key, [job.question for job in jobs])
        except Exception as error:
            if len(jobs) == 1:
                return [error]
            return [answer for job in jobs for answer in self._answers([job])]


def _deliver(job: _Job[Q, A], answer: A | BaseException, started: float) -> None:
    """Give a job its answer, unless it has ended meanwhile."""
    if job.answer.done():
        return
    if isinstance(answer, StopIteration):  # a future refuses it
        answer = RuntimeError(f"the models raised {answer!r}")
    if isinstance(answer, BaseException):
        job.answer.set_exception(answer)
    else:
        job.answer.set_result((answer, started - job.queued_at))
