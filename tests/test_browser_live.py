"""The live view in Chromium with a fake camera: answers come, and it ends when unseen."""

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from app_fixtures import FAMILY, picture, write_family
from app_server import running
from browsing import Visit
from detecting import tiny_detector
from playwright.sync_api import Page, WebSocket, expect

from app.main import create_app
from app.settings import Settings
from cbam.cards.families import available

pytest_plugins = ["app_fixtures", "browsing"]
CHROMIUM_FLAGS = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
LIVE = "/?photo=bison.jpg&view=live"
SEVERAL = re.compile(r"^(\d{2,}|[2-9])$")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service with the tiny family and a detector on each of its members."""
    folder = write_family(tmp_path_factory.mktemp("models"))
    for card in available(folder).values():
        tiny_detector(folder, card.attention, card)
    with running(create_app(Settings(models_folder=folder, log_style="off"))) as served:
        yield served.address


def started(visit: Visit) -> Page:
    """The live view after two answers."""
    page = visit(LIVE)
    page.locator("live-view [data-do=start]").click()
    expect(page.locator("live-view")).to_have_attribute("data-frames", SEVERAL)
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
    columns = page.locator("live-view article:visible")
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


def test_detectors_boxes_are_drawn_on_the_cameras_pictures(visit: Visit) -> None:
    page = visit(LIVE)
    page.set_default_timeout(60_000)
    told: list[dict[str, Any]] = []

    def listen(socket: WebSocket) -> None:
        socket.on("framereceived", lambda data: told.append(json.loads(data)))

    page.on("websocket", listen)
    page.get_by_role("radio", name="What is where").check(force=True)
    page.locator("live-view [data-do=start]").click()
    expect(page.locator("live-view")).to_have_attribute("data-frames", SEVERAL)
    expect(page.locator("live-view [data-slot=rate]")).to_contain_text("frames per second")
    columns = page.locator("live-view article:visible")
    names = [f"{name}-things" for name in FAMILY]
    assert [each.get_attribute("data-model") for each in columns.all()] == names
    page.locator("live-view [data-do=stop]").click()
    assert tracks(page) == 0
    for name, column in zip(names, columns.all(), strict=True):
        answers = [
            [
                f"{each['label']} {100 * each['score']:.1f}"
                for result in answer["results"]
                if result["model"] == name
                for each in result["detections"]
            ]
            for answer in told
        ]
        assert any(answers)  # else nothing was drawn
        shown = column.locator("[data-slot=found]").inner_text()
        said = re.findall(r"(?:red|blue) [\d.]+", shown)
        assert said in answers
        pixels = np.asarray(picture(column.locator("canvas").screenshot()).convert("RGB"))
        if said:
            assert (pixels.min(axis=2) > 250).sum() > 20  # a box's line


def test_a_running_camera_goes_on_with_the_other_question(visit: Visit) -> None:
    page = started(visit)
    page.get_by_role("radio", name="What is where").check(force=True)
    expect(page.locator("live-view .live-boxes:visible")).to_have_count(3)
    expect(page.locator("live-view .live-heat:visible")).to_have_count(0)
    assert tracks(page) == 1
    page.get_by_role("radio", name="What it is").check(force=True)
    expect(page.locator("live-view .live-heat:visible")).to_have_count(3)


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
