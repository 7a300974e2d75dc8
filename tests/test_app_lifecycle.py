"""The life of a served process: it starts, says when it is ready, keeps to its size, and ends."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil
import pytest
from app_fixtures import form_of
from app_server import rest_of, running

from app.main import create_app
from app.settings import Settings

pytest_plugins = ["app_fixtures"]

ROOT = Path(__file__).parent.parent
COMMAND = ("-m", "app.cli", "serve")
MB = 2**20
LIMIT_S = 600  # a busy machine; what is waited for is seen at once
# An app with a request that nothing can end: the server around it has to.
STUCK = """
    import asyncio, sys, time
    from app.main import create_app
    from app.edge.server import bind, serve
    app = create_app()
    @app.get("/stuck")
    async def stuck() -> None:
        print("Stuck", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, time.sleep, 1e6)
    serve(app, bind("127.0.0.1", int(sys.argv[-1])))
"""


class Served:
    """A process that serves the tiny family on a port of its own."""

    def __init__(
        self, folder: Path, models: Path, command: tuple[str, ...], port: int, **settings: Any
    ) -> None:
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.port = port
        self.address = f"http://127.0.0.1:{self.port}"
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command, "--port", str(self.port)],
                cwd=ROOT,
                stdout=log,
                stderr=log,
                env={
                    **os.environ,
                    "OMP_NUM_THREADS": "1",
                    "TMPDIR": str(self.temporary),
                    "CBAM_LENS_MODELS_FOLDER": str(models),
                    **{f"CBAM_LENS_{name.upper()}": str(each) for name, each in settings.items()},
                },
            )
        self.log = folder / "log"

    def wait_until_ready(self) -> None:
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.address}/readyz").status_code == 200:
                    return
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        pytest.fail(f"Not ready after {LIMIT_S} s: {self.log.read_text()}")

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=120)

    def wait_until_refused(self) -> None:
        """Until no connection is taken any more."""
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end:
            try:
                self.connect().close()
            except ConnectionError:
                return
            time.sleep(0.02)
        pytest.fail(f"Connections are still taken after {LIMIT_S} s.")

    def wait_until_told(self, text: str) -> None:
        """Until the log holds this text."""
        end = time.monotonic() + LIMIT_S
        while text not in self.log.read_text():
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.02)

    def ended(self) -> int:
        """The exit status, once it is there."""
        return self.process.wait(LIMIT_S)


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


Start = Callable[..., Served]


@pytest.fixture
def start(tmp_path: Path, tiny_models: Path) -> Iterator[Start]:
    """Start a process and wait until it is ready: `start(drain_s=1)`."""
    running: list[Served] = []

    def begin(
        command: tuple[str, ...] = COMMAND, wait: bool = True, port: int = 0, **settings: Any
    ) -> Served:
        served = Served(tmp_path, tiny_models, command, port or _free_port(), **settings)
        running.append(served)
        if wait:
            served.wait_until_ready()
        return served

    yield begin
    for served in running:
        if served.process.poll() is None:
            served.process.kill()
            served.process.wait()


def begin_upload(client: socket.socket, jpeg: bytes) -> bytes:
    """Send half a question, and wait until it is being read: the other half."""
    body, kind = form_of(jpeg)
    head = (
        f"POST /api/v1/predict HTTP/1.1\r\nHost: test\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
    )
    client.sendall(head.encode())
    assert client.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.sendall(body[: len(body) // 2])
    return body[len(body) // 2 :]


# The end


def test_what_does_not_finish_in_time_gets_a_503(tiny_models: Path, jpeg: bytes) -> None:
    app = create_app(Settings(models_folder=tiny_models, drain_s=1))
    with running(app) as served, served.connect() as client:
        begin_upload(client, jpeg)
        served.stop()
        answer, seconds = rest_of(client)
        served.thread.join(10)
    assert 0.9 < seconds < 10
    assert served.server.cut_off
    assert answer.startswith(b"HTTP/1.1 503 "), answer[:300]
    assert b"application/problem+json" in answer
    assert b"content-security-policy" in answer.lower()


def test_before_it_drains_it_may_say_so_and_answer_on(tiny_models: Path, jpeg: bytes) -> None:
    app = create_app(Settings(models_folder=tiny_models, drain_delay_s=3))
    with running(app) as served:
        served.stop()
        end = time.monotonic() + 2.5
        while (answer := httpx.get(f"{served.address}/readyz")).status_code == 200:
            assert time.monotonic() < end
            time.sleep(0.02)
        assert answer.status_code == 503
        assert "stopping" in answer.json()["detail"]
        assert httpx.get(f"{served.address}/v2/health/ready").status_code == 503
        files = {"image": ("x.jpg", jpeg)}
        assert httpx.post(f"{served.address}/api/v1/predict", files=files).status_code == 200
        assert httpx.get(f"{served.address}/healthz").status_code == 200
        served.thread.join(10)
    assert not served.server.cut_off
    with pytest.raises(ConnectionError):
        served.connect()


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_lets_what_runs_finish_and_takes_nothing_new(
    start: Start, jpeg: bytes, number: int
) -> None:
    served = start(drain_s=LIMIT_S)
    with served.connect() as client, served.connect() as idle:
        rest = begin_upload(client, jpeg)
        served.process.send_signal(number)
        served.wait_until_refused()
        assert rest_of(idle)[0] == b""  # closed at once: nothing ran on it
        assert served.process.poll() is None
        client.sendall(rest)
        answer, _ = rest_of(client)
    assert answer.startswith(b"HTTP/1.1 200 "), answer[:300]
    assert answer.endswith(b"}")
    assert served.ended() == 0, served.log.read_text()
    assert "Traceback" not in served.log.read_text()
    assert not list(served.temporary.iterdir())


@pytest.mark.slow
def test_the_exit_status_says_that_something_was_cut_off(start: Start, jpeg: bytes) -> None:
    served = start(drain_s=1)
    with served.connect() as client:
        begin_upload(client, jpeg)
        served.process.send_signal(signal.SIGTERM)
        assert served.ended() == 1


@pytest.mark.slow
def test_even_a_thread_that_nothing_can_end_does_not_keep_it(start: Start) -> None:
    served = start(("-c", textwrap.dedent(STUCK)), drain_s=1)
    with served.connect() as client:
        client.sendall(b"GET /stuck HTTP/1.1\r\nHost: test\r\n\r\n")
        served.wait_until_told("Stuck")
        served.process.send_signal(signal.SIGTERM)
        assert served.ended() == 1  # the thread would sleep for days
    assert "Cut off" in served.log.read_text()


@pytest.mark.slow
def test_a_port_that_is_taken_ends_the_start_with_status_3(start: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        served = start(wait=False, port=taken.getsockname()[1])
        assert served.ended() == 3
    assert "address already in use" in served.log.read_text()


# Its size


def size_of(process: psutil.Process) -> tuple[int, int, int]:
    """Resident bytes, open files and threads."""
    return process.memory_info().rss, process.num_fds(), process.num_threads()


def assert_keeps_its_size(served: Served, jpeg: bytes, warm_up: int, requests: int) -> None:
    """Requests of every kind leave nothing behind: memory, files, threads, temporary files."""
    process = psutil.Process(served.process.pid)
    files = {"image": ("x.jpg", jpeg)}
    with httpx.Client(base_url=served.address, timeout=180) as client:

        def ask(count: int) -> None:
            for number in range(count):
                route = ("explain", "predict", "heatmap", "attention", "compare")[number % 5]
                assert client.post(f"/api/v1/{route}", files=files).status_code == 200
                if number % 10 == 0:
                    broken = {"image": ("x.jpg", jpeg[:500])}
                    assert client.post("/api/v1/explain", files=broken).status_code in (415, 422)
                    assert client.post("/", files=files).status_code == 200

        with ThreadPoolExecutor(8) as clients:  # thread pools fill up when many ask at once
            list(clients.map(ask, [warm_up // 8] * 8))
        memory, open_files, threads = size_of(process)
        ask(requests)
        memory_after, open_files_after, threads_after = size_of(process)
    print(f"{requests} requests: {(memory_after - memory) / MB:+.1f} MB")  # noqa: T201
    assert memory_after - memory < 20 * MB
    assert open_files_after <= open_files
    assert threads_after <= threads
    assert not list(served.temporary.iterdir())


def test_150_requests_leave_nothing_behind(start: Start, jpeg: bytes) -> None:
    assert_keeps_its_size(start(), jpeg, warm_up=64, requests=150)


@pytest.mark.slow
def test_2000_requests_leave_nothing_behind(start: Start, jpeg: bytes) -> None:
    assert_keeps_its_size(start(), jpeg, warm_up=200, requests=2000)


@pytest.mark.slow
def test_connections_that_break_off_leave_nothing_behind(start: Start, jpeg: bytes) -> None:
    served = start(header_timeout_s=1, upload_timeout_s=1, keep_alive_s=1)
    process = psutil.Process(served.process.pid)
    body, kind = form_of(jpeg)
    first = (
        f"POST /api/v1/predict HTTP/1.1\r\nHost: test\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body[:1000]

    def break_off(count: int) -> None:
        for number in range(count):
            with served.connect() as client:
                client.sendall((first, first[:20], b"", b"nonsense\r\n\r\n")[number % 4])
        time.sleep(3)

    break_off(40)
    memory, open_files, threads = size_of(process)
    break_off(1000)
    memory_after, open_files_after, threads_after = size_of(process)
    assert memory_after - memory < 20 * MB
    assert open_files_after <= open_files
    assert threads_after <= threads
