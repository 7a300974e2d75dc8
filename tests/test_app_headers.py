"""What every answer carries, whatever it is and wherever it ended; and whose names we answer to."""

import asyncio
import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx2 as httpx
import pytest
from app_fixtures import assert_problem
from app_server import Running, running
from fastapi.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from app.edge.guard import HEADERS, Guard
from app.main import create_app
from app.settings import Settings

pytest_plugins = ["app_fixtures"]

Serve = Callable[..., TestClient]
KEY = "k" * 32


def assert_guarded(answer: Any, cached: bool = False) -> None:
    """All the headers, once each, and none that tells who serves."""
    for name, value in HEADERS.items():
        assert answer.headers.get_list(name) == [value], name
    assert answer.headers["cache-control"] == ("no-cache" if cached else "no-store")
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])
    assert "server" not in answer.headers
    assert "x-powered-by" not in answer.headers


@pytest.fixture(scope="module")
def served(tiny_models: Any) -> Iterator[Running]:
    """A real server, with a route that fails."""
    app = create_app(Settings(models_folder=tiny_models, max_upload_mb=1))

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("secret of the inside")

    with running(app) as served:
        yield served


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/?photo=none", 422),
        ("GET", "/docs", 200),
        ("GET", "/docs/", 307),
        ("GET", "/openapi.json", 200),
        ("GET", "/healthz", 200),
        ("GET", "/readyz", 200),
        ("GET", "/metrics", 200),
        ("GET", "/none", 404),
        ("GET", "/api/v1/explain", 405),
        ("PUT", "/", 405),
        ("OPTIONS", "/api/v1/explain", 405),
        ("POST", "/api/v1/explain", 415),
        ("GET", "/broken", 500),
    ],
)
def test_every_answer_is_guarded(served: Running, method: str, path: str, status: int) -> None:
    answer = httpx.request(method, served.address + path)
    assert answer.status_code == status
    assert_guarded(answer)
    assert "secret" not in answer.text
    if status >= 400 and not path.startswith("/?"):
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/static/css/site.css", 200),
        ("HEAD", "/static/css/site.css", 200),
        ("GET", "/static/none.css", 404),
        ("GET", "/static/", 404),
        ("POST", "/static/css/site.css", 405),
        ("GET", "/static/..%2fapp/main.py", 404),
        ("GET", "/swagger/swagger-ui.css", 200),
        ("GET", "/swagger/none", 404),
    ],
)
def test_static_files_are_guarded_too(served: Running, method: str, path: str, status: int) -> None:
    answer = httpx.request(method, served.address + path)
    assert answer.status_code == status
    assert_guarded(answer, cached=True)


def test_a_file_that_is_not_modified_is_guarded_too(served: Running) -> None:
    address = f"{served.address}/static/css/site.css"
    etag = httpx.get(address).headers["etag"]
    answer = httpx.get(address, headers={"If-None-Match": etag})
    assert answer.status_code == 304
    assert_guarded(answer, cached=True)


def test_a_body_that_is_too_large_and_no_photo_are_guarded_too(served: Running) -> None:
    address = f"{served.address}/api/v1/predict"
    for size, status in ((2 * 2**20, 413), (100, 415)):
        answer = httpx.post(address, files={"image": ("x.jpg", b"x" * size)}, timeout=120)
        assert answer.status_code == status
        assert_guarded(answer)


def test_refusals_at_the_door_are_guarded_too(serve: Serve, jpeg: bytes) -> None:
    client = serve(api_keys=(KEY,), rate_limit="1/hour")
    files = {"image": ("x.jpg", jpeg)}
    statuses = []
    for headers in ({}, {"X-API-Key": KEY}, {"X-API-Key": KEY}):
        answer = client.post("/api/v1/predict", files=files, headers=headers)
        statuses.append(answer.status_code)
        assert_guarded(answer)
    assert statuses == [401, 200, 429]


# Names


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("lens.org", True),
        ("LENS.org:8000", True),
        ("www.tools.org", True),
        ("a.b.tools.org:80", True),
        ("[::1]:8000", True),
        ("tools.org", False),  # *.tools.org is what is below it
        ("eviltools.org", False),
        ("lens.org.evil.com", False),
        ("lens.org@evil.com", False),
        ("127.0.0.1", False),
        ("", False),
    ],
)
def test_only_trusted_names_are_answered(tiny_models: Any, host: str, known: bool) -> None:
    settings = Settings(
        models_folder=tiny_models, trusted_hosts=("lens.org", "*.tools.org", "[::1]")
    )
    client = TestClient(create_app(settings))
    answer = client.get("/api/v1/methods", headers={"Host": host})
    assert_guarded(answer)
    if known:
        assert answer.status_code == 200
    else:
        assert_problem(answer, 400, f"'{host}'")


def test_probes_ask_by_the_address_they_have(serve: Serve) -> None:
    client = serve(trusted_hosts=("lens.org",), wait=False)
    for path in ("/healthz", "/metrics", "/v2/health/live"):
        assert client.get(path, headers={"Host": "10.0.0.7:8000"}).status_code == 200
    assert client.get("/", headers={"Host": "10.0.0.7:8000"}).status_code == 400


def test_by_default_every_name_is_answered(client: TestClient) -> None:
    assert client.get("/api/v1/methods", headers={"Host": "anything"}).status_code == 200


# Guard alone


def through(guard: Guard, path: str, kind: str = "http") -> list[Message]:
    """What Guard sends for a request, by hand."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    scope = {"type": kind, "method": "GET", "path": path, "headers": [(b"host", b"test")]}
    scope.update(query_string=b"", scheme="http", server=("test", 80), root_path="")
    try:
        asyncio.run(guard(scope, receive, send))
    except asyncio.CancelledError:
        sent.append({"type": "cancelled"})
    return sent


@pytest.mark.parametrize(
    ("path", "inside"),
    [
        ("/lens/docs", "/lens/docs"),
        ("/docs", "/lens/docs"),
        ("/lens", "/lens/"),
        ("/lens/", "/lens/"),
        ("/", "/lens/"),
        ("/lensless", "/lens/lensless"),
    ],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_the_prefix_is_there_whether_or_not_the_proxy_took_it(
    path: str, inside: str, kind: str
) -> None:
    seen: list[tuple[str, str]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope["path"], scope["root_path"]))

    through(Guard(app, "/lens/"), path, kind)
    assert seen == [(inside, "/lens")]


def test_a_request_that_is_cut_off_gets_a_503_and_stays_cut_off() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise asyncio.CancelledError

    start, body, end = through(Guard(app), "/")
    assert start["status"] == 503
    assert b"problem+json" in dict(start["headers"])[b"content-type"]
    assert b"stopping" in body["body"]
    assert end["type"] == "cancelled"


def test_a_begun_answer_that_is_cut_off_gets_no_second_one() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise asyncio.CancelledError

    assert [each["type"] for each in through(Guard(app), "/")] == [
        "http.response.start",
        "cancelled",
    ]


def test_a_websocket_for_another_name_is_closed() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("it must not get here")

    sent = through(Guard(app, trusted_hosts=("lens.org",)), "/api/v1/live", "websocket")
    assert [each["type"] for each in sent] == ["websocket.close"]
