"""The view Trust, in Chromium: its numbers are the library's, and what costs is asked for."""

import re
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from app_fixtures import FAMILY
from browsing import PHOTO, Visit, nameless
from playwright.sync_api import Locator, Page, expect

import cbam
from cbam.evaluate.examine import Exam, Examined, examine_all
from cbam.evaluate.faithfulness import Trial
from cbam.images.photo import open_photo
from cbam.slices import finished

pytest_plugins = ["app_fixtures", "browsing"]


@pytest.fixture(scope="module")
def family(tiny_models: Path) -> list[cbam.Model]:
    return [cbam.load(tiny_models / name) for name in FAMILY]


def opened(visit: Visit, **options: Any) -> Page:
    page = visit(f"/?photo={PHOTO}&view=trust", **options)
    expect(page.locator("#view-trust draw-box canvas")).to_be_visible()
    return page


def section(page: Page, name: str) -> Locator:
    return page.locator(f"section[aria-labelledby=trust-{name}]")


def librarys(page: Page, family: list[cbam.Model], server: str, exam: Exam) -> list[Examined]:
    """What the library says of what the page shows."""
    photo = open_photo(httpx.get(f"{server}/static/gallery/{PHOTO}").content)
    target = str(page.locator("#result").get_attribute("data-target"))
    return finished(examine_all(family, cbam.compare(family, photo, cbam.Options(target)), exam))


def test_it_says_always_that_this_is_no_proof_and_asks_for_nothing_by_itself(visit: Visit) -> None:
    page = visit(f"/?photo={PHOTO}")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.locator(".views [data-view=trust]").click()
    expect(page.locator(".trust-note")).to_contain_text("Tests, not proof")
    expect(page.locator("#view-trust article:visible")).to_have_count(0)
    assert not [each for each in asked if "faithfulness" in each]


def test_curves_and_areas_are_the_librarys(
    visit: Visit, family: list[cbam.Model], server: str
) -> None:
    page = opened(visit)
    part = section(page, "curves")
    part.locator("[data-run]").click()
    expect(part.locator("article:visible figure")).to_have_count(6)
    expect(part.locator("progress")).to_be_hidden()
    for article, own in zip(
        part.locator("article").all(),
        librarys(page, family, server, Exam(Trial())),
        strict=True,
    ):
        assert own.curves is not None
        expect(article.locator(".says")).to_have_text(own.verdict)
        order, others = own.curves.map, own.curves.random
        areas = [(order.deletion_area, [each.deletion_area for each in others])]
        areas += [(order.insertion_area, [each.insertion_area for each in others])]
        for figure, (area, random) in zip(article.locator("figure").all(), areas, strict=True):
            shown = float(str(figure.locator("[data-area]").get_attribute("data-area")))
            assert shown == pytest.approx(area, abs=1e-4)
            spread = f"random {min(random):.2f} to {max(random):.2f}"
            assert spread in figure.inner_text()
        line = str(article.locator(".line-map").first.get_attribute("points"))
        heights = [float(each.split(",")[1]) for each in line.split()]
        top = article.locator(".axis.top").first.inner_text()
        ends = 100 - 100 * order.deletion / (float(re.sub(r"\D", "", top)) / 100)
        assert heights == pytest.approx(ends.tolist(), abs=0.1)
    assert nameless(page, "#view-trust") == []


def test_maps_of_random_networks_are_the_librarys(
    visit: Visit, family: list[cbam.Model], server: str
) -> None:
    page = opened(visit)
    part = section(page, "strip")
    part.locator("[data-run]").click()
    expect(part.locator("article:visible .tiles")).to_have_count(3)
    found = librarys(page, family, server, Exam(randomisation=True))
    for article, own in zip(part.locator("article").all(), found, strict=True):
        assert own.strip is not None
        tiles = article.locator(".tiles li").all()
        assert "as trained" in tiles[0].inner_text()
        for tile, stage in zip(tiles[1:], own.strip.stages, strict=True):
            assert stage.stage in tile.inner_text()
            said = str(tile.get_attribute("data-alike"))
            alike = stage.similarity.rank_correlation
            assert (
                said == "null" if alike is None else float(said) == pytest.approx(alike, abs=0.02)
            )
        expect(article.locator(".says")).to_have_text(own.verdict)


def test_a_box_is_drawn_with_the_mouse_and_with_the_keyboard(
    visit: Visit, family: list[cbam.Model], server: str
) -> None:
    page = opened(visit)
    board = page.locator("draw-box .board")
    board.scroll_into_view_if_needed()
    place = board.bounding_box()
    assert place is not None
    page.mouse.move(place["x"] + place["width"] * 0.1, place["y"] + place["height"] * 0.2)
    page.mouse.down()
    page.mouse.move(place["x"] + place["width"] * 0.6, place["y"] + place["height"] * 0.9)
    page.mouse.up()
    check_box(page, family, server)
    before = board.get_attribute("aria-label")
    board.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+ArrowDown")
    assert board.get_attribute("aria-label") != before
    check_box(page, family, server)


def check_box(page: Page, family: list[cbam.Model], server: str) -> None:
    """The table is the library's for the box that is drawn."""
    rows = page.locator(".in-box tr[data-energy]")
    expect(rows).to_have_count(3)
    expect(page.locator(".in-box")).not_to_have_attribute("aria-busy", "true")
    box = page.locator("draw-box").evaluate("each => Object.values(each.box)")
    for row, own in zip(
        rows.all(), librarys(page, family, server, Exam(box=tuple(box))), strict=True
    ):
        assert own.box is not None
        energy = float(str(row.get_attribute("data-energy")))
        assert energy == pytest.approx(own.box.energy, abs=1e-4)
        assert float(str(row.get_attribute("data-iou"))) == pytest.approx(own.box.ious[0.15])
        assert ("inside" if own.box.hit else "outside") in row.inner_text()
    blind = page.locator(".in-box .blind").inner_text()
    assert f"{round(own.box.uniform_energy * 100)}\u00a0%" in blind


def test_it_can_be_cancelled_and_tried_again(visit: Visit) -> None:
    page = opened(visit)
    part = section(page, "curves")
    page.route("**/faithfulness", lambda route: None)  # no answer comes
    part.locator("[data-run]").click()
    expect(part.locator("[role=status]")).to_contain_text("1 of 3")
    expect(part.locator("progress")).to_be_visible()
    part.locator("[data-do=cancel]").click()
    expect(part.locator("[role=status]")).to_have_text("Cancelled.")
    page.unroute("**/faithfulness")
    part.locator("[data-run]").click()
    expect(part.locator("article:visible figure")).to_have_count(6)


def test_a_refusal_is_said(visit: Visit) -> None:
    page = opened(visit, allowed="503")
    problem = '{"title": "Service Unavailable", "detail": "Other long questions are running."}'
    page.route("**/faithfulness", lambda route: route.fulfill(status=503, body=problem))
    part = section(page, "strip")
    part.locator("[data-run]").click()
    expect(part.locator("[role=status]")).to_contain_text("Other long questions are running.")
    expect(part.locator("[data-run]")).to_be_visible()
