"""The views of an answer, in Chromium: one at a time, each with an address that restores it."""

from urllib.parse import parse_qs, urlsplit

from app_server import Running, models_at_work
from browsing import PHOTO, Visit
from playwright.sync_api import Page, expect

from app.routes.views import VIEWS

pytest_plugins = ["app_fixtures", "browsing"]


def tab(page: Page, name: str) -> None:
    page.locator(f".views [data-view={name}]").click()


def offered(page: Page) -> list[str]:
    expect(page.locator("#result .view[data-shown]")).to_have_count(1)
    return [str(each.get_attribute("data-view")) for each in page.locator(".views a").all()]


def test_one_view_is_in_sight_and_its_tab_is_marked(visit: Visit) -> None:
    page = visit(f"/?photo={PHOTO}")
    names = offered(page)
    assert names == [name for name in VIEWS if name in names]
    assert names[0] == "compare"
    for name in [*names[1:], names[0]]:
        tab(page, name)
        expect(page.locator(f"#view-{name}")).to_be_visible()
        expect(page.locator("#result .view:visible")).to_have_count(1)
        expect(page.locator(".views [aria-current=true]")).to_have_attribute("data-view", name)
        assert parse_qs(urlsplit(page.url).query) == {"photo": [PHOTO], "view": [name]}


def test_the_address_restores_the_view_and_the_next_answer_keeps_it(visit: Visit) -> None:
    page = visit(f"/?photo={PHOTO}&view=inside")
    expect(page.locator("#view-inside")).to_be_visible()
    page.locator(".gallery button[name=photo]").nth(1).click()
    expect(page.locator(f"#result:not([data-photo='{PHOTO}'])")).to_have_count(1)
    expect(page.locator("#view-inside")).to_be_visible()
    expect(page.locator("#view-compare")).to_be_hidden()
    assert parse_qs(urlsplit(page.url).query)["view"] == ["inside"]


def test_an_unknown_view_in_the_address_is_the_first(visit: Visit) -> None:
    page = visit(f"/?photo={PHOTO}&view=none-of-them")
    expect(page.locator("#view-compare")).to_be_visible()


def test_a_link_with_gates_opens_what_if(visit: Visit) -> None:
    page = visit(f"/?photo={PHOTO}&gates=open")
    expect(page.locator("#view-what-if")).to_be_visible()


def test_the_keyboard_reaches_every_view(visit: Visit) -> None:
    page = visit(f"/?photo={PHOTO}")
    page.locator(".views a").first.focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator(f"#view-{offered(page)[1]}")).to_be_visible()


def test_a_question_to_the_api_carries_the_photo_and_the_answers_options(visit: Visit) -> None:
    page = visit(f"/?photo={PHOTO}&method=layercam", allowed="422")
    offered(page)
    answer = page.evaluate(
        """async () => {
            const { ask } = await import("/static/js/lib/ask.js");
            const same = await (await ask("explain", { top_k: 2 })).json();
            const { target } = document.querySelector("#result").dataset;
            const { title, status } = await ask("explain", { target: "no such" }).catch((e) => e);
            return [same, target, title, status];
        }""",
    )
    explained, target, title, status = answer
    assert explained["target"]["label"] == target
    assert explained["method"] == "layercam"
    assert [len(each["predictions"]) for each in explained["results"]] == [2, 2, 2]
    assert status == 422
    assert title


def test_without_scripts_the_views_stand_one_below_the_other(visit: Visit) -> None:
    page = visit(f"/?photo={PHOTO}", java_script_enabled=False)
    for name, view in VIEWS.items():
        if not view.scripts:
            expect(page.locator(f"#view-{name}")).to_be_visible()
    expect(page.locator(".views")).to_be_hidden()


def test_how_it_works_says_that_it_waits(visit: Visit, service: Running) -> None:
    page = visit(f"/?photo={PHOTO}")
    offered(page)
    place = page.locator("#view-how [data-fill=place]")
    with models_at_work(service):
        tab(page, "how")
        expect(place).to_have_text("Asking the networks…")
    expect(place).to_contain_text("Step 1 of")
