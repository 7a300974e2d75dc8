"""How a photo gets into the page, in a real Chromium: camera, upload, queue, the last photos."""

import numpy as np
import pytest
from app_fixtures import encoded, photo
from app_server import Running, models_at_work
from browsing import Visit, answered, choose
from playwright.sync_api import Page, expect

pytest_plugins = ["app_fixtures", "browsing"]

# Two cameras that show a test picture, and nobody to ask for permission.
CHROMIUM_FLAGS = (
    "--use-fake-device-for-media-stream=device-count=2",
    "--use-fake-ui-for-media-stream",
)


def names(page: Page) -> list[str]:
    """The last photos, as listed."""
    return [
        str(each.get_attribute("title")) for each in page.locator("recent-photos li button").all()
    ]


# The camera


def open_camera(page: Page) -> None:
    page.get_by_role("button", name="Take a photo").click()
    expect(page.get_by_role("button", name="Take the photo")).to_be_enabled()


LIVE = "() => [...document.querySelectorAll('video')].filter((video) => video.srcObject).length"


def test_a_photo_from_the_camera_is_answered_and_the_camera_stops(visit: Visit) -> None:
    page = visit(permissions=["camera"])
    open_camera(page)
    size = page.locator("take-photo video").evaluate(
        "video => [video.videoWidth, video.videoHeight]"
    )
    with answered(page):
        page.get_by_role("button", name="Take the photo").click()
    expect(page.locator("#result-photo")).to_have_attribute("width", str(size[0]))
    expect(page.locator("#result-photo")).to_have_attribute("height", str(size[1]))
    expect(page.locator("dialog.camera")).to_be_hidden()
    assert page.evaluate(LIVE) == 0
    assert names(page) == ["camera.jpg"]


def test_of_two_cameras_the_other_one_can_be_taken(visit: Visit) -> None:
    page = visit(permissions=["camera"])
    open_camera(page)
    which = "video => video.srcObject.getVideoTracks()[0].getSettings().deviceId"
    first = page.locator("take-photo video").evaluate(which)
    with page.expect_event("console", lambda line: line.text == "started"):
        page.locator("take-photo video").evaluate(
            "video => video.addEventListener('playing', () => console.log('started'))"
        )
        page.get_by_role("button", name="Other camera").click()
    assert page.locator("take-photo video").evaluate(which) != first
    page.get_by_role("dialog").get_by_role("button", name="Close").click()
    assert page.evaluate(LIVE) == 0


@pytest.mark.parametrize(
    ("error", "words"), [("NotAllowedError", "Allow it"), ("NotFoundError", "Connect one")]
)
def test_a_camera_that_does_not_start_says_what_would_work(
    visit: Visit, error: str, words: str
) -> None:
    page = visit(
        script="navigator.mediaDevices.getUserMedia = async () => {"
        f" throw new DOMException('no', '{error}'); }};"
    )
    page.get_by_role("button", name="Take a photo").click()
    said = page.locator("dialog.camera .trouble")
    expect(said).to_contain_text(words)
    expect(said).to_contain_text("choose a file")
    expect(page.get_by_role("button", name="Take the photo")).to_be_disabled()


# Sending and waiting


def test_an_upload_shows_how_much_has_gone_and_can_be_cancelled_and_asked_again(
    visit: Visit, service: Running
) -> None:
    page = visit()
    noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=np.uint8)
    large = encoded(photo(1200, 900), "PNG") + noise.tobytes()  # what follows a PNG is not read
    seen = page.evaluate_handle(
        """() => {
            const seen = [];
            const bar = document.querySelector(".progress progress");
            new MutationObserver(() => { if (bar.hasAttribute("value")) seen.push(bar.value); })
                .observe(bar, { attributes: true });
            return seen;
        }"""
    )
    network = page.context.new_cdp_session(page)
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 2e6}
    network.send("Network.emulateNetworkConditions", slow)
    with models_at_work(service):
        choose(page, large)
        expect(page.locator("#status")).to_have_text("Asking the networks…")
        shares = seen.json_value()
        assert any(share > 0 for share in shares), "the bar never moved"
        assert shares == sorted(shares)
        assert all(0 <= share < 1 for share in shares)
        before = page.locator("#result-photo").get_attribute("src")
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator("#status")).to_have_text("Cancelled.")
        expect(page.locator(".progress progress")).to_be_hidden()
        assert page.locator("#result-photo").get_attribute("src") == before  # the last answer
    with answered(page):
        page.get_by_role("button", name="Ask again").click()
    expect(page.locator("#result-photo")).to_have_attribute("width", "1200")
    expect(page.locator(".stopper")).to_be_hidden()


def test_who_waits_is_told_how_many_are_before(visit: Visit, service: Running, jpeg: bytes) -> None:
    page, others = visit(), [visit(), visit()]
    engine = service.server.service.state.engine
    with models_at_work(service) as free:
        for number, other in enumerate([*others, page], start=1):
            choose(other, encoded(photo(seed=number)))
            page.wait_for_timeout(100)
        # The first is with the blocked models; the second waits before ours.
        expect(page.locator("#status")).to_contain_text("at most one question is before yours")
        assert engine.queue.depth == 2
        with answered(page):
            free.set()
    expect(page.locator("#status")).not_to_contain_text("queue")


def test_a_busy_server_can_be_asked_again(visit: Visit, jpeg: bytes) -> None:
    page = visit(allowed="status of 503")
    page.route("**/", lambda route: route.fulfill(status=503, body="busy"))
    choose(page, jpeg)
    expect(page.get_by_role("alert")).to_contain_text("503")
    page.unroute("**/")
    with answered(page):
        page.get_by_role("button", name="Try again").click()
    expect(page.locator("#error")).to_have_count(0)


def test_a_photo_that_never_works_is_not_to_be_tried_again(visit: Visit) -> None:
    page = visit(allowed="status of 415")
    choose(page, b"I am text")
    expect(page.get_by_role("alert")).to_contain_text("JPEG, PNG")
    expect(page.get_by_role("button", name="Try again")).to_have_count(0)
    assert names(page) == []


# The last photos


def test_the_last_photos_stay_in_the_browser_until_they_are_cleared(visit: Visit) -> None:
    page = visit()
    recent = page.locator("recent-photos")
    expect(recent).to_be_hidden()
    for number in (1, 2):
        with answered(page):
            choose(page, encoded(photo(100 * number, 100, seed=number)), name=f"{number}.jpg")
    expect(recent.locator("li")).to_have_count(2)
    page.reload()
    expect(recent.locator("li img")).to_have_count(2)
    assert names(page) == ["2.jpg", "1.jpg"]
    expect(recent).to_contain_text("in this browser only")
    with answered(page):
        recent.get_by_role("button", name="1.jpg").click()
    expect(page.locator("#result-photo")).to_have_attribute("width", "100")
    expect(recent.locator("li button").first).to_have_attribute("title", "1.jpg")  # kept once
    assert names(page) == ["1.jpg", "2.jpg"]
    recent.get_by_role("button", name="Clear").click()
    expect(recent).to_be_hidden()
    page.reload()
    expect(page.locator("#result")).to_be_visible()
    expect(recent).to_be_hidden()


def test_only_the_last_eight_photos_are_kept(visit: Visit) -> None:
    page = visit()
    page.evaluate(
        """async () => {
            const { keep } = await import("/static/js/lib/photo-store.js");
            for (let i = 0; i < 10; i++) await keep(new File(["x"], `${i}.jpg`), null);
        }"""
    )
    page.reload()
    expect(page.locator("recent-photos li")).to_have_count(8)
    assert names(page) == [f"{number}.jpg" for number in range(9, 1, -1)]


def test_without_a_store_the_page_works_and_keeps_nothing(visit: Visit, jpeg: bytes) -> None:
    page = visit(script="Object.defineProperty(window, 'indexedDB', { value: undefined });")
    with answered(page):
        choose(page, jpeg)
    expect(page.locator("recent-photos")).to_be_hidden()
