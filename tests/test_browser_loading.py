"""The page in a real Chromium while the service still loads its models."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from app_server import running
from browsing import PHOTO, Visit, choose
from playwright.sync_api import Page, expect

from app.main import create_app
from app.settings import Settings

pytest_plugins = ["app_fixtures", "browsing"]

REFUSED = "503"  # the browser notes the refusal of a question
LOADED_MS = 180_000  # at most


@pytest.fixture
def server(tiny_models: Path, may_load: threading.Event) -> Iterator[str]:
    """The address of a service that loads its models once `may_load` is set."""
    app = create_app(Settings(models_folder=tiny_models, log_style="off"))
    with running(app, loaded=False) as served:
        yield served.address
        may_load.set()


def is_loading(page: Page) -> None:
    """The page says that it waits for the models, and nothing of trouble."""
    expect(page.locator("#error")).to_have_count(1)
    expect(page.locator("models-loading")).to_contain_text("The models are being loaded")
    expect(page.get_by_text("Busy just now")).to_have_count(0)
    expect(page.get_by_role("button", name="Try again")).to_have_count(0)
    expect(page.locator("#result")).to_have_count(0)


def is_answered(page: Page) -> None:
    """The page has the answer and no longer says that it waits."""
    columns = page.locator("#result .model-column heat-map canvas")
    expect(columns).to_have_count(3, timeout=LOADED_MS)
    expect(page.locator("#error")).to_have_count(0)


@pytest.mark.parametrize("path", [f"/?photo={PHOTO}&target=c", "/"])
def test_a_page_opened_too_early_is_answered_by_itself(
    visit: Visit, may_load: threading.Event, path: str
) -> None:
    page = visit(path, allowed=REFUSED)
    is_loading(page)
    may_load.set()
    is_answered(page)
    if "target" in path:
        assert page.locator("#result").get_attribute("data-target") == "c"


def test_a_photo_sent_too_early_is_answered_by_itself(
    visit: Visit, may_load: threading.Event, jpeg: bytes
) -> None:
    page = visit(allowed=REFUSED)
    is_loading(page)
    choose(page, jpeg)
    page.wait_for_load_state("networkidle")
    is_loading(page)
    may_load.set()
    is_answered(page)
    assert str(page.locator("#result-photo").get_attribute("src")).startswith("blob:")


def test_without_scripts_a_link_opened_too_early_loads_itself_again(
    visit: Visit, may_load: threading.Event
) -> None:
    page = visit(f"/?photo={PHOTO}", allowed=REFUSED, java_script_enabled=False)
    is_loading(page)
    may_load.set()
    expect(page.locator("#result .model-column")).to_have_count(3, timeout=LOADED_MS)
    expect(page.locator("#error")).to_have_count(0)
