"""Runs the service under uvicorn: deadlines, proxies, and a shutdown that finishes its answers.

On SIGTERM or SIGINT, /readyz answers 503. For `drain_delay_s` other requests are still answered, so
that a load balancer has time to look elsewhere. Then no new connection is accepted, and running
requests have `drain_s` to finish; the rest get a 503.

Exit status: 0 all requests finished, 1 some were cut off, 3 the start failed (port in use).
"""

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import uvicorn
from fastapi import FastAPI

from app.edge.deadlines import Deadlines
from app.settings import Settings

log = logging.getLogger("cbam_lens")
CUT_OFF = 1
# Time for a running forward pass, which nothing can interrupt, after its request was cut off.
LAST_S = 1.0


class Server(uvicorn.Server):
    """uvicorn's server with our settings, for an app made by `create_app`.

    `last_resort` is started when draining begins; `listening` is called once connections are
    accepted; `options` go to `uvicorn.Config`.
    """

    def __init__(
        self,
        app: FastAPI,
        last_resort: threading.Timer | None = None,
        listening: Callable[[], None] | None = None,
        **options: Any,
    ) -> None:
        self.service = app
        self.settings: Settings = app.state.settings
        self.last_resort = last_resort
        self.listening = listening
        self.cut_off = False  # whether draining left something unfinished
        config = uvicorn.Config(
            app,
            http=Deadlines,
            lifespan="on",
            server_header=False,
            access_log=self.settings.log_style == "off",  # otherwise we log each request ourselves
            timeout_keep_alive=self.settings.keep_alive_s,
            timeout_graceful_shutdown=self.settings.drain_s,
            forwarded_allow_ips=self.settings.forwarded_allow_ips,
            ws_max_size=int(self.settings.max_upload_mb * 2**20),
            **options,
        )
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections, then say so."""
        await super().startup(sockets)
        if self.started and self.listening is not None:
            self.listening()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, then stop."""
        if self.last_resort is not None:
            self.last_resort.start()
        self.service.state.draining = True
        await asyncio.sleep(self.settings.drain_delay_s)
        began = time.monotonic()
        await super().shutdown(sockets)
        self.cut_off = self.force_exit or time.monotonic() - began >= self.settings.drain_s


def bind(host: str, port: int) -> list[socket.socket]:
    """Sockets on every address that `host` names, not listening yet; port 0 takes a free one.

    Raises OSError: the host is unknown, or the port is taken or not allowed.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            try:
                made = socket.socket(family, kind, protocol)
            except OSError:
                if family == socket.AF_INET6 and len(found) > 1:
                    continue  # a machine without IPv6 may still name such addresses
                raise
            sockets.append(made)
            if os.name == "posix":
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:  # else it may take the IPv4 address's port, too
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            same = port or (sockets[0].getsockname()[1] if len(sockets) > 1 else 0)
            made.bind((address[0], same, *address[2:]))
    except OSError:
        for each in sockets:
            each.close()
        raise
    return sockets


def url(host: str, port: int) -> str:
    """Where a browser finds the service: an IPv6 address stands in brackets."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(
    app: FastAPI, sockets: Sequence[socket.socket], listening: Callable[[], None] | None = None
) -> None:
    """Serve until SIGTERM or SIGINT, then exit with one of the statuses listed above.

    `listening` is called once connections are accepted.
    """
    settings: Settings = app.state.settings
    limit_s = settings.drain_delay_s + settings.drain_s + LAST_S
    last_resort = threading.Timer(limit_s, _cut_off, (limit_s,))
    last_resort.daemon = True
    # uvicorn replaces these handlers while it runs. After its shutdown it restores them and raises
    # the signal again; the default handlers would then end the process with the signal's status.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    server = Server(app, last_resort=last_resort, listening=listening)
    server.run(list(sockets))
    if server.cut_off:
        sys.exit(CUT_OFF)


def _cut_off(limit_s: float) -> None:
    log.error("Cut off after %g s: a model still runs.", limit_s)
    os._exit(CUT_OFF)  # a normal exit would wait for the model's thread
