"""Every error as application/problem+json (RFC 9457): what came, and what would work."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, NamedTuple

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import Response

from app.inference.errors import Busy
from cbam.errors import (
    BadImage,
    BadOption,
    CannotCut,
    CBAMLensError,
    NotAnImage,
    NotAvailable,
    OptionClash,
    TooSlow,
    UnknownName,
)
from cbam.images.formats import EITHER


class Problem(BaseModel):
    """An error (RFC 9457, application/problem+json)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    instance: str
    request_id: str


@dataclass(frozen=True)
class Status:
    """The names of an error's HTTP status."""

    reason: str  # in metrics and logs
    description: str = ""  # in the API's documentation; empty: its routes never return it
    title: str = ""  # on the page; empty: HTTP's own phrase


STATUSES = {
    400: Status("bad_form", "the form is broken or holds several files"),
    401: Status("no_key", "a key is needed, see X-API-Key"),
    404: Status("not_found"),
    405: Status("not_allowed"),
    408: Status("upload_timeout", "the upload took too long", "The upload took too long"),
    413: Status("too_large", "the body is too large", "This photo is too large"),
    415: Status("not_an_image", f"no form, or no {EITHER}", "This is not a photo we can read"),
    422: Status("invalid", "the image or a field cannot be used", "This cannot be explained"),
    429: Status("rate_limit", "too many requests: see Retry-After"),
    501: Status("not_available", "this machine lacks what the method needs"),
    503: Status("busy", "busy or starting: see Retry-After", "Busy just now"),
    504: Status("deadline", "no answer in time", "This took too long"),
}
OTHER = Status("error")

# The first class that matches decides; any other error is our own mistake, a 500.
STATUS_OF: dict[type[CBAMLensError], int] = {
    NotAnImage: 415,
    BadImage: 422,
    UnknownName: 422,
    OptionClash: 422,
    BadOption: 422,
    CannotCut: 422,
    NotAvailable: 501,
    Busy: 503,
    TooSlow: 504,
}

log = logging.getLogger("cbam_lens")


class Refusal(NamedTuple):
    """The answer to an error."""

    status: int
    detail: str  # the sentence for the user
    headers: Mapping[str, str] | None = None

    @property
    def title(self) -> str:
        """The page's headline for it."""
        return STATUSES.get(self.status, OTHER).title or HTTPStatus(self.status).phrase


def refusal(request: HTTPConnection, error: Exception) -> Refusal:
    """The answer to any exception. Keeps Busy's own reason on the request, for metrics and log."""
    if isinstance(error, HTTPException):
        return Refusal(error.status_code, error.detail, error.headers)
    if isinstance(error, Busy):
        request.state.reason = error.reason
        return Refusal(503, str(error), {"Retry-After": str(error.retry_after_s)})
    if isinstance(error, CBAMLensError):
        status = next((code for kind, code in STATUS_OF.items() if isinstance(error, kind)), 500)
        return Refusal(status, str(error))
    if isinstance(error, (RequestValidationError, ValidationError)):
        return Refusal(422, " ".join(_sentence(item) for item in error.errors()))
    return Refusal(500, "Something went wrong on our side. The request can be sent again.")


def problem(request: Request, error: Exception) -> Response:
    """The error as a response."""
    refused = refusal(request, error)
    body = Problem(
        title=HTTPStatus(refused.status).phrase,
        status=refused.status,
        detail=refused.detail,
        instance=request.url.path,
        request_id=getattr(request.state, "request_id", ""),
    )
    return JSONResponse(
        body.model_dump(), refused.status, refused.headers, "application/problem+json"
    )


async def _handle(request: Request, error: Exception) -> Response:
    return problem(request, error)


async def _handle_unexpected(request: Request, error: Exception) -> Response:
    log.exception("unexpected error on %s", request.url.path, exc_info=error)
    return problem(request, error)


def install(app: FastAPI) -> None:
    """Answer every error of `app` in this format."""
    for kind in (HTTPException, CBAMLensError, RequestValidationError, ValidationError):
        app.add_exception_handler(kind, _handle)
    app.add_exception_handler(Exception, _handle_unexpected)


def _sentence(item: Mapping[str, Any]) -> str:
    """One of pydantic's findings as a sentence: `Field 'top_k' is '0': Input should be ...`."""
    location = item.get("loc")
    name = ".".join(str(part) for part in location) if isinstance(location, tuple) else ""
    if item.get("type") == "extra_forbidden":
        return f"There is no field '{name[:80]}'; see /docs for the known fields."
    came = str(item.get("input"))[:80]
    return f"Field '{name[:80]}' is '{came}': {item.get('msg')}."
