"""The live view in Chromium with a fake camera: answers come, and it ends when unseen."""

import re

import numpy as np
from app_fixtures import FAMILY, picture
from browsing import Visit
from playwright.sync_api import Page, expect

pytest_plugins = ["app_fixtures", "browsing"]
CHROMIUM_FLAGS = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
LIVE = "/?photo=bison.jpg&view=live"


def started(visit: Visit) -> Page:
    """The live view after two answers."""
    page = visit(LIVE)
    page.locator("live-view [data-do=start]").click()
    several = re.compile(r"^(\d{2,}|[2-9])$")
    expect(page.locator("live-view")).to_have_attribute("data-frames", several)
    return page


def tracks(page: Page) -> int:
    """Running tracks of the camera."""
    count: int = page.evaluate(
        "document.querySelector('live-view video').srcObject?.getTracks()"
        ".filter(track => track.readyState === 'live').length ?? 0"
    )
    return count


def test_the_cameras_pictures_are_answered_side_by_side(visit: Visit) -> None:
    page = started(visit)
    assert tracks(page) == 1
    columns = page.locator("live-view article")
    assert [each.get_attribute("data-model") for each in columns.all()] == list(FAMILY)
    for column in columns.all():
        expect(column.locator("[data-slot=chance]")).to_contain_text("%")
        shown = column.locator(".live-heat").screenshot()
        assert np.asarray(picture(shown).convert("RGB")).std() > 10
    gates = page.locator("live-view .live-gate:visible")
    expect(gates).to_have_count(1)  # CBAM's: the others know no places
    expect(page.locator("live-view figcaption:visible")).to_contain_text("layer4.1")
    expect(page.locator("live-view [data-slot=rate]")).to_contain_text("frames per second")
    page.locator("live-view [data-do=stop]").click()
    assert tracks(page) == 0
    expect(page.locator("live-view [data-do=start]")).to_be_visible()


def test_it_stops_when_another_view_is_shown_and_can_start_again(visit: Visit) -> None:
    page = started(visit)
    page.locator(".views [data-view=compare]").click()
    expect(page.locator("#view-live")).to_be_hidden()
    assert tracks(page) == 0
    page.locator(".views [data-view=live]").click()
    page.locator("live-view [data-do=start]").click()
    expect(page.locator("live-view [data-do=stop]")).to_be_visible()
    page.evaluate(
        """() => {
            Object.defineProperty(document, "hidden", { value: true });
            document.dispatchEvent(new Event("visibilitychange"));
        }"""
    )
    expect(page.locator("live-view [data-slot=said]")).to_contain_text("out of sight")
    for _ in range(200):  # a camera that was still starting is stopped as soon as it is there
        if tracks(page) == 0:
            break
        page.wait_for_timeout(50)
    assert tracks(page) == 0


def test_without_a_camera_it_says_what_would_work(visit: Visit) -> None:
    refuse = "navigator.mediaDevices.getUserMedia = () => { throw new DOMException('', '%s') }"
    for name, words in (("NotAllowedError", "Allow it"), ("NotFoundError", "No camera")):
        page = visit(LIVE, script=refuse % name)
        page.locator("live-view [data-do=start]").click()
        expect(page.locator("live-view [data-slot=said]")).to_contain_text(words)
        expect(page.locator("live-view [data-do=start]")).to_be_visible()
