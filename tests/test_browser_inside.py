"""Looking inside the networks, in Chromium: blocks, channels, the steps of attention, the paper."""

import re
from pathlib import Path

import numpy as np
import pytest
from app_fixtures import BLOCKS
from browsing import PHOTO, Visit
from playwright.sync_api import Page, expect

import cbam

pytest_plugins = ["app_fixtures", "browsing"]
FILE = Path(__file__).parent.parent / "static" / "gallery" / PHOTO
LARGE = ".block-large"


def number(text: str) -> float:
    """The last number of a text."""
    return float(re.findall(r"-?\d+\.\d+", text.replace("−", "-"))[-1])


def shown(page: Page, block: str) -> None:
    expect(page.locator(f"{LARGE} [data-fill=block]")).to_have_text(block)
    expect(page.locator(LARGE)).not_to_have_attribute("aria-busy", "true")


def test_every_block_can_be_shown_large_by_slider_keys_and_click(visit: Visit) -> None:
    page = visit(f"/?photo={PHOTO}&view=inside")
    gates = page.locator(".gates:visible")
    expect(gates).to_have_count(1)
    assert [each.get_attribute("data-block") for each in gates.locator(".block").all()] == [*BLOCKS]
    shown(page, BLOCKS[-1])
    page.locator(".gates:visible .show-block").first.click()
    shown(page, BLOCKS[0])
    page.locator(".gates:visible .blocks").press("ArrowRight")
    shown(page, BLOCKS[1])
    page.locator(".gates:visible [name=depth]").press("ArrowRight")
    shown(page, BLOCKS[2])
    expect(page.locator(f"{LARGE} gate-map canvas")).to_have_count(1)
    expect(page.locator(".block[data-chosen] h3:visible")).to_have_text(BLOCKS[2])


def test_a_block_says_what_its_gates_do_and_both_paths_apart(visit: Visit) -> None:
    page = visit(f"/?photo={PHOTO}&view=inside")
    shown(page, BLOCKS[-1])
    titles = page.locator(f"{LARGE} .gate-large h3").all_inner_texts()
    assert titles == ["Channel gate", "Spatial gate"]
    for gate in page.locator(f"{LARGE} .gate-large").all():
        paths = sorted(gate.locator(".path h4").all_inner_texts())
        assert paths == ["Average path", "Maximum path"]
        expect(gate.locator("[data-fill=share]")).to_contain_text("open")
        assert gate.locator("[data-fill=sentence]").inner_text().endswith(".")


def test_another_network_has_its_own_gates(visit: Visit) -> None:
    page = visit(f"/?photo={PHOTO}&view=inside")
    shown(page, BLOCKS[-1])
    page.locator("inside-view [name=model][value=tiny-se] + span").click()
    expect(page.locator(f"{LARGE} .gate-large h3")).to_have_text(["Channel gate"])
    assert page.locator(".gates:visible").get_attribute("data-model") == "tiny-se"


def test_a_channel_is_shown_before_and_behind_the_gates(visit: Visit, tiny_models: Path) -> None:
    page = visit(f"/?photo={PHOTO}&view=inside")
    page.locator(".gates:visible .show-block").first.click()
    shown(page, BLOCKS[0])
    page.locator("inside-view [name=channel]").fill("5")
    figure = page.locator(".channel-large")
    expect(figure.locator("figcaption")).to_contain_text("Channel 5.")
    model = cbam.load(tiny_models / "tiny-cbam")
    (channel,) = model.features(FILE, BLOCKS[0], channels=[5]).channels
    texts = figure.locator(".small").all_inner_texts()
    assert number(texts[0]) == pytest.approx(float(channel.before.max()), abs=0.01)
    assert number(texts[1]) == pytest.approx(float(channel.after.max()), abs=0.01)
    page.get_by_text("Most shut", exact=True).click()
    shut = model.features(FILE, BLOCKS[0], pick="shut", count=8).channels
    expect(page.locator(".channel-list button").first).to_contain_text(f"{shut[0].index} ×")


def steps(page: Page) -> int:
    place = page.locator("how-view [data-fill=place]")
    expect(place).to_contain_text("of")
    return int(place.inner_text().split()[-1])


def test_the_steps_go_on_and_back_by_button_and_key(visit: Visit) -> None:
    page = visit(f"/?photo={PHOTO}&view=how")
    count = steps(page)
    assert count == 9
    place = page.locator("how-view [data-fill=place]")
    page.get_by_role("button", name="Next →").click()
    expect(place).to_have_text(f"Step 2 of {count}")
    page.keyboard.press("ArrowRight")
    expect(place).to_have_text(f"Step 3 of {count}")
    page.keyboard.press("ArrowLeft")
    expect(place).to_have_text(f"Step 2 of {count}")
    titles = set()
    for dot in page.locator(".how-dots button").all():
        dot.click()
        titles.add(page.locator("how-view h2").inner_text())
    assert len(titles) == count
    expect(page.get_by_role("button", name="Next →")).to_be_disabled()


def test_the_steps_numbers_are_the_librarys(visit: Visit, tiny_models: Path) -> None:
    page = visit(f"/?photo={PHOTO}&view=how")
    steps(page)
    block = page.locator("how-view [name=block]").input_value()
    found = cbam.load(tiny_models / "tiny-cbam").features(FILE, block)
    channel, (what, where) = found.channels[0], found.gates
    page.locator(".how-dots button").nth(1).click()
    text = page.locator("how-view [data-fill=text]").inner_text().replace("−", "-")
    for path in what.paths.values():
        assert f"{path.pooled[channel.index]:.3f}" in text
    page.locator(".how-dots button").nth(2).click()
    foot = page.locator(".how-table tfoot").inner_text().replace("−", "-")
    for path in what.paths.values():
        assert f"{path.logits[channel.index]:.3f}" in foot
    page.locator(".how-dots button").nth(3).click()
    text = page.locator("how-view [data-fill=text]").inner_text()
    assert number(text) == pytest.approx(float(what.map.values[channel.index]), abs=0.001)
    page.locator(".how-dots button").nth(6).click()
    total = page.locator(".how-sum")
    expect(total).to_contain_text("sigmoid")
    at = np.unravel_index(where.map.values.argmax(), where.map.values.shape)
    expect(total).to_contain_text(f"Row {at[0] + 1}, column {at[1] + 1}")
    assert number(total.inner_text()) == pytest.approx(float(where.map.values[at]), abs=0.02)
    plane = page.locator(".how-window cell-map[tabindex]").first
    plane.focus()
    left = at[1] > 0
    page.keyboard.press("ArrowLeft" if left else "ArrowRight")
    column = int(at[1]) + (-1 if left else 1)
    expect(total).to_contain_text(f"column {column + 1}")
    value = float(where.map.values[at[0], column])
    assert number(total.inner_text()) == pytest.approx(value, abs=0.02)


def test_the_steps_fit_a_network_with_channel_gates_alone(visit: Visit) -> None:
    page = visit(f"/?photo={PHOTO}&view=how")
    steps(page)
    page.locator("how-view [name=model]").select_option("tiny-se")
    expect(page.locator("how-view [data-fill=place]")).to_have_text("Step 1 of 6")


def test_the_papers_tables_stand_beside_the_count(visit: Visit) -> None:
    page = visit(f"/?photo={PHOTO}&view=paper", java_script_enabled=False)
    view = page.locator("#view-paper")
    expect(view.locator("details")).to_have_count(7)
    row = view.locator("details").nth(3).locator("tr", has_text="ResNet50 + CBAM")
    assert row.locator("td").all_inner_texts() == [
        "28.09", "28.090 ✓", "3.864", "3.8644 ✓", "22.66", "6.31",
    ]  # fmt: skip
    expect(view.locator("section").first).to_contain_text("CBAM-ResNet-18")
    row = view.locator("details").nth(6).locator("tr", has_text="VGG16, StairNet + CBAM")
    assert row.locator("td").all_text_contents() == ["32.1", "32.057 ✓", "79.3"]
    assert row.locator("xpath=following-sibling::tr[4]/td").first.text_content() == "6.00"
    row = view.locator("details").nth(5).locator("tr", has_text="ResNet101 + CBAM")
    assert row.locator("td").all_text_contents() == ["65.530 ", "50.5", "32.6", "30.8"]
