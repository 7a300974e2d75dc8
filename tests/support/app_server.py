"""The app under our server on a real port, in a thread, for tests that need sockets.

PYTEST_DONT_REWRITE: see app_fixtures.
"""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fastapi import FastAPI

from app.edge.server import Server


@dataclass(frozen=True)
class Running:
    """A server that runs in a thread."""

    port: int
    server: Server
    thread: threading.Thread

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=120)

    def stop(self) -> None:
        """Begin to drain, as a signal does in the main thread."""
        self.server.should_exit = True


@contextmanager
def running(app: FastAPI, *, loaded: bool = True) -> Iterator[Running]:
    """The app on a free port, its models `loaded`. Drained at the end."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = Server(app, log_level="warning")
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        served = Running(listening.getsockname()[1], server, thread)
        try:
            end = time.monotonic() + 600
            while not (server.started and (app.state.engine.ready or not loaded)):
                assert time.monotonic() < end, "not ready after 600 s"
                time.sleep(0.02)
            yield served
        finally:
            served.stop()
            thread.join(120)
            assert not thread.is_alive(), "the server does not end"


@contextmanager
def models_at_work(service: Running) -> Iterator[threading.Event]:
    """The models answer nothing until the event inside is set, at the latest at the end."""
    free = threading.Event()
    engine = service.server.service.state.engine
    engine._model_thread.submit(free.wait, 120)
    try:
        yield free
    finally:
        free.set()


def rest_of(client: socket.socket) -> tuple[bytes, float]:
    """What comes until the server closes, and the seconds until then."""
    began, received = time.monotonic(), b""
    try:
        while chunk := client.recv(65536):
            received += chunk
    except ConnectionResetError:
        pass  # closed with something of ours unread
    return received, time.monotonic() - began
