"""Every view with its answer, in Chromium: for every reader, on every screen, for a long time.

One page is opened and filled once; then much is measured on it.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from app_server import running
from axe_playwright_python.sync_playwright import Axe
from browsing import PHOTO, USUAL
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

from app.main import create_app
from app.routes.views import VIEWS
from app.settings import Settings

pytest_plugins = ["app_fixtures", "browsing", "detecting"]
CHROMIUM_FLAGS = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


@pytest.fixture(scope="module")
def server(tiny_detectors: Path) -> Iterator[str]:
    settings = Settings(models_folder=tiny_detectors, log_style="off", inference_timeout_s=300)
    with running(create_app(settings)) as served:
        yield served.address


def tab(page: Page, name: str) -> None:
    page.locator(f".views [data-view={name}]").click()
    expect(page.locator(f"#view-{name}")).to_be_visible()


def fill(page: Page) -> None:
    """Let every view show all that it can."""
    expect(page.locator(".model-column heat-map canvas")).to_have_count(3)
    tab(page, "inside")
    expect(page.locator(".block-large .gate-large")).to_have_count(2)
    expect(page.locator(".block-large")).not_to_have_attribute("aria-busy", "true")
    tab(page, "what-if")
    page.locator("[data-gates=open]").click()
    expect(page.locator(".change heat-map canvas")).to_have_count(4)
    tab(page, "trust")
    for name in ("curves", "strip"):
        section = page.locator(f".trials:has([data-run={name}])")
        section.locator("[data-run]").click()
        expect(section.locator("article:visible")).to_have_count(3)
        expect(section.locator("progress")).to_be_hidden()
    page.locator("draw-box .board").press("Enter")
    expect(page.locator(".in-box tr")).to_have_count(5)
    tab(page, "methods")
    page.get_by_role("button", name="Measure and sort").click()
    expect(page.locator("[data-slot=measured]")).to_contain_text("Sorted.", timeout=300_000)
    tab(page, "find")
    expect(page.locator(".find-column .find-photo > canvas")).to_have_count(3)
    page.locator(".find-box:visible").first.click()
    expect(page.locator(".find-column heat-map canvas").first).to_be_visible()
    tab(page, "live")
    page.locator("live-view [data-do=start]").click()
    expect(page.locator("live-view")).to_have_attribute("data-frames", re.compile(r"[1-9]"))
    tab(page, "how")
    expect(page.locator("how-view .how-stage > *").first).to_be_visible()
    expect(page.locator("how-view")).not_to_have_attribute("aria-busy", "true")
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")


def told(line: ConsoleMessage) -> str:
    return f"{line.location['url']}: {line.text}"


@pytest.fixture(scope="module")
def page(browser: Browser, server: str) -> Iterator[Page]:
    """All views of one answer, filled and unfolded."""
    errors: list[str] = []
    with browser.new_context(**USUAL) as context:
        context.set_default_timeout(300_000)  # a busy machine; as long as the service may take
        page = context.new_page()
        page.on("console", lambda line: errors.append(told(line)) if line.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{server}/?photo={PHOTO}")
        fill(page)
        yield page
    assert errors == []


# For every reader


def violations(page: Page, within: str, *rules: str) -> list[str]:
    """What axe finds by these rules; by default all, WCAG 2.2 A and AA and best practices."""
    # Without preload: axe would fetch style sheets by wrong addresses, which the policy stops.
    options = {"resultTypes": ["violations"], "preload": False}
    if rules:
        options["runOnly"] = rules
    found = Axe().run(page, within, options).response
    return [
        f"{within}: {each['id']}: {node['html'][:150]} {node['failureSummary']}"
        for each in found["violations"]
        for node in each["nodes"]
    ]


def test_axe_finds_no_violation_in_any_view(page: Page) -> None:
    found = violations(page, "html")
    for name in VIEWS:
        tab(page, name)
        page.emulate_media(color_scheme="light")
        found += violations(page, f"#view-{name}")
        page.emulate_media(color_scheme="dark")  # which changes colours alone
        found += violations(page, f"#view-{name}", "color-contrast")
    found += violations(page, "body", "color-contrast")
    page.emulate_media(color_scheme="light")
    page.keyboard.press("?")
    found += violations(page, "dialog[open]")
    page.keyboard.press("Escape")
    assert not found, "\n".join(found)


# On every screen

# No layout may hang on the fonts of one machine: spaced monospace is wider than any of them.
WIDE = "* { font-family: monospace !important; letter-spacing: 0.1em !important; }"
LARGE = "html { font-size: 200% !important; }"
# What sticks out of the page, what of its text is cut off, and maps too small to be read, by view.
MISFITS = """([style, names]) => {
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(style);
    document.adoptedStyleSheets = [sheet];
    const root = document.documentElement;
    const scrolls = (element) => element &&
        (getComputedStyle(element).overflowX !== "visible" || scrolls(element.parentElement));
    const outside = (element) => {
        const { left, right, width } = element.getBoundingClientRect();
        const fits = left > -0.5 && right < root.clientWidth + 0.5;
        return width && !fits && !scrolls(element.parentElement);
    };
    const text = "a, button, label, legend, summary, p, h1, h2, h3, h4, th, td, li, dt, dd";
    const cut = (element) => {
        if (!element.matches(text)) return false;
        const { overflowX, overflowY, clipPath } = getComputedStyle(element);
        const { scrollWidth, clientWidth, scrollHeight, clientHeight } = element;
        const hides = (overflow) => ["hidden", "clip"].includes(overflow);
        return clipPath === "none" && // others are read aloud only
            ((hides(overflowX) && scrollWidth > clientWidth + 1) ||
                (hides(overflowY) && scrollHeight > clientHeight + 1));
    };
    const tiny = (element) => element.matches(".model-column heat-map canvas") &&
        element.getBoundingClientRect().width <= 60;
    const found = {};
    for (const name of names) {
        document.querySelector(`.views [data-view=${name}]`).click();
        const wrong = [...document.querySelectorAll("body *:not(.skip)")]
            .filter((each) => each.checkVisibility() && (outside(each) || cut(each) || tiny(each)))
            .map(({ outerHTML }) => outerHTML.slice(0, 100));
        const wider = root.scrollWidth - root.clientWidth;
        if (wider || wrong.length) found[name] = [wider, wrong];
    }
    document.adoptedStyleSheets = [];
    return found;
}"""


def test_every_view_fits_every_screen_with_any_font_and_large_text(page: Page) -> None:
    for width in (320, 390, 1024, 1440, 2560, 3840):
        page.set_viewport_size({"width": width, "height": 900})
        for style in ("", WIDE, LARGE, WIDE + LARGE):
            found = page.evaluate(MISFITS, [style, [*VIEWS]])
            assert not found, f"{width} px, {style}: {json.dumps(found)}"


def test_the_largest_screens_are_used(page: Page) -> None:
    page.set_viewport_size({"width": 3840, "height": 2160})
    tab(page, "compare")
    room = page.locator("#result").bounding_box()
    assert room
    assert room["width"] > 0.75 * 3840
    for canvas in page.locator(".model-column heat-map canvas").all():
        box = canvas.bounding_box()
        assert box
        assert box["width"] > 0.22 * 3840  # three beside each other
    size = page.evaluate("getComputedStyle(document.querySelector('.verdict p')).fontSize")
    assert float(size.removesuffix("px")) > 20


# For a long time

COUNTING = """
    const { createObjectURL, revokeObjectURL } = URL;
    window.kept = { addresses: new Set(), canvases: [] };
    URL.createObjectURL = (blob) => {
        const address = createObjectURL.call(URL, blob);
        kept.addresses.add(address);
        return address;
    };
    URL.revokeObjectURL = (address) => {
        kept.addresses.delete(address);
        revokeObjectURL.call(URL, address);
    };
    window.OffscreenCanvas = class extends OffscreenCanvas {
        constructor(width, height) {
            super(width, height);
            kept.canvases.push(new WeakRef(this));
        }
    };
"""
UPLOAD = """async (name) => {
    document.getElementById("result")?.setAttribute("data-old", "");
    window.photo ??= await (await fetch("/static/gallery/bison.jpg")).blob();
    const files = new DataTransfer();
    files.items.add(new File([window.photo], name, { type: "image/jpeg" }));
    const field = document.querySelector("#photo-form [name=image]");
    field.files = files.files;
    field.dispatchEvent(new Event("change", { bubbles: true }));
}"""
ANSWERED = "#result:not([data-old]) .model-column heat-map canvas"


@pytest.mark.parametrize("count", [30, pytest.param(200, marks=pytest.mark.slow)])
def test_many_answers_in_one_tab_leave_nothing_behind(
    browser: Browser, server: str, count: int
) -> None:
    with browser.new_context(**USUAL) as context:
        context.set_default_timeout(300_000)  # as above
        context.add_init_script(COUNTING)
        page = context.new_page()
        session = context.new_cdp_session(page)
        session.send("Performance.enable")
        page.goto(server)

        def answer(numbers: range) -> dict[str, float]:
            """Ask about one photo after the other, each in another view: what is there then."""
            for number in numbers:
                page.evaluate(UPLOAD, f"{number}.jpg")
                expect(page.locator(ANSWERED)).to_have_count(3)
                name = [*VIEWS][number % len(VIEWS)]
                page.locator(f".views [data-view={name}]").click()
            page.locator(".views [data-view=compare]").click()
            page.wait_for_load_state("networkidle")
            for _ in range(3):
                session.send("HeapProfiler.collectGarbage")
            found = session.send("Performance.getMetrics")["metrics"]
            metrics = {each["name"]: each["value"] for each in found}
            names = ("JSHeapUsedSize", "Nodes", "JSEventListeners", "Documents")
            alive = page.evaluate(
                "[kept.addresses.size, kept.canvases.filter((each) => each.deref()).length]"
            )
            return {name: metrics[name] for name in names} | dict(
                zip(("addresses", "canvases"), alive, strict=True)
            )

        first = answer(range(10))  # more than the page keeps of the last photos
        last = answer(range(10, 10 + count))
    grown = {name: last[name] - first[name] for name in first}
    said = json.dumps([first, last])
    assert grown["addresses"] <= 0, said
    assert grown["canvases"] <= 4, said
    assert grown["Documents"] <= 1, said
    assert grown["Nodes"] < 0.02 * first["Nodes"] * count, (
        said
    )  # one answer's are most of the page's
    assert grown["JSEventListeners"] < 0.02 * first["JSEventListeners"] * count, said
    assert grown["JSHeapUsedSize"] < 25_000 * count + 500_000, said
