"""What whoever runs it can see: metrics, log lines, stage times, and never what a photo shows."""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from app_fixtures import encoded, photo, wait_until_ready
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from app.inference import engine as engine_module
from app.main import create_app
from app.settings import Settings
from app.telemetry.logs import JsonLines, Plain, configure

pytest_plugins = ["app_fixtures"]

EXPLAIN = "/api/v1/explain"
STAGES = ("decode", "queue", "trunk", "head", "encode")


@pytest.fixture
def fresh(serve: Callable[..., TestClient]) -> TestClient:
    """An app that has counted nothing yet but the probes of its start."""
    return serve()


def send(client: TestClient, data: bytes, route: str = "explain", **fields: str) -> Any:
    return client.post(f"/api/v1/{route}", files={"image": ("x.jpg", data)}, data=fields)


def scraped(client: TestClient) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """/metrics as Prometheus reads it: (name, labels) -> value."""
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(client: TestClient, name: str, **labels: str) -> float:
    return scraped(client).get((f"cbam_lens_{name}", frozenset(labels.items())), 0.0)


# Metrics


def test_requests_are_counted_by_route_and_status(fresh: TestClient, jpeg: bytes) -> None:
    for _ in range(3):
        assert send(fresh, jpeg).status_code == 200
    assert send(fresh, jpeg, method="gradcan").status_code == 422
    assert fresh.get("/static/nothing-of-that-name").status_code == 404
    count = scraped(fresh)

    def of(route: str, method: str, status: str) -> float:
        labels = frozenset({"route": route, "method": method, "status": status}.items())
        return count.get(("cbam_lens_requests_total", labels), 0)

    assert of(EXPLAIN, "POST", "200") == 3
    assert of(EXPLAIN, "POST", "422") == 1
    assert of("/static", "GET", "404") == 1
    assert value(fresh, "request_seconds_count", route=EXPLAIN) == 4


def test_names_made_up_by_strangers_make_no_new_series(fresh: TestClient) -> None:
    """One series for each path that a scanner tries would fill Prometheus."""
    fresh.get("/wp-login.php")
    fresh.request("BREW", "/coffee")
    fresh.get("/metrics")  # it counts itself, too
    before = len(scraped(fresh))
    for number in range(20):
        assert fresh.get(f"/wp-{number}.php").status_code == 404
        assert fresh.request(f"BREW{number}", f"/coffee/{number}").status_code == 404
    assert len(scraped(fresh)) == before
    text = fresh.get("/metrics").text
    assert "wp-" not in text
    assert "BREW" not in text


@pytest.mark.parametrize(
    ("reason", "status", "data", "fields"),
    [
        ("not_an_image", 415, b"GIF89a, no JPEG", {}),
        ("invalid", 422, None, {"top_k": "99"}),
        ("too_large", 413, b"\xff" * 3_000_000, {}),
    ],
)
def test_refusals_are_counted_by_reason(
    serve: Callable[..., TestClient],
    jpeg: bytes,
    reason: str,
    status: int,
    data: bytes | None,
    fields: dict[str, str],
) -> None:
    client = serve(max_upload_mb=2)
    before = value(client, "rejections_total", reason=reason)
    assert send(client, data or jpeg, **fields).status_code == status
    assert value(client, "rejections_total", reason=reason) == before + 1


def test_while_it_drains_refusals_say_so_and_readiness_probes_are_none(
    fresh: TestClient, jpeg: bytes
) -> None:
    app = fresh.app
    assert isinstance(app, FastAPI)
    app.state.engine.drain()
    assert fresh.get("/readyz").status_code == 503
    assert send(fresh, jpeg).status_code == 503
    assert fresh.post("/", files={"image": ("x.jpg", jpeg)}).status_code == 503  # the page, too
    assert value(fresh, "rejections_total", reason="draining") == 2


def test_errors_of_ours_are_counted_too(
    fresh: TestClient, jpeg: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError

    monkeypatch.setattr(engine_module, "answer_many", broken)
    assert send(fresh, jpeg).status_code == 500
    assert value(fresh, "requests_total", route=EXPLAIN, method="POST", status="500") == 1
    assert value(fresh, "rejections_total", reason="error") == 1


def test_stages_batches_and_models_are_measured(fresh: TestClient, jpeg: bytes) -> None:
    assert value(fresh, "models_loaded") == 3
    assert value(fresh, "queue_depth") == 0
    for route in ("explain", "predict", "heatmap"):
        assert send(fresh, jpeg, route).status_code == 200
    for stage in STAGES:
        assert value(fresh, "stage_seconds_count", stage=stage) == 3, stage
        assert 0 < value(fresh, "stage_seconds_sum", stage=stage) < 60, stage
    assert value(fresh, "batch_size_sum") == 3
    assert value(fresh, "jobs_total") == 3
    for reason in ("gone", "late", "stopped"):
        labels = frozenset({"reason": reason}.items())
        assert scraped(fresh)["cbam_lens_jobs_dropped_total", labels] == 0  # there from the start


def test_two_apps_in_a_process_count_for_themselves(
    serve: Callable[..., TestClient], jpeg: bytes
) -> None:
    one, other = serve(), serve()
    assert send(one, jpeg).status_code == 200
    assert value(one, "jobs_total") == 1
    assert value(other, "jobs_total") == 0


# Stage times on the answer


@pytest.mark.parametrize("route", ["explain", "predict", "heatmap", "compare", "attention"])
def test_answers_say_where_their_time_went(client: TestClient, jpeg: bytes, route: str) -> None:
    timing = send(client, jpeg, route).headers["server-timing"]
    times = dict(re.findall(r"(\w+);dur=([0-9.]+)(?:, |$)", timing))
    assert list(times) == list(STAGES), timing
    assert all(float(each) >= 0 for each in times.values())
    assert float(times["trunk"]) > 0


def test_the_page_says_it_too_and_what_asks_no_model_does_not(
    client: TestClient, jpeg: bytes
) -> None:
    page = client.post("/", files={"image": ("x.jpg", jpeg)})
    assert "trunk;dur=" in page.headers["server-timing"]
    assert "server-timing" not in client.get("/healthz").headers
    assert "server-timing" not in client.get("/api/v1/methods").headers


def test_a_photo_that_cannot_be_decoded_says_how_long_that_took(client: TestClient) -> None:
    refused = send(client, encoded(photo(300, 300))[:2000])
    assert refused.status_code == 422
    assert refused.headers["server-timing"].startswith("decode;dur=")


# The id of a request


@pytest.mark.parametrize("came", ["4bf92f3577b34da6a3ce929d0e0e4736", "edge-17.2026_x", "a" * 64])
def test_a_sane_id_of_a_proxy_is_kept(client: TestClient, came: str) -> None:
    assert client.get("/healthz", headers={"X-Request-ID": came}).headers["x-request-id"] == came


@pytest.mark.parametrize(
    "came",
    [
        "",
        "short",
        "a" * 65,
        "with space in it",
        '"><script>alert(1)',
        "line%0abreak!",
        "-leading-x",
    ],
)
def test_other_ids_are_replaced(client: TestClient, came: str) -> None:
    given = client.get("/healthz", headers={"X-Request-ID": came}).headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{32}", given)


def test_an_id_that_is_not_text_is_replaced(client: TestClient) -> None:
    given = client.get("/healthz", headers={"X-Request-ID": b"\xc3\xa4" * 8})
    assert re.fullmatch("[0-9a-f]{32}", given.headers["x-request-id"])


# The log


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """The JSON lines on stderr since the last call."""

    def read() -> list[dict[str, Any]]:
        return [json.loads(line) for line in capsys.readouterr().err.splitlines()]

    yield read
    configure("off")


def test_a_request_is_one_json_line_that_says_what_happened(
    serve: Callable[..., TestClient], jpeg: bytes, lines: Callable[[], list[dict[str, Any]]]
) -> None:
    client = serve(log_style="json")
    lines()
    answer = send(client, jpeg)
    (line,) = lines()
    assert line["message"] == "request"
    assert line["level"] == "info"
    assert line["request_id"] == answer.headers["x-request-id"]
    assert (line["route"], line["method"], line["status"]) == (EXPLAIN, "POST", 200)
    assert line["ms"] > 0
    assert line["bytes_in"] == int(answer.request.headers["content-length"])
    assert line["bytes_out"] == len(answer.content)
    assert line["format"] == "JPEG"
    assert hashlib.sha256(jpeg).hexdigest().startswith(line["sha256"])
    assert 8 <= len(line["sha256"]) <= 16
    assert line["trunk_ms"] > 0
    assert "reason" not in line


def test_a_refused_photo_can_be_found_again_by_its_digest(
    serve: Callable[..., TestClient], lines: Callable[[], list[dict[str, Any]]]
) -> None:
    client = serve(log_style="json")
    broken = encoded(photo(300, 300), "PNG")[:2000]
    assert send(client, broken).status_code == 422
    line = lines()[-1]
    assert (line["status"], line["reason"], line["format"]) == (422, "invalid", "PNG")
    assert hashlib.sha256(broken).hexdigest().startswith(line["sha256"])


def test_no_log_has_a_photo_its_name_or_what_was_seen_in_it(
    serve: Callable[..., TestClient],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Not in a good request, not in a refused one, not in one that fails."""
    name = "aunt-mary-in-hospital.jpg"
    comment = b"diary of aunt mary"
    data = encoded(photo(), comment=comment, quality=95)
    assert comment in data
    client = serve(log_style="json")
    caplog.set_level(logging.DEBUG)

    def upload(content: bytes, route: str = EXPLAIN) -> int:
        answer = client.post(
            f"{route}?target=a", files={"image": (name, content)}, headers={"X-Person": name}
        )
        return int(answer.status_code)

    assert upload(data) == 200
    assert upload(data[:3000]) == 422
    assert upload(b"GIF89a" + comment) == 415
    assert upload(data, "/") == 200

    def broken(*_: Any) -> Any:
        raise RuntimeError

    monkeypatch.setattr(engine_module, "answer_many", broken)
    assert upload(data) == 500
    configure("off")
    records = [vars(each) for each in caplog.records if not each.name.startswith("httpx")]
    written = capsys.readouterr().err + str(records)
    assert '"status": 500' in written
    assert "RuntimeError" in written
    for secret in ("aunt", "mary", "hospital", "target=", repr(data[100:120])[2:-1]):
        assert secret not in written, secret


@pytest.mark.parametrize("style", ["json", "plain"])
def test_a_line_stays_a_line_whatever_is_in_it(style: str) -> None:
    fields = {"route": "/x\u2028y", "status": 200}
    record = logging.makeLogRecord({"msg": "one\ntwo\r\x1b[2K", "fields": fields})
    text = (JsonLines() if style == "json" else Plain()).format(record)
    assert text.splitlines() == [text]
    assert text.isprintable()
    if style == "json":
        found = json.loads(text)
        assert found["message"] == "one\ntwo\r\x1b[2K"
        assert {name: found[name] for name in fields} == fields
    else:
        assert text.endswith(r" one\ntwo\r\x1b[2K route=/x\u2028y status=200")


def test_a_traceback_follows_its_plain_line_and_cannot_pass_for_another() -> None:
    try:
        raise RuntimeError("boom\n12:00:00 INFO    request")
    except RuntimeError as error:
        info = (type(error), error, error.__traceback__)
    record = {"msg": "failed", "exc_info": info, "fields": {"status": 500}}
    first, *others = Plain().format(logging.makeLogRecord(record)).splitlines()
    assert first.endswith(" failed status=500")
    assert "    RuntimeError: boom" in others
    assert all(line.startswith("    ") for line in others)


def test_errors_keep_their_traceback_in_json(tmp_path: Any) -> None:
    try:
        raise RuntimeError("boom")
    except RuntimeError as error:
        info = (type(error), error, error.__traceback__)
    line = JsonLines().format(logging.makeLogRecord({"msg": "failed", "exc_info": info}))
    assert "boom" in json.loads(line)["exception"]
    assert "\n" not in line


def test_logging_can_be_left_to_the_host(tiny_models: Any, capsys: Any, jpeg: bytes) -> None:
    app = create_app(Settings(models_folder=tiny_models, log_style="off"))
    with TestClient(app) as client:
        wait_until_ready(client)
        assert send(client, jpeg).status_code == 200
    assert not capsys.readouterr().err


def test_two_apps_in_a_process_do_not_write_each_line_twice(
    serve: Callable[..., TestClient], lines: Callable[[], list[dict[str, Any]]]
) -> None:
    client, _ = serve(log_style="json"), serve(log_style="json")
    lines()
    client.get("/healthz")
    assert len(lines()) == 1
