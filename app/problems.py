"""Every error as application/problem+json (RFC 9457): what came, and what would work."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from cbam.errors import BadCard, BadImage, CBAMLensError, NotAnImage, TooSlow, UnknownName


class Problem(BaseModel):
    """An error (RFC 9457, application/problem+json)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    instance: str
    request_id: str


log = logging.getLogger("cbam_lens")

# The first class that fits decides.
STATUS: dict[type[CBAMLensError], int] = {
    NotAnImage: 415,
    BadImage: 422,
    UnknownName: 422,
    BadCard: 500,
    TooSlow: 504,
}


def status_and_detail(error: Exception) -> tuple[int, str]:
    """HTTP status and the sentence for the user, for any exception."""
    if isinstance(error, HTTPException):
        return error.status_code, error.detail
    if isinstance(error, CBAMLensError):
        status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500)
        return status, str(error)
    if isinstance(error, (RequestValidationError, ValidationError)):
        return 422, " ".join(_sentence(item) for item in error.errors())
    return 500, "Something went wrong on our side. The request can be sent again."


def title(status: int) -> str:
    """`Unsupported Media Type` for 415."""
    return HTTPStatus(status).phrase


def problem(request: Request, error: Exception) -> Response:
    """The error as a response."""
    status, detail = status_and_detail(error)
    body = Problem(
        title=title(status),
        status=status,
        detail=detail,
        instance=request.url.path,
        request_id=getattr(request.state, "request_id", ""),
    )
    headers = getattr(error, "headers", None)
    return JSONResponse(body.model_dump(), status, headers, "application/problem+json")


async def _handle(request: Request, error: Exception) -> Response:
    return problem(request, error)


async def _handle_unexpected(request: Request, error: Exception) -> Response:
    log.exception("unexpected error on %s", request.url.path, exc_info=error)
    return problem(request, error)


def install(app: FastAPI) -> None:
    """Answer every error of `app` in this shape."""
    for kind in (HTTPException, CBAMLensError, RequestValidationError, ValidationError):
        app.add_exception_handler(kind, _handle)
    app.add_exception_handler(Exception, _handle_unexpected)


def _sentence(item: Mapping[str, Any]) -> str:
    """One of pydantic's findings as a sentence: `top_k: 99 is no good: ...`."""
    location = item.get("loc")
    name = ".".join(str(part) for part in location) if isinstance(location, tuple) else ""
    if item.get("type") == "extra_forbidden":
        return f"There is no field '{name[:80]}'; see /docs for those that there are."
    came = str(item.get("input"))[:80]
    return f"Field '{name[:80]}' is '{came}': {item.get('msg')}."
