"""What the tests of the service share: a tiny family of models, an app that serves it, photos.

A test file uses it with `pytest_plugins = ["app_fixtures"]`. PYTEST_DONT_REWRITE: its helpers are
imported before pytest could rewrite their assertions, so these say themselves what is wrong.
"""

import base64
import functools
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest
import torch
from carding import a_card
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image, ImageDraw
from starlette.types import Message, Receive, Scope

import cbam
from app.inference import engine as engine_module
from app.main import create_app
from app.settings import Settings
from cbam.cards.card import write_card
from cbam.images.preprocess import Preprocess

LABELS = tuple("abcdefghij")
FAMILY = ("tiny-none", "tiny-se", "tiny-cbam")  # in the order in which they are shown
BLOCKS = tuple(f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1))
WIDTH = 8  # channels of the first stage; each later stage doubles them
INPUT_PX = 64


def write_family(folder: Path, family: str = "tiny", labels: tuple[str, ...] = LABELS) -> Path:
    """Three seeded models of ten classes, a few thousand parameters each: plain, SE, CBAM."""
    for attention in ("none", "se", "cbam"):
        card = a_card(
            name=f"{family}-{attention}",
            family=family,
            family_title=family.capitalize(),
            attention=attention,
            labels=labels,
            preprocess=Preprocess(INPUT_PX, "stretch"),
            backbone_options={"width": WIDTH},
            folder=folder / f"{family}-{attention}",
        )
        with torch.random.fork_rng():
            torch.manual_seed(1)
            weights = card.network().state_dict()
            for name, value in weights.items():
                # A fresh spatial gate is flat by its BatchNorm's zero weight, and a fresh
                # classifier is indifferent: both would hide mistakes.
                if name.endswith("attention.spatial.bn.weight"):
                    value.fill_(1.0)
                if name == "fc.weight":
                    value.mul_(10)
        write_card(card, weights)
    return folder


def photo(width: int = 160, height: int = 120, seed: int = 0) -> Image.Image:
    """A photo of shapes on a gradient; no two quarters alike, so that turning it shows."""
    down, right = np.mgrid[0:height, 0:width].astype(np.float32)
    colours = np.stack([right / width, down / height, 1 - right / width], axis=-1) * 255
    image = Image.fromarray(colours.astype(np.uint8))
    draw = ImageDraw.Draw(image)
    random = np.random.default_rng(seed)
    for _ in range(6):
        x, y = random.integers(0, width), random.integers(0, height)
        size = random.integers(height // 8, height // 2)
        draw.ellipse((x, y, x + size, y + size), tuple(random.integers(0, 255, 3).tolist()))
    return image


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """An image as a file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(data: bytes) -> Image.Image:
    """A file's bytes as an image, decoded to the end."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def values(packed: dict[str, Any]) -> np.ndarray:
    """A map of an answer -> its values, by the documented formula."""
    data = np.frombuffer(base64.b64decode(packed["data"]), dtype=np.uint8)
    spread = packed["max"] - packed["min"]
    return packed["min"] + data.reshape(packed["shape"]).astype(np.float64) / 255 * spread


def wait_until_ready(client: TestClient, limit_s: float = 180) -> None:
    """Ask /readyz until the models are loaded, as an orchestrator does."""
    end = time.monotonic() + limit_s
    while (answer := client.get("/readyz")).status_code != 200:
        assert time.monotonic() < end, f"not ready after {limit_s} s: {answer.text}"
        time.sleep(0.02)


@pytest.fixture
def may_load(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Models of services started from now on are loaded only once this is set."""
    allowed, load = threading.Event(), engine_module.load

    def late(folder: Any, backend: str) -> cbam.Model:
        assert allowed.wait(180), "nobody allowed the models to be loaded"
        return load(folder, backend)

    monkeypatch.setattr(engine_module, "load", late)
    return allowed


class HeldSlices:
    """The slices of long questions wait until they are let `through`; `order` notes each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.through = threading.Event(), threading.Event()
        self.order: list[Any] = []
        real = engine_module.next_slice

        def held(work: Any) -> Any:
            self.order.append("slice")
            self.begun.set()
            assert self.through.wait(120)
            return real(work)

        monkeypatch.setattr(engine_module, "next_slice", held)


@contextmanager
def shared_by_services(folder: Path) -> Iterator[Path]:
    """The models in this folder are loaded and cut once for all services of this process.

    Answering changes nothing on a model, and most tests are about what surrounds it.
    """
    load = engine_module.load
    once = functools.cache(load)

    def shared(one: Path, backend: str) -> cbam.Model:
        return once(one, backend) if one.parent == folder else load(one, backend)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "load", shared)
        yield folder


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A models folder with the tiny family."""
    with shared_by_services(write_family(tmp_path_factory.mktemp("models"))) as folder:
        yield folder


@pytest.fixture(scope="session")
def tiny_app(tiny_models: Path) -> FastAPI:
    """The app on the tiny family, with default settings."""
    return create_app(Settings(models_folder=tiny_models))


@pytest.fixture(scope="session")
def client(tiny_app: FastAPI) -> Iterator[TestClient]:
    """A client of the running app, models loaded. It keeps no cookies: all tests share it."""
    with TestClient(tiny_app, raise_server_exceptions=False) as client:
        client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        wait_until_ready(client)
        yield client


@pytest.fixture(scope="session")
def jpeg() -> bytes:
    """A good photo, 160 x 120."""
    return encoded(photo(), quality=95)


@pytest.fixture
def serve(tiny_models: Path) -> Iterator[Callable[..., TestClient]]:
    """Start an app of one's own on the tiny family: `serve(queue_length=1)`."""
    running: list[TestClient] = []

    def start(wait: bool = True, **settings: Any) -> TestClient:
        app = create_app(Settings(**{"models_folder": tiny_models, **settings}))
        client = TestClient(app, raise_server_exceptions=False).__enter__()
        running.append(client)
        if wait:
            wait_until_ready(client)
        return client

    yield start
    for client in running:
        client.__exit__(None, None, None)


def assert_problem(answer: Any, status: int, *words: str) -> dict[str, Any]:
    """The answer is a problem (RFC 9457) of this status whose detail holds these words."""
    assert answer.status_code == status, f"{answer.status_code}: {answer.text[:500]}"
    assert answer.headers["content-type"] == "application/problem+json", answer.headers
    problem: dict[str, Any] = answer.json()
    assert {"title", "status", "detail", "instance", "request_id"} <= set(problem), problem
    assert problem["status"] == status, problem
    assert problem["title"], problem
    assert problem["instance"] == answer.request.url.path, problem
    assert problem["request_id"] == answer.headers["x-request-id"], problem
    for word in words:
        assert word in problem["detail"], f"{word!r} is not in {problem['detail']!r}"
    return problem


def form_of(photo: bytes, /, **fields: str) -> tuple[bytes, str]:
    """A multipart form as it travels: its body and its Content-Type."""
    request = httpx.Request("POST", "http://test/", files={"image": ("x.jpg", photo)}, data=fields)
    return request.read(), request.headers["content-type"]


async def post_raw(
    app: FastAPI, path: str, receive: Receive, content_type: str
) -> tuple[int, dict[str, Any]]:
    """POST without a client between: `receive` decides what comes and when -> status, problem."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"test"), (b"content-type", content_type.encode())],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    await app(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], json.loads(body)
