"""From errors to HTTP: each class has its status, each status its words, and both are said once."""

import ast
import re
from http import HTTPStatus
from pathlib import Path

import pytest
from fastapi import HTTPException, Request
from fastapi.testclient import TestClient

import app
from app.inference.errors import Busy
from app.problems import STATUS_OF, STATUSES, refusal
from cbam import errors
from cbam.errors import CBAMLensError
from cbam.images.formats import FORMATS

pytest_plugins = ["app_fixtures"]

SERVICE = Path(app.__file__).parent

# No visitor can do anything about these.
OURS = (
    *(CBAMLensError, errors.MissingFile, errors.BadCard, errors.BadRecipe, errors.BadData),
    *(errors.CannotInsert, errors.CannotWrite, errors.BadSetting, errors.BadBundle),
)
THEIRS = {
    errors.UnknownName: 422,
    errors.OptionClash: 422,
    errors.BadOption: 422,
    errors.CannotCut: 422,
    errors.NotAvailable: 501,
    errors.TooSlow: 504,
    errors.BadImage: 422,
    errors.NotAnImage: 415,
    errors.BrokenImage: 422,
    errors.ImageTooLarge: 422,
}


def request() -> Request:
    return Request({"type": "http", "state": {}})


def test_every_error_of_the_library_has_been_thought_of() -> None:
    classes = {
        each
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, CBAMLensError)
    }
    assert classes == {*OURS, *THEIRS}


@pytest.mark.parametrize("kind", THEIRS)
def test_an_error_has_its_status_and_says_its_sentence(kind: type[CBAMLensError]) -> None:
    refused = refusal(request(), kind("This came. That would work."))
    assert (refused.status, refused.detail) == (THEIRS[kind], "This came. That would work.")
    assert STATUSES[refused.status].description, "it is in the API's documentation"


@pytest.mark.parametrize("kind", OURS)
def test_other_errors_are_mistakes_of_ours(kind: type[CBAMLensError]) -> None:
    assert refusal(request(), kind("x")).status == 500


def test_a_busy_engine_is_a_503_that_says_when_and_why() -> None:
    asked = request()
    refused = refusal(asked, Busy("queue_full", "Too many wait.", 7))
    assert refused == (503, "Too many wait. Try again in 7 s.", {"Retry-After": "7"})
    assert asked.state.reason == "queue_full"


def test_what_nobody_foresaw_tells_nothing_of_the_inside() -> None:
    refused = refusal(request(), RuntimeError("secret"))
    assert refused.status == 500
    assert "secret" not in refused.detail


@pytest.mark.parametrize("status", [*STATUSES, 431, 500])
def test_every_status_has_a_title_for_the_page(status: int) -> None:
    title = refusal(request(), HTTPException(status)).title
    known = STATUSES[status].title if status in STATUSES else ""
    assert title == known or (not known and title == HTTPStatus(status).phrase)


def test_the_page_shows_the_title_of_its_status(client: TestClient) -> None:
    answer = client.post("/", files={"image": ("x.jpg", b"GIF89a, no JPEG")})
    assert answer.status_code == 415
    assert f"<strong>{STATUSES[415].title}</strong>" in answer.text


def test_the_page_lets_choose_the_formats_that_are_read(client: TestClient) -> None:
    accepted = re.findall(r'type="file" id="image"[^>]* accept="([^"]*)"', client.get("/").text)
    assert accepted == [",".join(kind for each in FORMATS.values() for kind in each.accept)]


def test_statuses_have_a_reason_each() -> None:
    reasons = [status.reason for status in STATUSES.values()]
    assert len(set(reasons)) == len(reasons)
    assert set(STATUS_OF.values()) <= set(STATUSES)


@pytest.mark.parametrize(
    "file",
    [*(SERVICE / "inference").glob("*.py"), SERVICE / "oip" / "tensors.py"],
    ids=lambda file: file.name,
)
def test_below_the_routes_nobody_speaks_http(file: Path) -> None:
    imported = {
        name
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        for name in (
            [each.name for each in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert not {name.partition(".")[0] for name in imported} & {"fastapi", "starlette", "http"}
