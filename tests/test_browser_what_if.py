"""Changing gates on the page, in Chromium: what a reader does, and that the numbers are right."""

import re
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from app_fixtures import FAMILY
from browsing import PHOTO, Visit, nameless, opened
from playwright.sync_api import Locator, Page, expect

import cbam
from cbam.explain.explainer import before_and_after
from cbam.explain.question import Options, resolve
from cbam.images.photo import open_photo

pytest_plugins = ["app_fixtures", "browsing"]

WITH_GATES = FAMILY[1:]


@pytest.fixture(scope="module")
def family(tiny_models: Path) -> list[cbam.Model]:
    return [cbam.load(tiny_models / name) for name in WITH_GATES]


def what_if(visit: Visit, gates: str = "", **options: Any) -> Page:
    """The page with the answer for a gallery photo, What if in sight."""
    path = f"/?photo={PHOTO}&gates={gates}" if gates else f"/?photo={PHOTO}"
    page = opened(visit, path, **options)
    if not gates and options.get("java_script_enabled", True):
        page.get_by_role("link", name="What if").click()
    return page


def unfold(page: Page) -> None:
    page.locator(".by-block > summary").click()


def settled(page: Page, text: str) -> Locator:
    """The answers to this text, once they are there."""
    expect(page.locator(".what-if [name=gates]")).to_have_value(text)
    answers = page.locator(".what-if [data-slot=changes]")
    if text:
        expect(answers).to_contain_text(f"Intervention: {text}.")
    else:
        expect(answers).to_be_empty()
    return answers.locator(".change")


def assert_the_librarys(page: Page, family: list[cbam.Model], server: str, text: str) -> None:
    """Every number of the answers is the one that the library gives."""
    photo = open_photo(httpx.get(f"{server}/static/gallery/{PHOTO}").content)
    target = str(page.locator("#result").get_attribute("data-target"))
    question = resolve(family, Options(target, gates=text))
    before, after = before_and_after(question, photo)
    expected = [pair for pair in zip(before, after, strict=True) if pair[1].changed]
    changes = settled(page, text)
    expect(changes).to_have_count(len(expected))
    for change, (old, new) in zip(changes.all(), expected, strict=True):
        said = re.sub(r"\s+", " ", change.inner_text())
        assert f"{old.target.probability:.1%}".replace("%", " %") in said
        assert f"{new.target.probability:.1%}".replace("%", " %") in said
        for name, own in (("data-before", old), ("data-after", new)):
            shown = float(str(change.get_attribute(name)))
            assert shown == pytest.approx(own.target.probability, abs=1e-5)
        first, last = old.predictions[0], new.predictions[0]
        was, now = (f"{each.probability:.1%}".replace("%", " %") for each in (first, last))
        stays = f"The answer stays: {first.label} ({was} → {now})"
        flips = f"The answer flips: {first.label} ({was}) → {last.label} ({now})"
        assert (stays if first.index == last.index else flips) in said
        maps = change.locator("heat-map")
        for heat, own in zip(maps.all(), (old, new), strict=True):
            peak = heat.evaluate("heat => heat.map().max")
            assert peak == pytest.approx(float(own.heatmap.max()), rel=1e-3, abs=1e-4)
            listed = heat.locator("xpath=..").locator("li").all_inner_texts()
            assert [each.split()[0] for each in listed] == [
                each.label for each in own.predictions[:3]
            ]


def test_it_is_one_step_away_and_always_says_that_nothing_is_retrained(visit: Visit) -> None:
    page = visit(f"/?photo={PHOTO}")
    expect(page.locator(".what-if-note")).to_be_hidden()
    page.get_by_role("link", name="What if").click()
    expect(page.locator(".what-if-note")).to_contain_text("not a retraining")
    expect(page.locator(".change")).to_have_count(0)


def test_presets_switches_strengths_and_paths_show_the_librarys_numbers(
    visit: Visit, family: list[cbam.Model], server: str
) -> None:
    page = what_if(visit)
    expect(page.locator("[data-gates=mean]")).to_be_disabled()  # the tiny cards hold none
    page.locator("[data-gates=open]").click()
    assert_the_librarys(page, family, server, "open")
    unfold(page)
    control = page.locator("[data-gate='layer1.0.spatial']")
    expect(control.locator("select")).to_have_value("off")
    control.locator("select").select_option("own")  # beside the preset
    assert_the_librarys(page, family, server, "open, layer1.0.spatial=own")
    page.locator("[data-do=reset]").click()
    settled(page, "")
    control.locator("select").select_option("max")
    assert_the_librarys(page, family, server, "layer1.0.spatial=max")
    slider = page.locator("[data-gate='layer4.1.channel'] input")
    slider.fill("0.4")
    text = "layer1.0.spatial=max, layer4.1.channel=0.4"
    assert_the_librarys(page, family, server, text)


def test_what_networks_say_as_they_are_is_asked_once(
    visit: Visit, family: list[cbam.Model], server: str
) -> None:
    page = what_if(visit)
    unfold(page)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.headers.get("x-fragment", "")))
    page.locator("[data-gate='layer1.0.spatial'] select").select_option("off")
    text = "layer1.0.spatial=off"
    assert_the_librarys(page, family, server, text)
    page.locator("[data-gate='layer2.0.spatial'] select").select_option("max")
    text += ", layer2.0.spatial=max"
    assert_the_librarys(page, family, server, text)
    page.locator("[data-gate='layer1.0.channel'] select").select_option("off")
    text += ", layer1.0.channel=off"  # SE's gate, too: of that nothing is known yet
    assert_the_librarys(page, family, server, text)
    page.locator("[data-gates=open]").click()
    assert_the_librarys(page, family, server, "open")
    first, rest = "what-if", "what-if,after"
    assert [each for each in asked if each] == [first, rest, rest, first, rest]


def test_every_step_can_be_undone(visit: Visit) -> None:
    page = what_if(visit)
    unfold(page)
    undo = page.locator("[data-do=undo]")
    expect(undo).to_be_disabled()
    page.locator("[data-gate='layer1.0.channel'] select").select_option("off")
    settled(page, "layer1.0.channel=off")
    page.locator("[data-gate='layer2.0.channel'] select").select_option("off")
    settled(page, "layer1.0.channel=off, layer2.0.channel=off")
    undo.click()
    settled(page, "layer1.0.channel=off")
    expect(page.locator("[data-gate='layer2.0.channel'] select")).to_have_value("own")
    expect(page.locator("[data-gate='layer1.0.channel'] select")).to_have_value("off")
    undo.click()
    settled(page, "")
    expect(undo).to_be_disabled()


def test_a_gate_is_painted_with_the_mouse_and_with_the_keyboard(
    visit: Visit, family: list[cbam.Model], server: str
) -> None:
    page = what_if(visit)
    unfold(page)
    page.locator("[data-gate='layer2.0.spatial'] select").select_option("mask")
    cells = page.locator("paint-mask [role=gridcell]")
    expect(cells).to_have_count(36)
    cells.first.click()
    rows = ["0.....", *["......"] * 5]
    settled(page, f"layer2.0.spatial=mask:{'/'.join(rows)}")
    expect(cells.first).to_have_attribute("aria-label", "Row 1, column 1: shut")
    page.locator("paint-mask input[value='1']").check()
    cells.first.focus()
    for key in ("ArrowRight", "ArrowDown", " "):
        page.keyboard.press(key)
    expect(cells.nth(7)).to_be_focused()
    rows[1] = ".1...."
    text = f"layer2.0.spatial=mask:{'/'.join(rows)}"
    assert_the_librarys(page, family, server, text)
    page.keyboard.press(" ")  # again: its own
    rows[1] = "......"
    settled(page, f"layer2.0.spatial=mask:{'/'.join(rows)}")


def test_the_text_is_enough_and_a_mistake_says_what_works(
    visit: Visit, family: list[cbam.Model], server: str
) -> None:
    page = what_if(visit, allowed="status of 422")
    field = page.get_by_label("As text")
    field.fill("*.channel=0.5")
    field.press("Enter")
    assert_the_librarys(page, family, server, "*.channel=0.5")
    unfold(page)
    slider = page.locator("[data-gate='layer3.1.channel'] input")
    expect(slider).to_have_value("0.5")
    field.fill("layer9.0.channel=off")
    page.get_by_role("button", name="Change the gates").click()
    alert = page.locator(".what-if [role=alert]")
    expect(alert).to_contain_text("layer1.0.channel")
    page.locator("[data-do=undo]").click()
    settled(page, "*.channel=0.5")
    expect(alert).to_have_count(0)


def test_the_link_of_a_gallery_photo_restores_the_gates(visit: Visit) -> None:
    page = what_if(visit)
    page.locator("[data-gates=open]").click()
    settled(page, "open")
    expect(page).to_have_url(re.compile(r"photo=bison.jpg.*gates=open"))
    said = page.locator(".change .moved").all_inner_texts()
    page.reload()
    assert settled(page, "open").locator(".moved").all_inner_texts() == said
    expect(page.locator(".what-if-note")).to_be_visible()
    expect(page.locator("[data-gates=open]")).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".rest code")).to_contain_text("-F gates=open")
    page.locator("[data-do=reset]").click()
    expect(page).not_to_have_url(re.compile("gates"))


def test_another_class_is_shown_before_and_after(visit: Visit) -> None:
    page = what_if(visit)
    page.locator("[data-gates=open]").click()
    settled(page, "open")
    shown = page.locator("#result").get_attribute("data-target")
    other = page.locator(f".model-column .prediction:not([value='{shown}'])").first
    label = other.get_attribute("value")
    page.get_by_role("link", name="Compare").click()
    other.click()
    page.get_by_role("link", name="What if").click()
    expect(page.locator(".change .moved").first).to_contain_text(f"P({label})")


def test_an_upload_is_changed_as_well(visit: Visit, jpeg: bytes) -> None:
    page = visit()
    file = {"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": jpeg}
    page.locator("#photo-form input[type=file]").set_input_files(file)
    expect(page.locator("#result-photo")).to_have_attribute("width", "160")
    page.get_by_role("link", name="What if").click()
    page.locator("[data-gates=open]").click()
    expect(settled(page, "open").locator("canvas")).to_have_count(4)
    assert "gates" not in page.url


@pytest.mark.parametrize("width", [320, 1440])
def test_every_control_has_a_name_and_nothing_sticks_out(visit: Visit, width: int) -> None:
    page = what_if(visit, viewport={"width": width, "height": 844})
    unfold(page)
    page.locator("[data-gate='layer2.0.spatial'] select").select_option("mask")
    page.locator("paint-mask [role=gridcell]").first.click()
    expect(page.locator(".change canvas")).to_have_count(2)
    assert nameless(page, ".what-if") == []
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_without_scripts_the_text_field_answers_with_pictures(visit: Visit) -> None:
    page = what_if(visit, java_script_enabled=False)
    page.get_by_label("As text").fill("*.channel=off")
    with page.expect_navigation():
        page.get_by_role("button", name="Change the gates").click()
    expect(page.locator(".change")).to_have_count(2)
    expect(page.locator(".change .pair img")).to_have_count(4)
    expect(page.locator(".change .moved").first).to_contain_text("The answer")
    expect(page.locator(".what-if-note")).to_be_visible()
