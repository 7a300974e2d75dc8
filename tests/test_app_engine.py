"""The engine: one request's trouble is its own, and many at once are answered as one by one."""

import asyncio
import hashlib
import logging
import shutil
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest
from app_fixtures import (
    FAMILY,
    assert_problem,
    encoded,
    form_of,
    photo,
    picture,
    post_raw,
    values,
    wait_until_ready,
    write_family,
)
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

import cbam.model as model_module
from app.inference import engine as engine_module
from app.inference.engine import Engine
from app.main import create_app
from app.routes import answers
from app.settings import Settings
from cbam.backends import choose
from cbam.cards.card import Card
from cbam.errors import BadCard, UnknownName
from cbam.explain import question as question_module
from cbam.explain.explainer import answer_many
from cbam.model import Model
from cbam.trace.cut import cut_at

pytest_plugins = ["app_fixtures"]

EXPLAIN = "/api/v1/explain"
LIMIT_S = 120  # no test waits longer for anything


class Gate:
    """Stands in for `answer_many`: counts what comes, and holds it until it is opened."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.opened = threading.Event()
        self.widths: list[int] = []  # of the photos that reached the models, in order

    def __call__(self, asked: Sequence[tuple[Any, Image.Image]]) -> Any:
        self.widths += [photo.width for _, photo in asked]
        self.started.set()
        assert self.opened.wait(LIMIT_S)
        return answer_many(asked)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Gate]]:
    """Put a gate before the models, once they are loaded; at the end it is open."""
    made: list[Gate] = []

    def put() -> Gate:
        made.append(Gate())
        monkeypatch.setattr(engine_module, "answer_many", made[-1])
        return made[-1]

    yield put
    for each in made:
        each.opened.set()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """Clients that ask at the same time."""
    with ThreadPoolExecutor(16) as pool:
        yield pool


def jpeg_of(width: int) -> bytes:
    """A photo that can be told by its width."""
    return encoded(photo(width, 40))


def send(client: TestClient, data: bytes, **fields: str) -> Any:
    return client.post(EXPLAIN, files={"image": ("x.jpg", data)}, data=fields)


@asynccontextmanager
async def running(models_folder: Path, **settings: Any) -> AsyncGenerator[FastAPI, None]:
    """An app in this event loop, without a client between; at the end it is stopped."""
    app = create_app(Settings(models_folder=models_folder, **settings))
    async with app.router.lifespan_context(app):
        while not app.state.engine.ready:
            await asyncio.sleep(0.01)  # without a pause, the loop would starve what loads
        yield app


async def queued(app: FastAPI, count: int) -> None:
    """Until so many requests wait for the models."""
    async with asyncio.timeout(LIMIT_S):
        while app.state.engine.queue.depth < count:
            await asyncio.sleep(0)


async def get_raw(app: FastAPI, path: str) -> tuple[int, dict[str, Any]]:
    """GET in this event loop -> status, JSON."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.get(path)
        return answer.status_code, answer.json()


async def ask(app: FastAPI, width: int, hangs_up: bool = False) -> int:
    """The status of one request; `hangs_up`: its client goes once the form is sent."""
    body, kind = form_of(jpeg_of(width))
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> dict[str, Any]:
        for message in messages:
            return message
        if hangs_up:
            return {"type": "http.disconnect"}
        return await asyncio.get_running_loop().create_future()

    status, _ = await post_raw(app, EXPLAIN, receive, kind)
    return status


async def held(app: FastAPI, gate: Callable[[], Gate]) -> tuple[Gate, asyncio.Task[int]]:
    """A gate before the models, and a first request that is held at it."""
    models = gate()
    first = asyncio.create_task(ask(app, 50))
    assert await asyncio.to_thread(models.started.wait, LIMIT_S)
    return models, first


# The queue


def test_a_full_queue_refuses_with_503_and_finishes_what_it_took(
    serve: Callable[..., TestClient],
    gate: Callable[[], Gate],
    threads: ThreadPoolExecutor,
    jpeg: bytes,
) -> None:
    client = serve(queue_length=2, retry_after_s=7)
    models = gate()
    try:
        first = threads.submit(send, client, jpeg)
        assert models.started.wait(LIMIT_S)
        others = [threads.submit(send, client, jpeg) for _ in range(6)]  # 2 wait, 4 are too many
        refused = list(islice(as_completed(others, LIMIT_S), 4))
        for each in refused:
            assert_problem(each.result(), 503, "7 s")
            assert each.result().headers["retry-after"] == "7"
        assert client.get("/healthz").status_code == 200
    finally:
        models.opened.set()
    taken = [first, *(each for each in others if each not in refused)]
    assert [each.result(LIMIT_S).status_code for each in taken] == [200, 200, 200]
    assert send(client, jpeg).status_code == 200


def test_a_full_queue_does_not_keep_others_from_reading_what_there_is(
    serve: Callable[..., TestClient],
    gate: Callable[[], Gate],
    threads: ThreadPoolExecutor,
    jpeg: bytes,
) -> None:
    client = serve(queue_length=1)
    models = gate()
    try:
        first = threads.submit(send, client, jpeg)
        assert models.started.wait(LIMIT_S)
        waiting = [threads.submit(send, client, jpeg) for _ in range(2)]
        assert next(as_completed(waiting, LIMIT_S)).result().status_code == 503
        for path in ("/healthz", "/readyz", "/api/v1/models", "/api/v1/methods", "/openapi.json"):
            assert client.get(path).status_code == 200
    finally:
        models.opened.set()
    assert first.result(LIMIT_S).status_code == 200
    assert sorted(each.result(LIMIT_S).status_code for each in waiting) == [200, 503]


def test_while_a_new_layer_is_traced_nobody_else_waits(
    serve: Callable[..., TestClient],
    monkeypatch: pytest.MonkeyPatch,
    threads: ThreadPoolExecutor,
    jpeg: bytes,
    tmp_path: Path,
) -> None:
    client = serve(models_folder=write_family(tmp_path))  # whose layers nobody has traced
    pages = ("/", "/?family=tiny", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json")
    lists = ("/api/v1/models", "/api/v1/methods", "/api/v1/limits", "/api/v1/queue")
    protocol = ("/v2", "/v2/health/ready", "/v2/models/tiny-cbam", "/v2/models/tiny-cbam/ready")
    assert client.get("/").status_code == 200  # its example is made once, by the models
    tracing, traced = threading.Event(), threading.Event()

    def slow(*args: Any) -> Any:
        tracing.set()
        assert traced.wait(LIMIT_S)
        return cut_at(*args)

    monkeypatch.setattr(model_module, "cut_at", slow)
    try:
        asked = threads.submit(send, client, jpeg, layer="layer2.0")
        assert tracing.wait(LIMIT_S)
        others = [threads.submit(client.get, path) for path in (*pages, *lists, *protocol)]
        assert [each.result(LIMIT_S / 2).status_code for each in others] == [200] * len(others)
        assert not asked.done()
    finally:
        traced.set()
    assert asked.result(LIMIT_S).json()["results"][0]["layer"] == "layer2.0"


def test_requests_are_answered_in_the_order_in_which_they_came(
    tiny_models: Any, gate: Callable[[], Gate]
) -> None:
    async def scenario() -> list[int]:
        async with running(tiny_models) as app:
            models, first = await held(app, gate)
            asked = [first]
            for position, width in enumerate((80, 60, 70), start=1):
                asked.append(asyncio.create_task(ask(app, width)))
                await queued(app, position)
            models.opened.set()
            assert await asyncio.gather(*asked) == [200] * 4
            return models.widths

    assert asyncio.run(scenario()) == [50, 80, 60, 70]


# The way of one request


@pytest.mark.parametrize("route", ["explain", "predict", "attention"])
def test_a_photo_is_hashed_once(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, jpeg: bytes, route: str
) -> None:
    hashed: list[bytes] = []
    sha256 = hashlib.sha256

    def counting(data: bytes = b"", **options: Any) -> Any:
        hashed.append(data)
        return sha256(data, **options)

    monkeypatch.setattr(hashlib, "sha256", counting)
    answer = client.post(f"/api/v1/{route}", files={"image": ("x.jpg", jpeg)})
    assert answer.json()["image"]["sha256"] == sha256(jpeg).hexdigest()
    assert hashed.count(jpeg) == 1


def test_names_are_resolved_once(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, jpeg: bytes
) -> None:
    looked_up: list[Any] = []
    classes, chosen_layers = Card.classes, question_module.chosen_layers

    def index(card: Card, name: Any) -> tuple[int, ...]:
        looked_up.append(name)
        return classes(card, name)

    def layers(model: Any, layer: Any) -> Any:
        looked_up.append((model.name, layer))
        return chosen_layers(model, layer)

    monkeypatch.setattr(Card, "classes", index)
    monkeypatch.setattr(question_module, "chosen_layers", layers)
    fields = {"target": "b", "versus": "c", "method": "finercam", "layer": "layer4.0"}
    answer = send(client, jpeg, **fields).json()
    assert [each["model"] for each in answer["results"]] == list(FAMILY)
    assert looked_up == ["b", "c", *((name, "layer4.0") for name in FAMILY)]


@pytest.mark.parametrize("name", ["explained", "predicted", "attended"])
def test_json_is_built_off_the_event_loop(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, jpeg: bytes, name: str
) -> None:
    threads: list[str] = []
    build = getattr(answers, name)

    def building(*args: Any) -> Any:
        threads.append(threading.current_thread().name)
        return build(*args)

    monkeypatch.setattr(answers, name, building)
    route = {"explained": "explain", "predicted": "predict", "attended": "attention"}[name]
    assert client.post(f"/api/v1/{route}", files={"image": ("x.jpg", jpeg)}).status_code == 200
    assert [each.rstrip("_0123456789") for each in threads] == ["pictures"]


# Deadlines


def test_a_slow_answer_is_a_504_and_the_next_one_is_served(
    serve: Callable[..., TestClient],
    gate: Callable[[], Gate],
    threads: ThreadPoolExecutor,
) -> None:
    client = serve(inference_timeout_s=1)
    models = gate()
    try:
        first = threads.submit(send, client, jpeg_of(50))
        assert models.started.wait(LIMIT_S)
        waiting = threads.submit(send, client, jpeg_of(60))
        assert_problem(first.result(LIMIT_S), 504, "1 s")
        assert_problem(waiting.result(LIMIT_S), 504, "1 s")
    finally:
        models.opened.set()
    assert send(client, jpeg_of(70)).status_code == 200
    assert models.widths == [50, 70], "nobody waits any more for the second one"


# Failures


def test_a_costly_method_ends_with_its_request(serve: Callable[..., TestClient]) -> None:
    client = serve(inference_timeout_s=0.001)
    # The models' thread gives up, too: it could go on for minutes with nobody waiting.
    late = send(client, jpeg_of(60), method="scorecam", layer="layer1.0")
    assert_problem(late, 504, "cheaper method")


def test_large_photos_that_wait_are_too_many_before_the_memory_is_full(
    serve: Callable[..., TestClient], gate: Callable[[], Gate], threads: ThreadPoolExecutor
) -> None:
    client = serve(max_held_megapixels=0.01, retry_after_s=3)
    models = gate()
    try:
        first = threads.submit(send, client, jpeg_of(300))  # 0.012 megapixels: alone it may
        assert models.started.wait(LIMIT_S)
        refused = send(client, jpeg_of(60))
        assert_problem(refused, 503, "large photos")
        assert refused.headers["retry-after"] == "3"
    finally:
        models.opened.set()
    assert first.result(LIMIT_S).status_code == 200
    assert send(client, jpeg_of(60)).status_code == 200  # nothing is held any more


def test_a_job_that_fails_fails_alone_and_tells_nothing_of_the_inside(
    client: TestClient,
    monkeypatch: pytest.MonkeyPatch,
    threads: ThreadPoolExecutor,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def brittle(asked: Sequence[tuple[Any, Image.Image]]) -> Any:
        if any(photo.width == 66 for _, photo in asked):
            raise RuntimeError("secret of the inside")
        return answer_many(asked)

    monkeypatch.setattr(engine_module, "answer_many", brittle)
    widths = [50, 66, 51, 66, 52]
    with caplog.at_level(logging.ERROR, "cbam_lens"):
        answers = [threads.submit(send, client, jpeg_of(width)) for width in widths]
        statuses = [answer.result(LIMIT_S).status_code for answer in answers]
    assert statuses == [200, 500, 200, 500, 200]
    problem = assert_problem(answers[1].result(), 500)
    assert "secret" not in str(problem)
    assert "secret of the inside" in caplog.text  # whoever runs it sees why


def test_an_error_that_is_no_exception_of_ours_does_not_stop_the_worker(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, jpeg: bytes
) -> None:
    def broken(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(engine_module, "answer_many", broken)
    assert_problem(send(client, jpeg), 500)
    monkeypatch.undo()
    assert send(client, jpeg).status_code == 200


# Clients that go


def test_a_client_that_went_while_it_waited_costs_the_models_nothing(
    tiny_models: Any, gate: Callable[[], Gate]
) -> None:
    async def scenario() -> list[int]:
        async with running(tiny_models) as app:
            models, first = await held(app, gate)
            gone = asyncio.create_task(ask(app, 60, hangs_up=True))
            await queued(app, 1)
            last = asyncio.create_task(ask(app, 70))
            await queued(app, 2)
            models.opened.set()
            assert await asyncio.wait_for(first, LIMIT_S) == 200
            assert await asyncio.wait_for(last, LIMIT_S) == 200
            await asyncio.wait([gone], timeout=LIMIT_S)
            assert gone.done()
            return models.widths

    assert asyncio.run(scenario()) == [50, 70]


def test_a_client_that_hangs_up_is_no_error_of_the_app(
    tiny_models: Any, gate: Callable[[], Gate], caplog: pytest.LogCaptureFixture
) -> None:
    """What leaves the app as an exception is a traceback in every server's log."""

    async def scenario() -> None:
        async with running(tiny_models) as app:
            models, first = await held(app, gate)
            gone = asyncio.create_task(ask(app, 60, hangs_up=True))
            await queued(app, 1)
            models.opened.set()
            await asyncio.wait([first, gone], timeout=LIMIT_S)
            assert not gone.cancelled(), "CancelledError left the app"
            assert gone.exception() is None

    asyncio.run(scenario())
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_hanging_up_during_the_upload_is_no_error_of_the_app(
    tiny_app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    body, kind = form_of(jpeg_of(50))
    messages = iter(
        [
            {"type": "http.request", "body": body[:300], "more_body": True},
            {"type": "http.disconnect"},
        ]
    )

    async def receive() -> dict[str, Any]:
        return next(messages)

    with caplog.at_level(logging.ERROR):
        status, _ = asyncio.run(post_raw(tiny_app, EXPLAIN, receive, kind))
    assert 400 <= status < 500  # nobody reads it
    assert not caplog.records


# Stopping


def test_stopping_finishes_what_runs_and_what_waits(
    tiny_models: Any, gate: Callable[[], Gate]
) -> None:
    async def scenario() -> list[int]:
        async with running(tiny_models) as app:
            models, first = await held(app, gate)
            waiting = asyncio.create_task(ask(app, 60))
            await queued(app, 1)
            threading.Timer(0.1, models.opened.set).start()  # while it is being stopped
        await asyncio.wait([first, waiting], timeout=LIMIT_S)
        assert first.done(), "the answer was computed, but never given"
        assert waiting.done(), "the answer was computed, but never given"
        assert [first.result(), waiting.result()] == [200, 200]
        return models.widths

    assert asyncio.run(scenario()) == [50, 60]


def test_what_does_not_end_within_the_time_to_drain_is_a_503(
    tiny_models: Any, gate: Callable[[], Gate]
) -> None:
    async def scenario() -> list[int]:
        async with running(tiny_models, drain_s=1) as app:
            models, first = await held(app, gate)
            waiting = asyncio.create_task(ask(app, 60))
            await queued(app, 1)
            threading.Timer(4, models.opened.set).start()
        await asyncio.wait([first, waiting], timeout=LIMIT_S)
        assert not waiting.cancelled(), "CancelledError left the app"
        assert [first.result(), waiting.result()] == [503, 503]
        return models.widths

    assert asyncio.run(scenario()) == [50]


def test_while_it_drains_what_was_taken_is_answered_and_what_comes_is_a_503(
    tiny_models: Any, gate: Callable[[], Gate]
) -> None:
    async def scenario() -> None:
        async with running(tiny_models) as app:
            models, taken = await held(app, gate)
            app.state.engine.drain()
            assert app.state.engine.draining
            assert not app.state.engine.ready
            assert await ask(app, 60) == 503
            status, problem = await get_raw(app, "/readyz")
            assert status == 503
            assert "stop" in problem["detail"]
            assert (await get_raw(app, "/healthz"))[0] == 200
            models.opened.set()
            assert await asyncio.wait_for(taken, LIMIT_S) == 200

    asyncio.run(scenario())


# Starting


def test_a_folder_without_models_is_refused_at_once(tmp_path: Any) -> None:
    with pytest.raises(BadCard, match="No models"):
        create_app(Settings(models_folder=tmp_path))


def test_an_unknown_default_family_is_refused_with_those_that_there_are(tiny_models: Any) -> None:
    with pytest.raises(UnknownName, match="'huge'.*tiny"):
        create_app(Settings(models_folder=tiny_models, family="huge"))


@pytest.fixture
def one_model(tmp_path: Path, tiny_models: Path) -> Path:
    """A models folder of one's own, to be damaged."""
    shutil.copytree(tiny_models / "tiny-se", tmp_path / "tiny-se")
    return tmp_path


def test_damaged_weights_are_refused_at_once(one_model: Path) -> None:
    with (one_model / "tiny-se" / "weights.safetensors").open("ab") as weights:
        weights.write(b"x")
    with pytest.raises(BadCard, match="tiny-se"):
        create_app(Settings(models_folder=one_model))


def test_a_model_that_cannot_be_loaded_keeps_the_service_from_getting_ready(
    one_model: Path, jpeg: bytes
) -> None:
    card = one_model / "tiny-se" / "card.toml"
    text = card.read_text(encoding="utf-8")
    card.write_text(text.replace("width = 8", "width = 16"), encoding="utf-8")
    app = create_app(Settings(models_folder=one_model))
    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.portal
        client.portal.call(asyncio.wait, app.state.engine._tasks)  # until it gave up
        problem = assert_problem(client.get("/readyz"), 503, "tiny-se")
        assert str(one_model) not in problem["detail"], "a path of the machine helps no visitor"
        assert_problem(send(client, jpeg), 503)
        assert client.get("/healthz").status_code == 200


# Many at once

QUESTIONS: list[dict[str, str]] = [
    {},
    {"target": "b"},
    {"target": "c", "top_k": "3"},
    {"models": "tiny-cbam"},
    {"models": "tiny-se", "layer": "layer2.0"},
    {"method": "hirescam"},
    {"method": "gradcam++", "layer": "layer3.1"},
    {"method": "layercam", "target": "h"},
    {"method": "xgradcam", "models": "tiny-cbam"},
    {"method": "eigencam", "attention": "false"},
    {"layer": "layer1.0", "models": "tiny-none"},
]


def numbers(answer: Any) -> Any:
    """An answer with its packed maps unpacked, so that it can be compared to rounding."""
    if isinstance(answer, list):
        return [numbers(each) for each in answer]
    if not isinstance(answer, dict):
        return answer
    if "dtype" in answer:
        return values(answer).ravel().tolist()
    return {name: numbers(value) for name, value in answer.items() if name != "timing_ms"}


def assert_close(one: Any, other: Any) -> None:
    """The same answer: names and order alike, numbers to what a batch's rounding and a byte cost.

    A step of a packed map is 1/255 of its range, and rounding may tip it over.
    """
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_close(one[name], other[name])
    elif isinstance(one, list) and one and isinstance(one[0], float):
        assert np.allclose(one, other, rtol=1e-4, atol=1.1 * (max(one) - min(one)) / 255 + 1e-5)
    elif isinstance(one, list):
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            assert_close(mine, theirs)
    else:
        assert one == (pytest.approx(other, abs=1e-4) if isinstance(one, float) else other)


def test_16_clients_at_once_get_the_answers_of_one_after_the_other(
    serve: Callable[..., TestClient], threads: ThreadPoolExecutor
) -> None:
    client = serve(queue_length=64)
    photos = [encoded(photo(100 + 10 * seed, 80, seed), quality=95) for seed in range(2)]
    asked = [(data, fields) for data in photos for fields in QUESTIONS]

    def answer(question: tuple[bytes, dict[str, str]]) -> Any:
        response = send(client, question[0], **question[1])
        assert response.status_code == 200, response.text
        return numbers(response.json())

    one_by_one = [answer(question) for question in asked]
    at_once = list(threads.map(answer, asked * 2, timeout=LIMIT_S))
    for mine, theirs in zip(at_once, one_by_one * 2, strict=True):
        assert_close(mine, theirs)
    for other in one_by_one[1:]:  # all differ, so a mix-up shows
        with pytest.raises(AssertionError):
            assert_close(one_by_one[0], other)


def test_pictures_at_once_equal_pictures_one_by_one(
    client: TestClient, threads: ThreadPoolExecutor, jpeg: bytes
) -> None:
    routes = ["heatmap", "heatmap?raw=true", "heatmap?overlay=false", "compare", "attention"] * 3

    def painted(route: str) -> np.ndarray:
        files = {"image": ("x.jpg", jpeg)}
        headers = {"Accept": "image/png"}
        answer = client.post(f"/api/v1/{route}", files=files, headers=headers)
        return np.asarray(picture(answer.content), dtype=np.int16)

    one_by_one = [painted(route) for route in routes]
    for mine, theirs in zip(threads.map(painted, routes, timeout=LIMIT_S), one_by_one, strict=True):
        assert mine.shape == theirs.shape
        assert abs(mine - theirs).max() <= 3  # a batch's rounding may tip a level over
    assert len({each.tobytes() for each in one_by_one}) == 5


def test_the_service_is_ready_in_pytorch_and_moves_family_by_family_to_the_fastest_back_end(
    client: TestClient,
    tiny_models: Path,
    jpeg: bytes,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CBAM_LENS_BACKEND")
    monkeypatch.setattr(choose, "_fastest", {})
    eager_is_slower = {"eager": 0.002, "openvino": 0.001}
    monkeypatch.setattr(
        choose, "_seconds", lambda cuts, _: {name: eager_is_slower[name] for name in cuts}
    )
    may_move = threading.Event()
    fastest = Engine._fastest

    def waits(engine: Engine, names: Sequence[str]) -> Any:
        assert may_move.wait(LIMIT_S)
        return fastest(engine, names)

    monkeypatch.setattr(Engine, "_fastest", waits)
    settings = Settings(models_folder=tiny_models)
    assert settings.backend == "auto"
    with caplog.at_level("INFO", "cbam_lens"), TestClient(create_app(settings)) as fast:

        def backends() -> list[str]:
            models = fast.get("/api/v1/models").json()["models"]
            return [f"{model['backend']}: {model['precision']}" for model in models]

        try:
            wait_until_ready(fast)
            assert backends() == ["eager: PyTorch, float32"] * 3
            answers = [send(each, jpeg).json()["results"] for each in (fast, client)]
            assert [each["predictions"] for each in answers[0]] == [
                each["predictions"] for each in answers[1]
            ]
        finally:
            may_move.set()
        end = time.monotonic() + LIMIT_S
        while (runs := backends()) == ["eager: PyTorch, float32"] * 3:
            assert time.monotonic() < end
            time.sleep(0.02)
        assert runs == ["openvino: OpenVINO on the CPU, float32"] * 3  # never a part of a family
        found, expected = (send(each, jpeg).json()["results"] for each in (fast, client))
    assert "openvino 1.0 ms, eager 2.0 ms" in caplog.text
    for name in ("eager (PyTorch, float32)", "openvino (OpenVINO on the CPU, float32)"):
        assert f"Back end {name} runs tiny-none, tiny-se, tiny-cbam" in caplog.text
    for one, other in zip(found, expected, strict=True):
        assert one["target_probability"] == pytest.approx(other["target_probability"], abs=1e-3)
        for heat, other_heat in zip(one["heatmaps"], other["heatmaps"], strict=True):
            spread = other_heat["map"]["max"] - other_heat["map"]["min"]
            difference = np.abs(values(heat["map"]) - values(other_heat["map"])).max()
            assert difference <= (0.01 + 1 / 255) * spread  # the map's, and that of a byte's step


def test_a_service_whose_fast_back_end_fails_goes_on_in_pytorch(
    tiny_models: Path,
    jpeg: bytes,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failed = threading.Event()

    def fails(engine: Engine, names: Sequence[str]) -> Any:
        failed.set()
        raise RuntimeError("the compiler is out of memory")

    monkeypatch.setattr(Engine, "_fastest", fails)
    with TestClient(create_app(Settings(models_folder=tiny_models, backend="auto"))) as client:
        wait_until_ready(client)
        assert failed.wait(LIMIT_S)
        assert send(client, jpeg).status_code == 200
        models = client.get("/api/v1/models").json()["models"]
        assert [model["backend"] for model in models] == ["eager"] * 3
    assert "the compiler is out of memory" in caplog.text


def test_the_first_change_of_gates_is_prepared_once_the_service_is_ready(
    tiny_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go_on, prepared = threading.Event(), []
    prepare = Engine._warm_changes

    def waits(engine: Engine, model: Model) -> None:
        assert may_go_on.wait(LIMIT_S)
        prepare(engine, model)
        prepared.append(model.name)

    monkeypatch.setattr(Engine, "_warm_changes", waits)
    app = create_app(Settings(models_folder=tiny_models))
    with TestClient(app) as client:
        wait_until_ready(client)
        assert not prepared
        may_go_on.set()
        end = time.monotonic() + LIMIT_S
        while len(prepared) < 2:
            assert time.monotonic() < end
            time.sleep(0.02)
        assert prepared == ["tiny-se", "tiny-cbam"]  # those with gates


def test_explaining_leaves_no_trace_on_the_models(client: TestClient, jpeg: bytes) -> None:
    app = client.app
    assert isinstance(app, FastAPI)
    for fields in QUESTIONS:
        assert send(client, jpeg, **fields).status_code == 200
    for model in app.state.engine.models.values():
        for parameter in model.network.parameters():
            assert parameter.grad is None
            assert not parameter.requires_grad
        for module in model.network.modules():
            assert not module.training
            assert not module._forward_hooks
            assert not module._backward_hooks
