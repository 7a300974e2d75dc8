"""Deadlines that uvicorn lacks: for requests that arrive slowly or never, and for stalled readers.

uvicorn waits for a request's head and body for ever, so one byte every few seconds keeps a
connection open (https://github.com/Kludex/uvicorn/issues/157). Here each part of a request has one
deadline, which further bytes do not extend. A request that has arrived in full is never cut off,
however slow its answer.
"""

import asyncio
import enum
import logging
import uuid
from http import HTTPStatus
from typing import Any

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.edge.guard import guards
from app.problems import Problem
from app.settings import Settings

log = logging.getLogger("cbam_lens")

HEAD_LIMIT = 64 * 1024  # bytes; httptools has no limit of its own
# The app answers a slow upload itself, in its route's own error format. This long after that, the
# connection is closed in any case: the route may have answered without reading the body.
GRACE_S = 1.0
LINGER_S = 1.0  # time for the last bytes to leave before a connection is aborted


class Part(enum.Enum):
    """A part of a request that is still to arrive."""

    HEAD = "head"
    BODY = "body"


class Deadlines(HttpToolsProtocol):
    """uvicorn's HTTP protocol with the deadlines of its app's settings."""

    _part = Part.HEAD  # of the request that is arriving
    _owed = 0  # answers due to complete requests; -1: answered before the body arrived
    _awaited: tuple[Part, Any] | None = None  # the part; the previous (HEAD) or current request
    _head_bytes = 0  # bytes received of an unfinished head
    _deadline: asyncio.TimerHandle | None = None
    _unsent = 0  # bytes in the write buffer when last looked at
    _reader: asyncio.TimerHandle | None = None

    def __init__(self, config: Config, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        service: Any = config.app
        self.settings: Settings = service.state.settings

    def missing(self) -> Part | None:
        """The part still to arrive; None while a complete request is being answered."""
        return None if self._owed > 0 else self._part

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._part = Part.BODY

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._part = Part.HEAD  # of the next request
        self._owed += 1

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._owed -= 1

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.settings.max_connections:
            self._refuse(503, "Too many connections are open. Try again in a moment.")
            return
        self._watch()

    def data_received(self, data: bytes) -> None:
        before = self._awaited
        super().data_received(data)
        self._watch()
        if self._awaited is None or self._awaited[0] is Part.BODY:
            return
        if before is None or before[0] is Part.HEAD:  # otherwise these bytes ended a body
            self._head_bytes += len(data)
        if self._head_bytes > HEAD_LIMIT:
            self._refuse(431, f"The request's head is larger than {HEAD_LIMIT // 1024} KiB.")

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._deadline, self._reader):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._look_at_reader()

    def resume_writing(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser cannot read in our own format. uvicorn calls this."""
        self._refuse(
            400,
            "This cannot be read as HTTP/1.1. If it is HTTPS: the service speaks plain HTTP; put a "
            "proxy that speaks TLS in front of it.",
        )

    def _watch(self) -> None:
        """Set one deadline for each part of each request, when the wait for that part begins."""
        part = self.missing()
        gone = self.transport.is_closing() or self.transport.get_protocol() is not self  # WebSocket
        awaited = None if part is None or gone else (part, self.cycle)
        if awaited == self._awaited:
            return  # its deadline is running; more bytes do not extend it
        if self._deadline is not None:
            self._deadline.cancel()
        self._awaited, self._head_bytes = awaited, 0
        if awaited is not None:
            seconds = (
                self.settings.header_timeout_s
                if part is Part.HEAD
                else self.settings.upload_timeout_s + GRACE_S
            )
            self._deadline = self.loop.call_later(seconds, self._expired)

    def _expired(self) -> None:
        if self._awaited is None:
            return
        part, cycle = self._awaited
        if part is Part.HEAD and not self._head_bytes:
            self._end()  # nothing was asked
        elif part is Part.HEAD:
            self._refuse(
                408, f"The request's head took more than {self.settings.header_timeout_s:g} s."
            )
        elif cycle.response_started:
            self._end()
        else:
            seconds = self.settings.upload_timeout_s
            self._refuse(408, f"The upload took more than {seconds:g} s. Send a smaller photo.")

    def _refuse(self, status: int, detail: str) -> None:
        """Answer with a problem, without the app, and close. Never writes into a started answer."""
        if self.transport.is_closing():
            return
        if self.cycle is None or not self.cycle.response_started or self.cycle.response_complete:
            path = self.scope["path"] if self.missing() is Part.BODY else ""
            self.transport.write(_answer(status, detail, path, self.server_state.default_headers))
        log.info("%s to %s: %s", status, self.client[0] if self.client else "?", detail)
        self._end()

    def _end(self) -> None:
        self.transport.close()
        self.loop.call_later(LINGER_S, self.transport.abort)  # if nobody reads the last bytes

    def _look_at_reader(self) -> None:
        """Cut off a client that reads nothing of its answer for `send_timeout_s`."""
        unsent = self.transport.get_write_buffer_size()
        if self._reader is not None and not self._reader.cancelled() and unsent >= self._unsent:
            self.transport.abort()
            return
        self._unsent = unsent
        self._reader = self.loop.call_later(self.settings.send_timeout_s, self._look_at_reader)


def _answer(status: int, detail: str, path: str, defaults: list[tuple[bytes, bytes]]) -> bytes:
    """A problem as HTTP bytes: status line, headers, body."""
    request_id, phrase = uuid.uuid4().hex, HTTPStatus(status).phrase
    body = Problem(
        title=phrase,
        status=status,
        detail=detail,
        instance=path,
        request_id=request_id,
    ).model_dump_json()
    headers = {
        **{name.decode(): value.decode() for name, value in defaults},
        **guards(request_id),
        "Content-Type": "application/problem+json",
        "Content-Length": str(len(body.encode())),
        "Connection": "close",
    }
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{k}: {v}" for k, v in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()
