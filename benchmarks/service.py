"""What HTTP costs: requests a second over HTTP beside the engine alone.

The server is a real one, `cbam-lens serve` in a process of its own, and the clients speak to it
through a socket. The engine alone is asked in this process. Both answer the same question with
the same models, in turn.

The clients are the standard library's, in threads: httpx's takes 2 ms of a CPU for each request,
which would be the server's, too, where both share a machine.
"""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import httpx2 as httpx

from app.inference.engine import Engine
from app.main import create_app
from app.settings import Settings
from app.templating import bundled
from benchmarks.subjects import Plan
from benchmarks.table import Row, Side, at_least
from cbam.backends.choose import AUTO, EAGER
from cbam.explain.question import resolve

SECTION = "service"
HTTP, ENGINE = "over HTTP", "engine alone"
TARGETS = {16: at_least(0.9)}  # by number of clients
START_S = 120  # on a busy machine; a quiet one needs five
HOST = "127.0.0.1"
ROOT = Path(__file__).parent.parent

Ask = Callable[[], Awaitable[object]]  # one question, answered


def measure(plan: Plan, models_folder: Path | None = None) -> Iterator[Row]:
    """Requests a second for each number of clients; by default of the bundled models."""
    yield from asyncio.run(_measure(plan, models_folder))


async def _measure(plan: Plan, models_folder: Path | None) -> list[Row]:
    # The user's settings hold for both sides, except those that would turn clients away.
    settings = Settings(models_folder=models_folder, rate_limit="", api_keys=())
    if settings.backend == AUTO:  # each process would choose for itself
        settings = settings.model_copy(update={"backend": EAGER})
    photo = (bundled("static") / "gallery" / "dog.jpg").read_bytes()
    try:
        async with _server(settings) as port, _engine(settings) as engine:
            return [await _row(plan, clients, engine, port, photo) for clients in plan.clients]
    except (OSError, RuntimeError, HTTPException) as error:
        missing = f"failed: {error}"
        sides = Side(HTTP, unit="/s"), Side(ENGINE, unit="/s")
        return [
            Row(SECTION, f"{clients} clients", *sides, TARGETS.get(clients), missing=missing)
            for clients in plan.clients
        ]


async def _row(plan: Plan, clients: int, engine: Engine, port: int, photo: bytes) -> Row:
    """Both sides' requests a second, in turn."""
    requests = max(plan.requests, 2 * clients)

    async def over_http() -> float:
        loop, form = asyncio.get_running_loop(), form_request(photo)
        with contextlib.ExitStack() as stack:
            connections = [HTTPConnection(HOST, port, timeout=START_S) for _ in range(clients)]
            for each in connections:
                stack.callback(each.close)
            ask = partial(loop.run_in_executor, stack.enter_context(ThreadPoolExecutor(clients)))
            return await rate([partial(ask, post, each, *form) for each in connections], requests)

    async def engine_alone() -> float:
        question = resolve(engine.chosen([]))

        async def ask() -> None:
            await engine.explain(photo, question, _alive)

        return await rate([ask] * clients, requests)

    sides = {HTTP: over_http, ENGINE: engine_alone}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for name in sides:
        await sides[name]()  # warms up
    for number in range(plan.service_rounds):
        for name in sides if number % 2 else reversed(sides):
            rates[name].append(await sides[name]())
    what = f"{clients} client{'s' if clients > 1 else ''}, {len(engine.chosen([]))} models a photo"
    upper, lower = (Side(name, tuple(rates[name]), "/s") for name in (HTTP, ENGINE))
    return Row(SECTION, what, upper, lower, TARGETS.get(clients))


async def _alive() -> bool:
    return True


async def rate(clients: Sequence[Ask], requests: int) -> float:
    """Answers a second: each client asks again as soon as it has its answer, `requests` in all."""
    left = iter(range(requests))

    async def client(ask: Ask) -> None:
        for _ in left:
            await ask()

    started = time.perf_counter()
    await asyncio.gather(*(client(ask) for ask in clients))
    return requests / (time.perf_counter() - started)


def form_request(photo: bytes) -> tuple[bytes, dict[str, str]]:
    """The body and headers of a form with a photo."""
    request = httpx.Request("POST", "http://localhost", files={"image": ("photo.jpg", photo)})
    return request.read(), {"Content-Type": request.headers["Content-Type"]}


def post(connection: HTTPConnection, body: bytes, headers: dict[str, str]) -> None:
    """Have the form answered. Raises RuntimeError for any status but 200, OSError if it is cut."""
    connection.request("POST", "/api/v1/explain", body, headers)
    response = connection.getresponse()
    answer = response.read()
    if response.status != 200:
        raise RuntimeError(f"the server answered {response.status}: {answer[:200]!r}")


@asynccontextmanager
async def _engine(settings: Settings) -> AsyncGenerator[Engine, None]:
    """The engine of an app that nobody can reach."""
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        engine: Engine = app.state.engine
        while not engine.ready:
            if engine.problem:
                raise RuntimeError(engine.problem)
            await asyncio.sleep(0.05)
        yield engine


@asynccontextmanager
async def _server(settings: Settings) -> AsyncGenerator[int, None]:
    """`cbam-lens serve` with these settings, until it is left: its port, once it is ready.

    Raises RuntimeError with its last words if it ends, or is not ready after START_S.
    """
    changes = {"CBAM_LENS_RATE_LIMIT": "", "CBAM_LENS_API_KEYS": ""}
    changes["CBAM_LENS_BACKEND"] = settings.backend
    if settings.models_folder is not None:
        changes["CBAM_LENS_MODELS_FOLDER"] = str(settings.models_folder)
    with tempfile.TemporaryFile() as log:
        port = _free_port()
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "serve", "--host", HOST, "--port", str(port)],
            stdout=log,
            stderr=log,
            env={**os.environ, **changes},
            cwd=ROOT,
        )
        try:
            await _until_ready(process, port)
            yield port
        except RuntimeError as error:
            log.seek(0, os.SEEK_SET)
            words = log.read().decode(errors="replace").strip().splitlines()[-1:]
            raise RuntimeError(" ".join([str(error), *words])) from error
        finally:
            process.terminate()
            try:
                await asyncio.to_thread(process.wait, 30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


async def _until_ready(process: "subprocess.Popen[bytes]", port: int) -> None:
    """Ask until it says that its models are loaded."""
    deadline = time.monotonic() + START_S
    async with httpx.AsyncClient() as client:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise RuntimeError(f"`cbam-lens serve` ended with status {process.returncode}.")
            with contextlib.suppress(httpx.HTTPError):
                if (await client.get(f"http://{HOST}:{port}/readyz")).is_success:
                    return
            await asyncio.sleep(0.1)
    raise RuntimeError(f"`cbam-lens serve` was not ready after {START_S} s.")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind((HOST, 0))
        port: int = free.getsockname()[1]
        return port
