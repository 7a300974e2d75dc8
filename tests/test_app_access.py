"""Who may ask, and how often: keys, rates, and what of the service stays open to everybody."""

import asyncio
import base64
import re
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from app_fixtures import assert_problem
from fastapi.testclient import TestClient
from limits import parse
from openapi_spec_validator import validate
from pydantic import ValidationError
from starlette.requests import HTTPConnection

from app.edge.access import CLIENTS, Access, Rate, client_of
from app.settings import Settings

pytest_plugins = ["app_fixtures"]

KEY, OTHER = "k" * 32, "o" * 40
ASKED = ("predict", "explain", "heatmap", "compare", "attention")
OPEN = (
    "/healthz",
    "/readyz",
    "/metrics",
    "/docs",
    "/openapi.json",
    "/static/css/site.css",
    "/api/v1/models",
    "/api/v1/classes",
    "/api/v1/methods",
    "/api/v1/limits",
    "/api/v1/queue",
    "/",
)

Serve = Callable[..., TestClient]


def ask(client: TestClient, jpeg: bytes, route: str = "predict", **options: Any) -> Any:
    return client.post(f"/api/v1/{route}", files={"image": ("x.jpg", jpeg)}, **options)


def basic(key: str, user: str = "anyone") -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{key}".encode()).decode()}


# Keys


def test_without_a_key_no_question_is_answered(serve: Serve, jpeg: bytes) -> None:
    client = serve(api_keys=(KEY, OTHER))
    for route in ASKED:
        answer = ask(client, jpeg, route)
        assert_problem(answer, 401, "X-API-Key")
        assert answer.headers["www-authenticate"].startswith("Basic ")
    assert client.post("/v2/models/tiny-none/infer", json={}).status_code == 401
    for wrong in (KEY[:-1], KEY + "k", KEY.upper(), "", " ", "ä" * 32):
        assert ask(client, jpeg, headers={"X-API-Key": wrong.encode()}).status_code == 401
    for wrong in ({"Authorization": "Basic ?"}, {"Authorization": f"Bearer {KEY}"}, basic("k")):
        assert ask(client, jpeg, headers=wrong).status_code == 401


def test_each_key_opens_in_its_header_or_as_basic_password(serve: Serve, jpeg: bytes) -> None:
    client = serve(api_keys=(KEY, OTHER))
    for key in (KEY, OTHER):
        for headers in ({"X-API-Key": key}, basic(key), basic(key, "")):
            assert ask(client, jpeg, headers=headers).status_code == 200


def test_the_page_asks_for_the_key_before_it_asks_the_models(serve: Serve, jpeg: bytes) -> None:
    client = serve(api_keys=(KEY,))
    for answer in (
        client.post("/", files={"image": ("x.jpg", jpeg)}),
        client.get("/?photo=parachute.jpg"),
    ):
        assert answer.status_code == 401
        assert answer.headers["content-type"].startswith("text/html")
        assert answer.headers["www-authenticate"].startswith("Basic ")  # browsers ask for it
    answered = client.post("/", files={"image": ("x.jpg", jpeg)}, headers=basic(KEY))
    assert answered.status_code == 200


def test_what_asks_no_model_stays_open(serve: Serve) -> None:
    client = serve(api_keys=(KEY,), rate_limit="1/hour")
    for _ in range(2):
        for path in OPEN:
            answer = client.get(path)
            assert answer.status_code == 200, path
            assert "ratelimit-limit" not in answer.headers


def test_the_key_is_asked_for_before_an_upload_is_read(serve: Serve) -> None:
    client = serve(api_keys=(KEY,))
    assert ask(client, b"x" * (11 * 2**20)).status_code == 401  # with the key: 413
    assert client.post("/api/v1/explain", content=b"no form").status_code == 401  # 415


def test_the_description_names_the_keys_only_where_they_are_needed(
    serve: Serve, client: TestClient
) -> None:
    with_keys = serve(api_keys=(KEY,)).get("/openapi.json").json()
    validate(with_keys)
    assert with_keys["components"]["securitySchemes"]["key"] == {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
    }
    for path in with_keys["paths"].values():
        for method, operation in path.items():
            assert ("security" in operation) == (method == "post")
    assert "securitySchemes" not in client.get("/openapi.json").text


def test_keys_are_shown_nowhere(serve: Serve, jpeg: bytes) -> None:
    settings = Settings(api_keys=(KEY,))
    client = serve(api_keys=(KEY,))
    texts = [repr(settings), str(settings.model_dump())]
    texts += [client.get(path).text for path in OPEN]
    texts += [ask(client, jpeg, headers={"X-API-Key": KEY}).text]
    assert not [text for text in texts if KEY in text]
    assert "api_keys" not in client.get("/api/v1/limits").json()


@pytest.mark.parametrize(("key", "why"), [("short", "32"), ("ä" * 32, "ASCII")])
def test_a_key_that_is_short_or_hard_to_send_is_refused_at_the_start(key: str, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        Settings(api_keys=(key,))


def test_lists_are_comma_separated_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CBAM_LENS_API_KEYS", f"{KEY}, {OTHER}")
    monkeypatch.setenv("CBAM_LENS_TRUSTED_HOSTS", "lens.org,*.lens.org,")
    settings = Settings()
    assert [key.get_secret_value() for key in settings.api_keys] == [KEY, OTHER]
    assert settings.trusted_hosts == ("lens.org", "*.lens.org")


def test_every_known_key_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopping at the first that fits would tell by the time which one it was."""
    compared: list[bytes] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append(b)
        return a == b

    monkeypatch.setattr("app.edge.access.hmac.compare_digest", compare)
    asyncio.run(Access(Settings(api_keys=(KEY, OTHER))).admit(connection("1.2.3.4", key=KEY)))
    assert compared == [KEY.encode(), OTHER.encode()]


# Rates


def connection(host: str | None, key: str = "") -> HTTPConnection:
    """A request from this address."""
    return HTTPConnection(
        {
            "type": "http",
            "client": (host, 1) if host is not None else None,
            "headers": [(b"x-api-key", key.encode())],
            "state": {"headers": {}},
        }
    )


def test_too_many_questions_are_a_429_that_says_when_to_come_back(
    serve: Serve, jpeg: bytes
) -> None:
    client = serve(rate_limit="3/minute")
    for left in (2, 1, 0):
        answer = ask(client, jpeg)
        assert answer.status_code == 200
        assert answer.headers["ratelimit-limit"] == "3"
        assert answer.headers["ratelimit-remaining"] == str(left)
        assert 0 < int(answer.headers["ratelimit-reset"]) <= 60
    refused = ask(client, jpeg)
    assert_problem(refused, 429, "3", "60 s", f"in {refused.headers['retry-after']} s")
    assert 1 <= int(refused.headers["retry-after"]) <= 20
    assert refused.headers["ratelimit-remaining"] == "0"
    assert client.get("/healthz").status_code == 200


def test_all_questions_count_together_pictures_and_the_page_too(serve: Serve, jpeg: bytes) -> None:
    client = serve(rate_limit="3/hour")
    assert "ratelimit-remaining" in ask(client, jpeg, "heatmap").headers
    assert client.post("/", files={"image": ("x.jpg", jpeg)}).status_code == 200
    assert ask(client, b"no photo").headers["ratelimit-remaining"] == "0"
    page = client.post("/", files={"image": ("x.jpg", jpeg)})
    assert page.status_code == 429
    assert page.headers["content-type"].startswith("text/html")
    assert "retry-after" in page.headers
    assert client.get("/?photo=parachute.jpg").status_code == 429
    assert ask(client, jpeg, "explain").status_code == 429


def test_without_a_good_key_nothing_is_counted(serve: Serve, jpeg: bytes) -> None:
    client = serve(rate_limit="1/hour", api_keys=(KEY,))
    for _ in range(5):
        assert ask(client, jpeg).status_code == 401
    assert ask(client, jpeg, headers={"X-API-Key": KEY}).status_code == 200
    assert ask(client, jpeg, headers={"X-API-Key": KEY}).status_code == 429


def test_without_a_rate_nothing_is_said_of_one(client: TestClient, jpeg: bytes) -> None:
    assert not [name for name in ask(client, jpeg).headers if "ratelimit" in name]


@pytest.mark.parametrize("rate", ["often", "60", "60/moon", "-1/minute"])
def test_a_rate_that_cannot_be_read_is_refused_at_the_start(rate: str) -> None:
    with pytest.raises(ValidationError, match="60/minute"):
        Settings(rate_limit=rate)


class Clock:
    """Nanoseconds, moved by hand."""

    now = 10**15

    def __call__(self) -> int:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += round(seconds * 1e9)


def test_what_a_rate_allows_comes_back_evenly_and_never_above_its_amount() -> None:
    clock = Clock()
    rate = Rate(parse("6/minute"), now=clock)  # one every 10 s
    assert [rate.take("a").allowed for _ in range(7)] == [True] * 6 + [False]
    empty = rate.take("a")
    assert (empty.remaining, empty.full_in_s, empty.next_in_s) == (0, 60, 10)
    clock.wait(9.9)
    assert not rate.take("a").allowed
    clock.wait(0.2)
    assert rate.take("a").allowed
    assert not rate.take("a").allowed
    clock.wait(3600)
    assert [rate.take("a").allowed for _ in range(7)] == [True] * 6 + [False]


@pytest.mark.parametrize("text", ["7/minute", "1000/day", "3/second", "1/hour"])
def test_a_rate_allows_its_amount_at_once_whatever_it_divides(text: str) -> None:
    limit = parse(text)
    rate = Rate(limit, now=Clock())
    left = [rate.take("a").remaining for _ in range(limit.amount)]
    assert left == list(range(limit.amount))[::-1]
    assert not rate.take("a").allowed


def test_each_client_has_its_own_rate() -> None:
    rate = Rate(parse("1/minute"), now=Clock())
    assert rate.take("a").allowed
    assert rate.take("b").allowed
    assert not rate.take("a").allowed


def test_the_clients_remembered_are_bounded_and_the_busiest_is_not_forgotten() -> None:
    rate = Rate(parse("1/day"), clients=100, now=Clock())
    assert rate.take("busy").allowed
    for number in range(10_000):
        rate.take(f"10.0.{number}")
        if number % 50 == 0:
            assert not rate.take("busy").allowed
    assert len(rate) == 100


def test_the_memory_of_all_clients_is_small() -> None:
    tracemalloc.start()
    try:
        rate = Rate(parse("60/minute"))
        for number in range(CLIENTS + 1000):
            rate.take(f"2001:db8:{number:x}::/64")
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(rate) == CLIENTS
    assert used < 6 * 2**20


@pytest.mark.parametrize(
    ("host", "client"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),  # whoever has a network has all of it
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("unknown", "unknown"),
        (None, ""),
    ],
)
def test_a_client_is_its_address_or_its_ipv6_network(host: str | None, client: str) -> None:
    assert client_of(connection(host)) == client


# Documented


def test_every_setting_of_the_door_is_off_by_default() -> None:
    settings = Settings()
    assert (settings.api_keys, settings.rate_limit, settings.trusted_hosts) == ((), "", ())
    assert re.fullmatch(r"127\.0\.0\.1", settings.forwarded_allow_ips)
