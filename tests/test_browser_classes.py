"""Searching for a class in the page, with keyboard, mouse and without scripts, in Chromium."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from app_server import running
from browsing import Visit
from playwright.sync_api import Locator, Page, Request, expect

import cbam
from app.main import create_app
from app.settings import Settings
from cbam.cards.card import read_card, write_card
from cbam.cards.families import available
from cbam.explain.methods import METHODS

pytest_plugins = ["app_fixtures", "browsing"]

LABELLED = ("tiger cat", "Persian cat", "Siamese cat", "Egyptian cat")


@pytest.fixture(scope="module")
def server(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A family of tiny networks for 60 of ImageNet's classes, the cats and an ice bear among them:
    more classes than the page lists."""
    known = cbam.available()["resnet50-imagenet"]
    chosen = [*range(240, 299), 387]
    folder = tmp_path_factory.mktemp("sixty")
    for name, card in available(tiny_models).items():
        card = replace(
            read_card(card.folder),
            labels=tuple(known.labels[index] for index in chosen),
            folders=tuple(known.folders[index] for index in chosen),
            folder=folder / name,
        )
        with torch.random.fork_rng():
            torch.manual_seed(1)
            weights = card.network().state_dict()
            weights["fc.weight"].mul_(10)
        write_card(card, weights)
    with running(create_app(Settings(models_folder=folder, log_style="off"))) as served:
        yield served.address


@contextmanager
def asked(page: Page, times: int) -> Iterator[None]:
    """What is done inside asks the networks so many times."""
    posts: list[str] = []

    def note(request: Request) -> None:
        if request.method == "POST":
            posts.append(request.url)

    page.on("request", note)
    yield
    page.remove_listener("request", note)
    assert len(posts) == times, posts


def field(page: Page, name: str = "Look for another class") -> Locator:
    """The field by its role and label."""
    return page.get_by_role("combobox", name=name)


def options(page: Page) -> list[str]:
    """The suggestions in sight."""
    return page.locator("[role=option]:visible .name").all_inner_texts()


def active(page: Page) -> str:
    """The suggestion that the field points at, as a screen reader finds it."""
    found = field(page).get_attribute("aria-activedescendant")
    assert found, "no suggestion is active"
    option = page.locator(f"#{found}[role=option][aria-selected=true]")
    expect(option).to_have_count(1)
    expect(page.locator("[role=option][aria-selected=true]")).to_have_count(1)
    expect(option).to_be_in_viewport()
    return option.locator(".name").inner_text()


def painted(page: Page) -> None:
    expect(page.locator(".model-column heat-map canvas")).to_have_count(3)


def type_in(page: Page, text: str) -> None:
    """Type a text and wait for what is suggested."""
    field(page).press_sequentially(text)
    expect(field(page)).to_have_attribute("aria-expanded", "true")


def test_the_field_is_a_combobox_with_a_list_of_its_own(visit: Visit) -> None:
    page = visit("/")
    painted(page)
    own = field(page)
    expect(own).to_have_attribute("aria-expanded", "false")
    expect(own).to_have_attribute("aria-autocomplete", "list")
    assert own.get_attribute("aria-activedescendant") is None
    assert page.locator("[role=option]").count() == 0  # none before one types
    type_in(page, "cat")
    list_id = own.get_attribute("aria-controls")
    expect(page.locator(f"#{list_id}[role=listbox]")).to_have_attribute("aria-label", "Classes")
    assert options(page) == [
        "cat",
        *LABELLED,
        "tabby",
        "lesser panda",
        "cougar",
        "lynx",
    ]
    status = page.locator("class-search:has(#target-search) [role=status]")
    expect(status).to_have_text("9 classes.")
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(each => each.id)")
    assert len(ids) == len(set(ids))
    assert (
        page.evaluate(
            "[...document.querySelectorAll('input:not([type=hidden]), select')]"
            ".filter(each => !each.labels.length).length"
        )
        == 0
    )


def test_the_keyboard_moves_in_the_list_and_takes_a_class(visit: Visit) -> None:
    page = visit("/")
    painted(page)
    type_in(page, "cat")
    for key, expected in (
        ("ArrowDown", "cat"),
        ("ArrowDown", "tiger cat"),
        ("ArrowUp", "cat"),
        ("ArrowUp", "lynx"),
        ("ArrowDown", "cat"),
        ("End", "lynx"),
        ("Home", "cat"),
    ):
        field(page).press(key)
        assert active(page) == expected
    field(page).press("Enter")
    expect(page.locator("#result")).to_have_attribute("data-target", "cat")
    expect(page.locator(".looked")).to_have_text("Where they looked for cat")
    painted(page)
    expect(field(page)).to_be_focused()  # in the new answer, too
    assert "target=cat" in page.url


def test_enter_takes_the_best_match_even_before_it_is_suggested(visit: Visit) -> None:
    page = visit("/")
    painted(page)
    field(page).press_sequentially("POLAR")
    field(page).press("Enter")
    expect(page.locator("#result")).to_have_attribute("data-target", "ice bear")


def test_escape_closes_the_list_and_then_empties_the_field(visit: Visit) -> None:
    page = visit("/")
    painted(page)
    type_in(page, "bear")
    field(page).press("Escape")
    expect(field(page)).to_have_attribute("aria-expanded", "false")
    expect(field(page)).to_have_value("bear")
    assert options(page) == []
    field(page).press("ArrowDown")  # opens it again
    assert active(page) == "bear"
    field(page).press("Escape")
    field(page).press("Escape")
    expect(field(page)).to_have_value("")


def test_a_class_whose_maps_are_here_is_shown_without_asking(visit: Visit) -> None:
    page = visit("/")
    painted(page)
    columns = page.locator(".model-column")
    labels = [
        {each.get_attribute("value") for each in columns.nth(at).locator("ol .prediction").all()}
        for at in range(3)
    ]
    shown = page.locator("#result").get_attribute("data-target")
    label = sorted(str(each) for each in set.intersection(*labels) - {shown})[0]
    with asked(page, 0):
        type_in(page, label)
        field(page).press("Enter")
        expect(page.locator(".looked")).to_have_text(f"Where they looked for {label}")
        expect(field(page)).to_have_value("")
    with asked(page, 1):
        field(page).fill("n02123394")
        field(page).press("Enter")
        expect(page.locator("#result")).to_have_attribute("data-target", "Persian cat")
        painted(page)


def test_a_suggestion_can_be_clicked(visit: Visit) -> None:
    page = visit("/")
    painted(page)
    type_in(page, "siam")
    page.get_by_role("option", name="Siamese cat").click()
    expect(page.locator("#result")).to_have_attribute("data-target", "Siamese cat")


def test_a_name_that_no_class_has_is_said_so(visit: Visit) -> None:
    page = visit("/", allowed="422")
    painted(page)
    field(page).press_sequentially("giraffe")
    status = page.locator("class-search:has(#target-search) [role=status]")
    expect(status).to_have_text("No class by that name.")
    expect(field(page)).to_have_attribute("aria-expanded", "false")
    field(page).press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("No class 'giraffe'")


def test_the_class_to_contrast_with_is_searched_for(visit: Visit) -> None:
    page = visit("/?photo=tabby.jpg")
    painted(page)
    page.locator("details.options summary").click()
    versus = field(page, "Rather than")
    expect(versus).to_be_hidden()
    page.locator("select[name=method]").select_option("finercam")
    expect(page.locator("#result")).to_be_visible()
    versus.press_sequentially("egypt")
    expect(versus).to_have_attribute("aria-expanded", "true")
    versus.press("ArrowDown")
    versus.press("Enter")
    expect(page.locator(".rest code")).to_contain_text("-F 'versus=Egyptian cat'")
    assert "versus=Egyptian+cat" in page.url


@pytest.mark.parametrize("width", [390, 1440])
def test_the_list_lies_under_its_field_and_within_the_page(visit: Visit, width: int) -> None:
    page = visit("/", viewport={"width": width, "height": 900})
    painted(page)
    type_in(page, "cat")
    box, popup = (
        page.locator(selector).bounding_box()
        for selector in ("#target-search", "class-search:has(#target-search) .suggestions")
    )
    assert box
    assert popup
    assert 0 <= popup["y"] - (box["y"] + box["height"]) < 12
    assert abs(popup["x"] - box["x"]) < 1
    assert popup["x"] + popup["width"] <= width
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_without_javascript_the_server_resolves_the_text(visit: Visit) -> None:
    page = visit("/?photo=tabby.jpg", allowed="422", java_script_enabled=False)
    box = page.get_by_label("Look for another class")
    box.fill("polar BEAR")
    box.press("Enter")
    expect(page.locator("#result")).to_have_attribute("data-target", "ice bear")
    page.get_by_label("Look for another class").fill("egypt")
    page.get_by_role("button", name="Look", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("Did you mean Egyptian cat?")


def test_methods_of_one_class_say_so_of_a_word_and_are_not_asked(visit: Visit) -> None:
    page = visit("/?photo=tabby.jpg&target=cat&view=methods")
    painted(page)
    expect(page.locator("#result")).to_have_attribute("data-target", "cat")
    for name, method in METHODS.items():
        if method.cost_class != "low":
            continue
        row = page.locator(f".method[data-method='{name}']")
        expect(row.locator("heat-map canvas")).to_have_count(3 if method.groups else 0)
        said = "Explains one class at a time, and cat means several." if not method.groups else ""
        expect(row.locator("[data-slot=said]")).to_contain_text(said)
    page.locator(".views [data-view=compare]").click()
    type_in(page, "siam")
    page.get_by_role("option", name="Siamese cat").click()
    expect(page.locator("#result")).to_have_attribute("data-target", "Siamese cat")
    page.locator(".views [data-view=methods]").click()
    for name in (name for name, method in METHODS.items() if not method.groups):
        row = page.locator(f".method[data-method='{name}']")
        expect(row.locator("heat-map canvas")).to_have_count(3)
