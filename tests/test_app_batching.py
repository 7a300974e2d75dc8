"""The queue before the models, with models that are plain functions: who shares a run, who waits,
who is never run at all.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import pytest

from app.inference.queue import Batcher, Dropped, Full, Late
from app.telemetry.metrics import Metrics

LIMIT_S = 120  # no test waits longer for anything
Runs = list[tuple[Hashable, list[Any]]]


async def here() -> bool:
    """A client that waits for its answer."""
    return True


class Models:
    """Doubles what it is asked; says what reached it, and waits for `opened` before it answers."""

    def __init__(self) -> None:
        self.runs: Runs = []
        self.started = threading.Event()
        self.opened = threading.Event()
        self.opened.set()

    def __call__(self, key: Hashable, questions: Sequence[int]) -> list[int | Exception]:
        self.runs.append((key, list(questions)))
        self.started.set()
        assert self.opened.wait(LIMIT_S)
        return [2 * question for question in questions]

    @property
    def asked(self) -> list[Any]:
        return [question for _, questions in self.runs for question in questions]


class Setup:
    """A queue that is served, what is behind it, and what was counted."""

    def __init__(self, run: Callable[..., Any], thread: ThreadPoolExecutor, **options: Any) -> None:
        self.metrics = Metrics()
        self.queue: Batcher[Any, Any] = Batcher(
            run, thread, self.metrics, **{"length": 32, "batch": 8, **options}
        )

    def ask(
        self, question: Any, key: Hashable = "k", alive: Callable[[], Awaitable[bool]] = here
    ) -> "asyncio.Task[tuple[Any, float]]":
        return asyncio.create_task(self.queue.ask(key, question, alive))

    def count(self, name: str, **labels: str) -> float:
        value = self.metrics.registry.get_sample_value(f"cbam_lens_{name}", labels)
        assert value is not None, name
        return value


@asynccontextmanager
async def serving(run: Callable[..., Any], **options: Any) -> AsyncGenerator[Setup, None]:
    with ThreadPoolExecutor(1) as thread:
        setup = Setup(run, thread, **options)
        serving = asyncio.create_task(setup.queue.serve())
        try:
            async with asyncio.timeout(LIMIT_S):
                yield setup
            assert not serving.done(), "the worker died"
        finally:
            serving.cancel()


@asynccontextmanager
async def busy(models: Models, **options: Any) -> AsyncGenerator[Setup, None]:
    """A queue whose models are at work on question 0 until `models.opened` is set."""
    models.opened.clear()
    async with serving(models, **options) as setup:
        first = setup.ask(0)
        try:
            await asyncio.to_thread(models.started.wait, LIMIT_S)
            yield setup
        finally:
            models.opened.set()
            assert (await first)[0] == 0


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))  # type: ignore[arg-type]


# Who shares a run


def test_what_comes_while_a_batch_runs_shares_the_next_one() -> None:
    models = Models()

    async def scenario() -> None:
        async with busy(models, batch=3) as setup:
            answers = [setup.ask(question) for question in range(1, 6)]
            await asyncio.sleep(0)
            assert setup.queue.depth == 5
            models.opened.set()
            assert [(await answer)[0] for answer in answers] == [2, 4, 6, 8, 10]
            assert [questions for _, questions in models.runs] == [[0], [1, 2, 3], [4, 5]]
            assert setup.count("batch_size_sum") == 6
            assert setup.count("batch_size_count") == 3
            assert setup.count("jobs_total") == 6

    run(scenario)


def test_an_idle_thread_takes_a_lone_question_at_once() -> None:
    """Waiting for company would only cost: with a wait of hours the answer comes all the same."""

    async def scenario() -> None:
        async with serving(Models(), wait_s=3600) as setup:
            for question in range(3):
                assert (await setup.ask(question))[0] == 2 * question
                await asyncio.sleep(0.01)  # until it is idle again

    run(scenario)


def test_after_a_batch_others_are_waited_for_if_the_settings_say_so() -> None:
    models = Models()

    async def scenario() -> None:
        async with busy(models, wait_s=0.3) as setup:
            one = setup.ask(1)
            await asyncio.sleep(0)
            models.opened.set()
            await asyncio.sleep(0.1)  # the first batch is over, and its follower waits
            two = setup.ask(2)
            await asyncio.gather(one, two)
        assert [questions for _, questions in models.runs] == [[0], [1, 2]]

    run(scenario)


def test_only_questions_of_one_key_share_a_run_and_the_first_in_the_queue_is_in_it() -> None:
    models = Models()

    async def scenario() -> None:
        async with busy(models) as setup:
            asked = [(1, "a"), (2, "b"), (3, "a"), (4, "c"), (5, "b")]
            answers = [setup.ask(question, key) for question, key in asked]
            await asyncio.sleep(0)
            models.opened.set()
            await asyncio.gather(*answers)
        assert models.runs[1:] == [("a", [1, 3]), ("b", [2, 5]), ("c", [4])]

    run(scenario)


# Failures


def test_a_question_that_fails_leaves_its_batch_alone() -> None:
    def brittle(_: Hashable, questions: Sequence[int]) -> list[Any]:
        return [ValueError("three") if question == 3 else question for question in questions]

    async def scenario() -> None:
        async with serving(brittle) as setup:
            answers = [setup.ask(question) for question in range(6)]
            got = await asyncio.gather(*answers, return_exceptions=True)
        assert [each[0] for each in got[:3] + got[4:] if isinstance(each, tuple)] == [0, 1, 2, 4, 5]
        assert isinstance(got[3], ValueError)

    run(scenario)


@pytest.mark.parametrize("error", [MemoryError(), TimeoutError(), StopIteration(), KeyError("x")])
def test_a_question_that_spoils_the_whole_batch_fails_alone(error: Exception) -> None:
    def brittle(_: Hashable, questions: Sequence[int]) -> list[Any]:
        if 3 in questions:
            raise error
        return [2 * question for question in questions]

    async def scenario() -> None:
        async with serving(brittle) as setup:
            answers = [setup.ask(question) for question in range(6)]
            got = await asyncio.gather(*answers, return_exceptions=True)
            assert [each[0] for each in got if isinstance(each, tuple)] == [0, 2, 4, 8, 10]
            expected = RuntimeError if isinstance(error, StopIteration) else type(error)
            assert isinstance(got[3], expected)
            assert (await setup.ask(7))[0] == 14

    run(scenario)


def test_not_even_an_end_of_the_process_in_the_models_ends_the_worker() -> None:
    def brittle(_: Hashable, questions: Sequence[int]) -> list[Any]:
        if 3 in questions:
            raise GeneratorExit  # no Exception, as SystemExit is none
        return list(questions)

    async def scenario() -> None:
        async with serving(brittle) as setup:
            with pytest.raises(GeneratorExit):
                await setup.queue.ask("k", 3, here)
            assert (await setup.ask(7))[0] == 7

    run(scenario)


def test_a_connection_that_cannot_be_asked_counts_as_gone() -> None:
    models = Models()

    async def broken() -> bool:
        raise OSError("no such socket")

    async def scenario() -> None:
        async with busy(models) as setup:
            gone, there = setup.ask(1, alive=broken), setup.ask(2)
            await asyncio.sleep(0)
            models.opened.set()
            assert (await there)[0] == 4
            with pytest.raises(Dropped):
                await gone
        assert models.asked == [0, 2]

    run(scenario)


# Who is never run


def test_clients_that_went_while_they_waited_never_reach_the_models() -> None:
    """Found out when their turn comes (`alive`), or told at once (a cancelled request)."""
    models = Models()

    async def scenario() -> None:
        async with busy(models, batch=4) as setup:
            there: set[int] = set(range(1, 21))

            def client(number: int) -> Callable[[], Awaitable[bool]]:
                async def alive() -> bool:
                    return number in there

                return alive

            asked = {number: setup.ask(number, alive=client(number)) for number in range(1, 21)}
            await asyncio.sleep(0)
            there -= set(range(1, 11))
            for number in range(11, 16):
                asked[number].cancel()
            models.opened.set()
            got = await asyncio.gather(*asked.values(), return_exceptions=True)
            assert [each[0] for each in got if isinstance(each, tuple)] == [32, 34, 36, 38, 40]
            assert models.asked == [0, 16, 17, 18, 19, 20]
            assert setup.count("jobs_total") == 6
            assert setup.count("jobs_dropped_total", reason="gone") == 15

    run(scenario)


def test_questions_past_their_deadline_never_reach_the_models() -> None:
    models = Models()

    async def scenario() -> None:
        async with serving(models, deadline_s=0.05) as setup:
            models.opened.clear()
            running = setup.ask(0)
            await asyncio.to_thread(models.started.wait, LIMIT_S)
            waiting = [setup.ask(question) for question in (1, 2, 3)]
            for each in (running, *waiting):
                with pytest.raises(Late):
                    await each
            assert setup.queue.depth == 0, "their places are free at once"
            models.opened.set()
            assert setup.count("jobs_dropped_total", reason="late") == 3
            assert setup.count("jobs_total") == 1
        assert models.asked == [0]

    run(scenario)


def test_a_question_that_ends_while_a_batch_is_put_together_is_not_in_it() -> None:
    models = Models()

    async def scenario() -> None:
        async with busy(models) as setup:
            first = setup.ask(1)

            async def cancels_the_first() -> bool:
                first.cancel()
                return True

            second = setup.ask(2, alive=cancels_the_first)
            await asyncio.sleep(0)
            models.opened.set()
            assert (await second)[0] == 4
        assert models.asked == [0, 2]

    run(scenario)


# The places


def test_a_full_queue_refuses_at_once_and_counts_those_who_are_still_decoding() -> None:
    models = Models()

    async def scenario() -> None:
        async with busy(models, length=3) as setup:
            queue = setup.queue
            async with queue.place():
                answers = [setup.ask(1), setup.ask(2)]
                await asyncio.sleep(0)
                assert queue.depth == 3
                with pytest.raises(Full):
                    await queue.place().__aenter__()
            async with queue.place():  # the place was given back
                pass
            models.opened.set()
            await asyncio.gather(*answers)
            assert queue.depth == 0

    run(scenario)


def test_places_of_clients_that_went_are_free_for_others() -> None:
    models = Models()

    async def went() -> bool:
        return False

    async def scenario() -> None:
        async with busy(models, length=2) as setup:
            gone = [setup.ask(question, alive=went) for question in (1, 2)]
            await asyncio.sleep(0)
            assert setup.queue.depth == 2
            async with setup.queue.place():
                pass
            for each in gone:
                with pytest.raises(Dropped):
                    await each

    run(scenario)


# The end


def test_draining_waits_for_all_that_was_taken() -> None:
    models = Models()

    async def scenario() -> None:
        async with busy(models, batch=1) as setup:
            answers = [setup.ask(question) for question in (1, 2, 3)]
            await asyncio.sleep(0)
            drained = asyncio.create_task(setup.queue.drained(LIMIT_S))
            await asyncio.sleep(0.03)
            assert not drained.done()
            models.opened.set()
            assert await drained
            assert [each.result()[0] for each in answers] == [2, 4, 6]

    run(scenario)


def test_what_does_not_fit_the_time_to_drain_is_dropped() -> None:
    models = Models()

    async def scenario() -> None:
        models.opened.clear()
        async with serving(models) as setup:
            answers = [setup.ask(0)]
            await asyncio.to_thread(models.started.wait, LIMIT_S)
            answers += [setup.ask(question) for question in (1, 2)]
            await asyncio.sleep(0)
            assert not await setup.queue.drained(0.05)
            for each in answers:  # the one that runs, too: its client learns it in time
                with pytest.raises(Dropped):
                    await each
            assert setup.count("jobs_dropped_total", reason="stopped") == 2
            models.opened.set()
        assert models.asked == [0]

    run(scenario)
