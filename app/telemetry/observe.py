"""Counts and times each request and writes it to the log as one line."""

import logging
import time
from dataclasses import dataclass, field

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.problems import OTHER, STATUSES
from app.telemetry.logs import LOGGER
from app.telemetry.metrics import Metrics

log = logging.getLogger(LOGGER)

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
MOUNTS = ("/static", "/swagger")
STAGES = ("decode", "queue", "trunk", "head", "trial", "encode")


@dataclass
class Trace:
    """What is known about one request. Its handlers write this; the log and the metrics read it."""

    started: float = field(default_factory=time.perf_counter)
    stages: dict[str, float] = field(default_factory=dict)  # seconds
    answered: float | None = None  # when the models' answer was ready to be encoded
    format: str = ""  # the photo's, by its content
    sha256: str = ""  # of the photo's file

    @classmethod
    def of(cls, scope: Scope) -> "Trace":
        """The trace of this request or connection."""
        trace: Trace = scope.setdefault("state", {}).setdefault("trace", cls())
        return trace

    def server_timing(self) -> str:
        """The stages for the `Server-Timing` header, in ms: `decode;dur=3.1, queue;dur=0.2`.

        https://www.w3.org/TR/server-timing/
        """
        return ", ".join(
            f"{name};dur={self.stages[name] * 1000:.1f}" for name in STAGES if name in self.stages
        )


class Observe:
    """The outermost ASGI middleware, so it also sees the errors and refusals of the inner ones."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        trace = Trace.of(scope)
        status = 499  # the client left before the answer; nginx uses this number
        received = sent = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        async def observed(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                if trace.answered is not None:
                    trace.stages["encode"] = time.perf_counter() - trace.answered
                if trace.stages:
                    MutableHeaders(scope=message)["Server-Timing"] = trace.server_timing()
            sent += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, counted, observed)
        except Exception:
            status = 500
            raise
        finally:
            self._finish(scope, trace, status, received, sent)

    def _finish(self, scope: Scope, trace: Trace, status: int, received: int, sent: int) -> None:
        """Count the request and write its line."""
        seconds = time.perf_counter() - trace.started
        route = template(scope)
        method = scope["method"] if scope["method"] in METHODS else "other"
        self.metrics.requests.labels(route, method, str(status)).inc()
        self.metrics.request_seconds.labels(route).observe(seconds)
        for stage, taken in trace.stages.items():
            self.metrics.stage_seconds.labels(stage).observe(taken)
        reason = ""
        if status >= 400:
            reason = scope["state"].get("reason") or STATUSES.get(status, OTHER).reason
        if reason and route != "/readyz":  # a probe before the start is no rejection
            self.metrics.rejections.labels(reason).inc()
        fields = {
            "request_id": scope["state"].get("request_id", ""),
            "route": route,
            "method": method,
            "status": status,
            "ms": round(seconds * 1000, 1),
            "bytes_in": received,
            "bytes_out": sent,
            "reason": reason,
            "format": trace.format,
            "sha256": trace.sha256[:12],  # enough to find the same photo again
            **{f"{name}_ms": round(taken * 1000, 1) for name, taken in trace.stages.items()},
        }
        shown = {name: value for name, value in fields.items() if value != ""}
        log.info("request", extra={"fields": shown})


def template(scope: Scope) -> str:
    """The route as declared, such as `/api/v1/explain`, never the requested path."""
    path = getattr(scope.get("route"), "path", None)  # set by FastAPI once it has found the route
    if path:
        return str(path)
    root = scope.get("root_path", "")  # a mount adds its own
    if scope.get("endpoint") is None:
        return "other"
    return next((mount for mount in MOUNTS if root.endswith(mount)), "/openapi.json")
