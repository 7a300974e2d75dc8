"""The WebSocket for a camera: frames in, answers out, the latest frame wins."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from app_fixtures import FAMILY, encoded, photo, values, wait_until_ready
from app_server import running
from detecting import tiny_family
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from app.inference.engine import Engine
from app.main import create_app
from app.routes.live import Frames
from app.settings import Settings

pytest_plugins = ["app_fixtures"]

LIVE = "/api/v1/live"
KEY = "k" * 32


def ask(client: TestClient, data: bytes, query: str = "", **headers: str) -> dict[str, Any]:
    """The first message about one frame."""
    with client.websocket_connect(LIVE + query, headers=headers) as socket:
        socket.send_bytes(data)
        answer: dict[str, Any] = socket.receive_json()
        return answer


def explained(client: TestClient, data: bytes, **fields: str) -> dict[str, Any]:
    answer = client.post("/api/v1/explain", files={"image": ("x.jpg", data)}, data=fields)
    assert answer.status_code == 200
    result: dict[str, Any] = answer.json()
    return result


def test_a_frame_gets_the_answer_that_explain_gives(client: TestClient, jpeg: bytes) -> None:
    found = ask(client, jpeg)
    wanted = explained(client, jpeg, target=found["target"]["label"], top_k="3")
    assert (found["frame"], found["skipped"], found["width"], found["height"]) == (1, 0, 160, 120)
    assert found["ms"] > 0
    assert [each["model"] for each in found["results"]] == list(FAMILY)
    for mine, its in zip(found["results"], wanted["results"], strict=True):
        assert mine["predictions"] == its["predictions"]
        assert mine["target_probability"] == its["target_probability"]
        assert mine["view"] == its["view"]
        assert mine["heatmap"] == its["heatmaps"][0]
    none, se, cbam = found["results"]
    assert none["gate"] is None
    assert se["gate"] is None  # its gate knows no places
    last = wanted["results"][2]["attention"][-1]
    assert (cbam["gate"]["block"], cbam["gate"]["kind"]) == (last["block"], "spatial")
    assert cbam["gate"]["map"] == last["spatial"]
    assert np.ptp(values(cbam["gate"]["map"])) > 0


def test_the_query_names_models_and_a_class(client: TestClient, jpeg: bytes) -> None:
    found = ask(client, jpeg, "?models=tiny-cbam,tiny-se&target=d&top_k=1")
    assert [each["model"] for each in found["results"]] == ["tiny-cbam", "tiny-se"]
    assert found["target"]["label"] == "d"
    assert all(len(each["predictions"]) == 1 for each in found["results"])


def refused(client: TestClient, query: str, status: int) -> dict[str, Any]:
    """The problem with which a stream that asks this is ended."""
    with client.websocket_connect(LIVE + query) as socket:
        problem: dict[str, Any] = socket.receive_json()["problem"]
        assert problem["status"] == status
        assert problem["instance"] == LIVE
        assert problem["request_id"]
        with pytest.raises(WebSocketDisconnect) as ended:
            socket.receive_json()
    assert ended.value.code == 1008
    return problem


@pytest.mark.parametrize(
    ("query", "word"),
    [("?models=nope", "nope"), ("?target=unicorn", "unicorn"), ("?more=1", "more"),
     ("?top_k=0", "top_k"), ("?family=x", "x"), ("?gates=open", "gates")],
)  # fmt: skip
def test_a_wrong_question_is_refused_with_what_would_work(
    client: TestClient, query: str, word: str
) -> None:
    assert word in refused(client, query, 422)["detail"]


@pytest.fixture(scope="module")
def finder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A service with detectors."""
    folder = tmp_path_factory.mktemp("detectors")
    tiny_family(folder)
    with TestClient(create_app(Settings(models_folder=folder, log_style="off"))) as client:
        wait_until_ready(client)
        yield client


def test_detectors_find_on_a_frame_what_detect_finds(finder: TestClient, jpeg: bytes) -> None:
    found = ask(finder, jpeg, "?task=find&score=0.4&limit=3")
    wanted = finder.post(
        "/api/v1/detect",
        files={"image": ("x.jpg", jpeg)},
        data={"score": "0.4", "limit": "3", "maps": "0", "attention": "false"},
    ).json()
    assert found.keys() == {"frame", "skipped", "width", "height", "ms", "results"}
    assert (found["frame"], found["width"], found["height"]) == (1, 160, 120)
    assert any(each["detections"] for each in found["results"])
    assert [each["model"] for each in found["results"]] == [
        each["model"] for each in wanted["results"]
    ]
    for mine, its in zip(found["results"], wanted["results"], strict=True):
        assert mine["detections"] == its["detections"]
    alone = ask(finder, jpeg, "?task=find&models=tiny-se-things")
    assert [each["model"] for each in alone["results"]] == ["tiny-se-things"]


@pytest.mark.parametrize(
    ("query", "word"),
    [("?task=guess", "task"), ("?task=find&target=a", "target"), ("?score=0.5", "score"),
     ("?task=find&models=tiny-se", "tiny-se"), ("?task=find&score=2", "score"),
     ("?task=find&maps=1", "maps")],
)  # fmt: skip
def test_a_question_that_does_not_fit_its_task_is_refused(
    finder: TestClient, query: str, word: str
) -> None:
    assert word in refused(finder, query, 422)["detail"]


def test_a_service_without_detectors_says_so(client: TestClient) -> None:
    assert "no detectors" in refused(client, "?task=find", 501)["detail"]


def test_a_frame_that_is_no_photo_is_refused_and_the_stream_goes_on(
    client: TestClient, jpeg: bytes
) -> None:
    with client.websocket_connect(LIVE) as socket:
        for data, status in ((b"text", 415), (jpeg[:900], 422)):
            socket.send_bytes(data)
            assert socket.receive_json()["problem"]["status"] == status
        socket.send_text("hello")
        assert "binary" in socket.receive_json()["problem"]["detail"]
        socket.send_bytes(jpeg)
        assert socket.receive_json()["frame"] == 3


@pytest.mark.parametrize(
    ("origin", "taken"),
    [("http://testserver", True), ("https://TESTSERVER", True), ("http://evil.example", False),
     ("http://testserver.evil.example", False), ("null", False)],
)  # fmt: skip
def test_a_page_of_another_site_is_refused(
    client: TestClient, jpeg: bytes, origin: str, taken: bool
) -> None:
    if taken:
        assert ask(client, jpeg, origin=origin)["frame"] == 1
        return
    with pytest.raises(WebSocketDisconnect) as refused:
        ask(client, jpeg, origin=origin)
    assert refused.value.code == 1008


def test_a_key_is_needed_where_questions_need_one(
    serve: Callable[..., TestClient], jpeg: bytes
) -> None:
    client = serve(api_keys=(KEY,))
    with pytest.raises(WebSocketDisconnect) as refused:
        ask(client, jpeg)
    assert refused.value.code == 1008
    assert ask(client, jpeg, **{"X-API-Key": KEY})["frame"] == 1


def test_every_frame_counts_for_the_clients_rate(
    serve: Callable[..., TestClient], jpeg: bytes
) -> None:
    client = serve(rate_limit="3/hour")
    with client.websocket_connect(LIVE) as socket:
        statuses = []
        for _ in range(4):
            socket.send_bytes(jpeg)
            statuses.append(socket.receive_json().get("problem", {}).get("status", 200))
    assert statuses == [200, 200, 200, 429]


def test_a_frame_larger_than_an_upload_may_be_is_refused(
    serve: Callable[..., TestClient], jpeg: bytes
) -> None:
    client = serve(max_upload_mb=0.01)
    assert ask(client, jpeg + bytes(20_000))["problem"]["status"] == 413


def test_a_stream_without_frames_is_closed(serve: Callable[..., TestClient]) -> None:
    with (
        serve(upload_timeout_s=0.1).websocket_connect(LIVE) as socket,
        pytest.raises(WebSocketDisconnect) as ended,
    ):
        socket.receive_json()
    assert (ended.value.code, ended.value.reason) == (1000, "No frame for 0.1 s.")


def test_a_service_that_loads_or_stops_says_so(
    serve: Callable[..., TestClient], may_load: threading.Event, jpeg: bytes
) -> None:
    client = serve(wait=False)
    with client.websocket_connect(LIVE) as socket:
        assert socket.receive_json()["problem"]["status"] == 503
    may_load.set()


def test_draining_ends_a_stream_after_a_word(serve: Callable[..., TestClient], jpeg: bytes) -> None:
    client = serve()
    engine: Engine = client.app.state.engine  # type: ignore[attr-defined]
    with client.websocket_connect(LIVE) as socket:
        socket.send_bytes(jpeg)
        assert socket.receive_json()["frame"] == 1
        engine.draining = True
        engine.queue._length = 0  # no place: what drains takes no more
        socket.send_bytes(jpeg)
        assert socket.receive_json()["problem"]["status"] == 503
        with pytest.raises(WebSocketDisconnect) as ended:
            socket.receive_json()
    assert ended.value.code == 1012


def test_frames_and_streams_are_counted(serve: Callable[..., TestClient], jpeg: bytes) -> None:
    client = serve()

    def count(line: str) -> float:
        text = client.get("/metrics").text
        return float(next(each for each in text.splitlines() if each.startswith(line)).split()[-1])

    assert count('cbam_lens_live_frames_total{outcome="answered"}') == 0
    with client.websocket_connect(LIVE) as socket:
        for data in (jpeg, b"text"):
            socket.send_bytes(data)
            socket.receive_json()
        assert count("cbam_lens_live_streams") == 1
    assert count('cbam_lens_live_frames_total{outcome="answered"}') == 1
    assert count('cbam_lens_live_frames_total{outcome="refused"}') == 1
    assert count('cbam_lens_stage_seconds_count{stage="decode"}') == 2


def test_of_frames_that_wait_the_latest_is_taken() -> None:
    async def play() -> list[Any]:
        frames = Frames()
        for data in (b"1", b"2", b"3"):
            frames.put(data)
        taken: list[Any] = [await frames.take()]
        waiting = asyncio.create_task(frames.take())
        await asyncio.sleep(0)
        assert not waiting.done()
        frames.put(b"4")
        taken.append(await waiting)
        frames.put(b"5")
        frames.end()
        taken.append(await frames.take())
        return taken

    assert asyncio.run(play()) == [(3, b"3"), (4, b"4"), None]


def test_over_a_real_socket_late_frames_are_skipped_and_the_stop_is_said(
    tiny_models: Any, jpeg: bytes
) -> None:
    app = create_app(Settings(models_folder=tiny_models, log_style="off", drain_s=5))
    last = encoded(photo(80, 60), quality=95)
    with running(app) as served, connect(f"ws://127.0.0.1:{served.port}{LIVE}") as socket:
        for _ in range(30):
            socket.send(jpeg)
        socket.send(last)
        answers = []
        while not answers or answers[-1]["frame"] < 31:
            answers.append(json.loads(socket.recv(timeout=120)))
        assert answers[-1]["width"] == 80
        numbers = [each["frame"] for each in answers]
        assert numbers == sorted(numbers)
        assert sum(each["skipped"] for each in answers) + len(answers) == 31
        served.stop()
        with pytest.raises(ConnectionClosed) as ended:
            socket.recv(timeout=120)
        assert ended.value.rcvd
        assert ended.value.rcvd.code == 1012
