"""Gives every answer a request id and headers that restrict what a browser may do with it."""

import asyncio
import re
import uuid
from collections.abc import Sequence

from fastapi import HTTPException, Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.problems import problem

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "font-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


# The request ids we accept from a proxy: they are written to logs and answers.
REQUEST_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{7,63}")
# Probes reach the service by its address, not by its name.
PROBES = ("/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready")


def guards(request_id: str) -> dict[str, str]:
    """The headers of every answer, including those that are sent without the app."""
    return {**HEADERS, "X-Request-ID": request_id, "Cache-Control": "no-store"}


class Guard:
    """ASGI middleware that adds the headers above and `X-Request-ID`, keeps results out of caches,
    answers only trusted hosts and HEAD wherever there is GET, and handles the prefix under which a
    proxy serves the app.

    The headers in the scope's `state["headers"]` are sent with any answer, errors included.
    """

    def __init__(
        self, app: ASGIApp, root_path: str = "", trusted_hosts: Sequence[str] = ()
    ) -> None:
        self.app = app
        self.root_path = root_path.rstrip("/")
        self.trusted_hosts = trusted_hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        request_id = _request_id(scope)
        extra: dict[str, str] = {}
        scope.setdefault("state", {}).update(request_id=request_id, headers=extra)
        self._mount(scope)
        path: str = scope["path"]
        started = False

        head = scope.get("method") == "HEAD"

        async def guarded(message: Message) -> None:
            nonlocal started
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                started = True
                headers = MutableHeaders(scope=message)
                headers.update({**guards(request_id), **extra})
                if headers.get("allow") == "GET":
                    headers["Allow"] = "GET, HEAD"
                if "/static/" in path or "/swagger/" in path:
                    headers["Cache-Control"] = "no-cache"
            if head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        async def refuse(status: int, detail: str) -> None:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            response = problem(Request(scope), HTTPException(status, detail))
            await response(scope, receive, guarded)

        if not self._trusts(scope):
            host = Headers(scope=scope).get("host", "")
            await refuse(400, f"This service is not known as '{host[:80]}'.")
            return
        # HEAD is GET without the body (RFC 9110, section 9.3.2), so the routes only know GET.
        inner = {**scope, "method": "GET"} if head else scope
        try:
            await self.app(inner, receive, guarded)
        except asyncio.CancelledError:
            if not started:
                await refuse(503, "The service is stopping and could not finish. Try again.")
            raise
        finally:
            if head:  # what routing found out is for metrics and log, too
                scope.update({**inner, "method": "HEAD"})

    def _mount(self, scope: Scope) -> None:
        """Put the prefix where routing expects it, whether or not the proxy has removed it."""
        if self.root_path:
            inside = scope["path"].removeprefix(self.root_path) or "/"
            if not inside.startswith("/"):
                inside = scope["path"]  # /lensless is not under /lens
            scope["path"] = self.root_path + inside
        scope["root_path"] = self.root_path or scope.get("root_path", "")

    def _trusts(self, scope: Scope) -> bool:
        """Whether the Host is one of ours."""
        inside = scope["path"].removeprefix(self.root_path)
        if not self.trusted_hosts or inside in PROBES:
            return True
        host = _without_port(Headers(scope=scope).get("host", ""))
        return any(
            host == known or (known.startswith("*.") and host.endswith(known[1:]))
            for known in self.trusted_hosts
        )


def _request_id(scope: Scope) -> str:
    """The id that came with the request, if it looks like one; otherwise a new one."""
    came = Headers(scope=scope).get("x-request-id", "")
    return came if REQUEST_ID.fullmatch(came) else uuid.uuid4().hex


def _without_port(host: str) -> str:
    """`[::1]:8000` -> `[::1]`, `Example.org:80` -> `example.org`."""
    end = host.rfind(":")
    return (host[:end] if end > host.rfind("]") else host).lower()
