"""The page in another language, in a real Chromium: what scripts say, and the way back."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from app_server import running
from browsing import Visit
from playwright.sync_api import Page, expect

from app.main import create_app
from app.settings import Settings
from app.words import words

pytest_plugins = ["app_fixtures", "browsing"]

KOREAN = words("ko")
# As in test_app_languages: little words beside others make a phrase of English.
PHRASE = re.compile(r"\b(?:the|of|is|are|and|a|an|to|in|its|this|that|for|not|with)\b [a-z]+")
SEEN = """() => {
    const found = [];
    const walk = (node) => {
        if (node instanceof Text) { if (node.data.trim()) found.push(node.data.trim()); return; }
        const silent = "script, style, template, code, pre, [lang=en]";
        if (!(node instanceof Element) || node.matches(silent)) return;
        if (node !== document.body && !node.checkVisibility()) return;
        for (const name of ["aria-label", "title", "alt", "placeholder"]) {
            if (node.getAttribute(name)) found.push(node.getAttribute(name));
        }
        node.childNodes.forEach(walk);
    };
    walk(document.body);
    return found;
}"""


@pytest.fixture(scope="module")
def server(tiny_models: Path) -> Iterator[str]:
    with running(create_app(Settings(models_folder=tiny_models))) as served:
        yield served.address


def english(page: Page) -> list[str]:
    """What is seen or heard of the page in English."""
    return [text for text in page.evaluate(SEEN) if PHRASE.search(text)]


def show(page: Page, view: str) -> None:
    page.locator(f".views a[data-view={view}]").click()


def test_a_photo_is_answered_in_korean_and_the_same_one_in_english(
    visit: Visit, jpeg: bytes
) -> None:
    page = visit("/", locale="ko-KR")
    expect(page.locator("html")).to_have_attribute("lang", "ko")
    expect(page.locator(".model-column heat-map canvas")).to_have_count(3)
    file: Any = {"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": jpeg}
    page.evaluate("document.getElementById('result').setAttribute('data-old', '')")
    page.locator("#photo-form input[type=file][name=image]").set_input_files(file)
    answer = page.locator("#result:not([data-old])")
    expect(answer.locator(".model-column heat-map canvas")).to_have_count(3)
    expect(answer.locator(".looked")).to_contain_text("의 근거로 본 곳")
    assert not english(page)
    expect(page.locator("recent-photos li")).to_have_count(1)  # kept, to be asked about again

    show(page, "inside")
    expect(page.locator(".gate-large h3").first).to_have_text(KOREAN("gate.channel.title"))
    assert not english(page)
    show(page, "what-if")
    page.locator("[data-gates=open]").click()
    expect(page.locator(".change h3").first).to_contain_text("변경")
    assert not english(page)
    show(page, "how")
    expect(page.locator(".how-step h2")).to_have_text(KOREAN("how.gets"))
    assert not english(page)

    verdict = page.locator("#result-title").inner_text()
    page.locator(".languages a[hreflang=en]").click()
    expect(page.locator("html")).to_have_attribute("lang", "en")
    expect(page.locator("#result[data-photo='']")).to_be_visible()  # the own photo, again
    expect(page.locator("#result-photo")).to_have_attribute("width", "160")
    expect(page.locator(".how-step h2")).to_have_text("What attention gets")  # the same view
    assert page.locator("#result-title").inner_text() != verdict
    page.goto(page.url.split("?")[0])
    expect(page.locator("html")).to_have_attribute("lang", "en")  # remembered
