"""A real Chromium for the tests of pages; a test file uses it with `pytest_plugins = ["browsing"]`.

The file has a fixture `server`: the address of the site. PYTEST_DONT_REWRITE: see app_fixtures.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

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


USUAL: dict[str, Any] = {
    "viewport": {"width": 1280, "height": 900},
    "reduced_motion": "reduce",  # no smooth scrolling to wait for
}


@pytest.fixture(scope="module")
def browser(request: pytest.FixtureRequest) -> Iterator[Browser]:
    """The system's Chromium. Without one these tests are skipped; in CI they fail.

    A test file's CHROMIUM_FLAGS are further arguments.
    """
    flags = getattr(request.module, "CHROMIUM_FLAGS", ())
    path = next((found for name in CHROMIUM if (found := shutil.which(name))), None)
    if path is None:
        missing = f"No Chromium on the PATH ({', '.join(CHROMIUM)}): the page is not tested."
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
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
        context.set_default_timeout(15_000)
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
