"""Presenter mode and keys in Chromium."""

import base64
import json
from typing import Any

from browsing import Visit, opened
from playwright.sync_api import Page, expect

from app.routes.views import VIEWS
from app.templating import bundled
from cbam.cards.families import available

pytest_plugins = ["app_fixtures", "browsing"]
TALK = {
    "title": "Tiny",
    "steps": [
        {"say": "First, they look.", "photo": "bison.jpg", "view": "compare", "target": "c"},
        {"say": "Then — the gates.", "photo": "koala.jpg", "view": "inside", "family": "nope"},
        {"say": "Last.", "photo": "koala.jpg", "view": "what-if", "gates": "open"},
    ],
}


def encoded(talk: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(talk).encode()).decode().rstrip("=")


def says(page: Page, text: str) -> None:
    expect(page.locator("talk-stage .say")).to_have_text(text)


def test_a_link_opens_a_talk_and_the_arrows_go_through_it(visit: Visit) -> None:
    page = visit(f"/?talk={encoded(TALK)}")
    says(page, "First, they look.")
    expect(page.locator("#result")).to_have_attribute("data-photo", "bison.jpg")
    expect(page.locator("#result")).to_have_attribute("data-target", "c")
    expect(page.locator("#photo-form")).to_be_hidden()
    expect(page.locator("talk-stage")).to_contain_text("Tiny · 1 of 3")
    page.keyboard.press("ArrowRight")
    says(page, "Then — the gates.")
    expect(page.locator("#view-inside")).to_be_visible()
    page.keyboard.press("PageDown")
    says(page, "Last.")
    expect(page.locator("#view-what-if .change").first).to_be_visible()
    page.keyboard.press("ArrowRight")  # there is no next one
    says(page, "Last.")
    page.reload()
    says(page, "Last.")
    page.keyboard.press("ArrowLeft")
    says(page, "Then — the gates.")
    page.keyboard.press("Escape")
    expect(page.locator("talk-stage")).to_be_hidden()
    expect(page.locator("#photo-form")).to_be_visible()
    page.reload()
    expect(page.locator("#photo-form")).to_be_visible()


def test_a_talk_of_ones_own_is_a_file_and_a_wrong_one_is_refused(visit: Visit) -> None:
    page = opened(visit)
    page.keyboard.press("?")
    field = page.locator("[name=talk]")
    for wrong, words in (
        (b"text", "not JSON"),
        (b"{}", '"steps"'),
        (b'{"steps": [{"say": "x", "photo": "../x"}]}', "gallery"),
        (b'{"steps": [{"photo": "x.jpg"}]}', '"say"'),
        (b'{"steps": [{"say": "x", "photo": "x.jpg", "href": "x"}]}', '"href"'),
        (b'{"steps": [{"say": 5, "photo": "x.jpg"}]}', "a text"),
    ):
        file: Any = {"name": "t.json", "mimeType": "application/json", "buffer": wrong}
        field.set_input_files(file)
        expect(page.locator("page-keys [role=status]")).to_contain_text(words)
    file = {"name": "t", "mimeType": "application/json", "buffer": json.dumps(TALK).encode()}
    field.set_input_files(file)
    says(page, "First, they look.")


def test_a_link_that_was_cut_off_says_so(visit: Visit) -> None:
    page = opened(visit, f"/?photo=bison.jpg&talk={encoded(TALK)[:97]}")
    expect(page.locator("talk-stage .say")).to_contain_text("cut off")


def test_the_keys_do_what_the_list_says(visit: Visit) -> None:
    page = opened(visit)
    names = [str(each.get_attribute("data-view")) for each in page.locator(".views a").all()]
    for number, name in reversed([*enumerate(names, 1)]):
        page.keyboard.press(str(number))
        expect(page.locator(f"#view-{name}")).to_be_visible()
    classes = page.locator(".model-column").first.locator(".predictions ol .prediction")
    first, second = (str(classes.nth(at).get_attribute("value")) for at in (0, 1))
    shown = page.locator(".model-column [data-fill=target]").first
    page.keyboard.press("j")
    expect(shown).to_have_text(second)
    page.keyboard.press("k")
    expect(shown).to_have_text(first)
    for key, mode in (("m", "map"), ("f", "photo"), ("d", "difference"), ("o", "overlay")):
        page.keyboard.press(key)
        expect(page.locator(f".controls [name=view][value={mode}]")).to_be_checked()
    photos = page.locator(".gallery button[name=photo]")
    files = [str(each.get_attribute("value")) for each in photos.all()]
    page.keyboard.press("n")
    after = files[files.index("bison.jpg") + 1]
    expect(page.locator("#result")).to_have_attribute("data-photo", after)
    page.keyboard.press("b")
    expect(page.locator("#result")).to_have_attribute("data-photo", "bison.jpg")


def test_keys_typed_into_a_field_are_text_and_keys_can_be_switched_off(visit: Visit) -> None:
    page = opened(visit)
    search = page.locator("#target-search")
    search.fill("")
    search.press("2")
    search.press("?")
    expect(search).to_have_value("2?")
    expect(page.locator("#view-compare")).to_be_visible()
    expect(page.locator("dialog.keys")).to_be_hidden()
    page.locator("h1").click()
    page.keyboard.press("Escape")
    page.locator("[data-keys=list]").click()
    expect(page.locator("dialog.keys")).to_be_visible()
    page.keyboard.press("2")
    expect(page.locator("#view-compare")).to_be_visible()  # the dialog is in front
    page.locator("[name=keys]").uncheck()
    page.keyboard.press("Escape")
    expect(page.locator("dialog.keys")).to_be_hidden()
    page.locator("h1").click()
    page.keyboard.press("2")
    expect(page.locator("#view-compare")).to_be_visible()
    page.reload()
    page.keyboard.press("2")
    expect(page.locator("#view-compare")).to_be_visible()


def test_the_talk_that_comes_with_the_page_shows_what_there_is() -> None:
    folder = bundled("static")
    talk = json.loads((folder / "talks" / "attention.json").read_text(encoding="utf-8"))
    families = {card.family for card in available().values()}
    assert len(talk["steps"]) >= 5
    for step in talk["steps"]:
        assert (folder / "gallery" / step["photo"]).is_file()
        assert step["view"] in VIEWS
        assert step["family"] in families
        assert len(step["say"]) < 140


def test_p_begins_the_talk_that_comes_with_the_page(visit: Visit) -> None:
    page = opened(visit)
    talk = json.loads((bundled("static") / "talks" / "attention.json").read_text(encoding="utf-8"))
    page.keyboard.press("p")
    says(page, talk["steps"][0]["say"])
    expect(page.locator("#result")).to_have_attribute("data-photo", talk["steps"][0]["photo"])
    large = page.evaluate("parseFloat(getComputedStyle(document.documentElement).fontSize)")
    assert large > 16
