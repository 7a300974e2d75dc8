"""A real Chromium for the tests of pages; a test file uses it with `pytest_plugins = ["browsing"]`.

They visit a service of the tiny family in app_fixtures, one for all files, or what a file's own
fixture `server` is the address of. PYTEST_DONT_REWRITE: see app_fixtures.
"""

import base64
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from app_fixtures import picture
from app_server import Running, running
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from app.main import create_app
from app.settings import Settings

expect.set_options(timeout=60_000)  # a busy machine; what is there is seen at once

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = (
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--no-first-run",
)
PHOTO = "bison.jpg"  # of the gallery
# Controls and pictures that a screen reader could not name, and elements whose id is there twice.
NAMELESS = """(element) => [...element.querySelectorAll("*")].filter((each) => {
    if (!each.checkVisibility()) return false;
    const named = each.getAttribute("aria-label") || each.labels?.length || each.textContent.trim();
    const role = "[role=group], [role=gridcell], [role=application], [role=img]";
    const control = each.matches(`button, input, select, progress, ${role}`);
    return (control && !named) || document.querySelectorAll(`#${each.id || "none"}`).length > 1;
}).map((each) => each.outerHTML.slice(0, 80))"""


USUAL: dict[str, Any] = {
    "viewport": {"width": 1280, "height": 900},
    "reduced_motion": "reduce",  # no smooth scrolling to wait for
}


@pytest.fixture(scope="session")
def service(tiny_models: Path) -> Iterator[Running]:
    """The tiny family under our server."""
    with running(create_app(Settings(models_folder=tiny_models, log_style="off"))) as served:
        yield served


@pytest.fixture(scope="session")
def server(service: Running) -> str:
    """The address that is visited."""
    return service.address


def installed(name: str, commands: tuple[str, ...]) -> str:
    """The path of a browser. Without one the tests that ask for it are skipped; in CI they fail."""
    path = next((found for command in commands if (found := shutil.which(command))), None)
    if path is None:
        missing = f"No {name} on the PATH ({', '.join(commands)}): the page is not tested in it."
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return path


@pytest.fixture(scope="module")
def browser(request: pytest.FixtureRequest) -> Iterator[Browser]:
    """The system's Chromium. A test file's CHROMIUM_FLAGS are further arguments."""
    flags = getattr(request.module, "CHROMIUM_FLAGS", ())
    path = installed("Chromium", CHROMIUM)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*QUIET, *flags])
        yield browser
        browser.close()


Visit = Callable[..., Page]


@pytest.fixture
def visit(browser: Browser, server: str) -> Iterator[Visit]:
    """Open a path of the site: `visit("/", color_scheme="dark")`.

    Afterwards no visit may have left an error in the console, other than those that `allowed`
    matches, nor asked any other host for anything. `script` runs before the page's own.
    """
    errors: list[str] = []
    addresses: list[str] = []
    patterns: list[str] = []
    contexts = []

    def open_page(path: str = "/", allowed: str = "", script: str = "", **options: Any) -> Page:
        context = browser.new_context(**{**USUAL, **options})
        if script:
            context.add_init_script(script)
        contexts.append(context)
        context.set_default_timeout(60_000)
        if allowed:
            patterns.append(allowed)
        page = context.new_page()
        page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: addresses.append(request.url))
        page.goto(server + path)
        return page

    yield open_page
    for context in contexts:
        context.close()
    unexpected = [line for line in errors if not any(re.search(each, line) for each in patterns)]
    assert not unexpected, f"errors in the console: {unexpected}"
    foreign = [url for url in addresses if not url.startswith((server + "/", "data:", "blob:"))]
    assert not foreign, f"asked other hosts: {foreign}"
    assert addresses


def opened(visit: Visit, path: str = f"/?photo={PHOTO}", **options: Any) -> Page:
    """The page with a photo's answer, its three columns painted if there are scripts."""
    page = visit(path, **options)
    shown = "heat-map canvas" if options.get("java_script_enabled", True) else "heat-map"
    expect(page.locator(f"#result .model-column {shown}")).to_have_count(3)
    return page


def file_of(data: bytes, name: str = "photo.jpg", kind: str = "image/jpeg") -> Any:
    """A file for a file field."""
    return {"name": name, "mimeType": kind, "buffer": data}


def choose(page: Page, data: bytes, **file: str) -> None:
    """Choose a photo in the form."""
    page.locator("#photo-form input[type=file][name=image]").set_input_files(file_of(data, **file))


@contextmanager
def answered(page: Page) -> Iterator[None]:
    """What is done inside brings a new answer, with its three columns painted."""
    page.evaluate("document.getElementById('result')?.setAttribute('data-old', '')")
    yield
    columns = page.locator("#result:not([data-old]) .model-column heat-map canvas")
    expect(columns.nth(2)).to_be_attached()
    expect(page.locator("#result")).to_have_count(1)


def upload(page: Page, data: bytes) -> None:
    """Choose a photo and wait for the answer."""
    with answered(page):
        choose(page, data)


def press(page: Page, label: str, column: int = 0) -> None:
    """Press a class in a column; the less probable ones are folded away."""
    button = page.locator(".model-column").nth(column).locator(f".prediction[value='{label}']")
    if not button.is_visible():
        page.locator(".model-column").nth(column).locator(".predictions summary").click()
    button.click()


def painting(canvas: Locator) -> np.ndarray:
    """What a canvas shows: (height, width, 3)."""
    return pixels(canvas.evaluate("canvas => canvas.toDataURL()"))


def pixels(uri: str) -> np.ndarray:
    """The picture in a data URI: (height, width, 3)."""
    return np.asarray(picture(base64.b64decode(uri.split(",")[1])).convert("RGB")).astype(int)


def nameless(page: Page, within: str) -> list[str]:
    """The beginnings of what has no name, or the same id as another, in this part of the page."""
    found: list[str] = page.locator(within).evaluate(NAMELESS)
    return found
