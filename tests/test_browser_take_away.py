"""Taking an answer away in Chromium: what is saved is what is shown."""

import json
from pathlib import Path

import httpx2 as httpx
import numpy as np
from app_fixtures import picture
from browsing import PHOTO, Visit, opened
from playwright.sync_api import Page, expect

from app.templating import bundled
from cbam.bundle.read import read

pytest_plugins = ["app_fixtures", "browsing"]


def unfolded(visit: Visit, **options: object) -> Page:
    """An answer, with the ways to take it away in sight."""
    page = opened(visit, **options)
    page.locator(".take-away > summary").click()
    return page


def saved(page: Page, kind: str) -> tuple[str, bytes]:
    """A file's name and content."""
    with page.expect_download() as download:
        page.locator(f"[data-save={kind}]").click()
    expect(page.locator(".saves [role=status]")).to_contain_text("Saved")
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def press_another(page: Page) -> str:
    """Press the first column's second class: its label."""
    button = page.locator(".model-column").first.locator(".prediction").nth(1)
    button.click()
    return str(button.get_attribute("value"))


def test_the_files_hold_the_answer_for_the_class_that_is_shown(visit: Visit, server: str) -> None:
    page = unfolded(visit)
    target = press_another(page)
    name, data = saved(page, "zip")
    assert name == "cbam-lens-bison.zip"
    bundle = read(data)
    assert bundle.explanations[0].target.label == target
    assert len(bundle.explanations[0].predictions) == 10
    _, text = saved(page, "json")
    assert json.loads(text)["target"]["label"] == target
    _, html = saved(page, "html")
    assert f"<em>{target}</em>" in html.decode()
    photo = (bundled("static") / "gallery" / PHOTO).read_bytes()
    fields = {"target": target, "top_k": "10"}
    sent = httpx.post(
        f"{server}/api/v1/bundle", files={"image": ("x.jpg", photo)}, data=fields, timeout=120
    )
    assert sent.content == data  # the page, the API: the same bytes


def test_the_lines_follow_the_class_that_is_shown(visit: Visit) -> None:
    page = unfolded(visit)
    target = press_another(page)
    for line, words in (
        ("curl", f"-F target={target} "),
        ("python", f"target='{target}'"),
        ("command", f"--target {target} "),
    ):
        expect(page.locator(f"[data-line={line}] code")).to_contain_text(words)


def test_the_picture_shows_the_view_as_it_is_seen(visit: Visit) -> None:
    page = unfolded(visit)
    name, data = saved(page, "png")
    assert name == "cbam-lens-bison-compare.png"
    found = np.asarray(picture(data).convert("RGB")).astype(int)
    view = page.locator("#view-compare").bounding_box()
    heat = page.locator("#view-compare heat-map canvas").first.bounding_box()
    assert view
    assert heat
    scale = found.shape[1] / (view["width"] + 48)  # a margin of 24 on both sides
    left = round((24 + heat["x"] - view["x"]) * scale)
    column = found[:, left : left + round(heat["width"] * scale)]
    lively = column.std(axis=(1, 2)) > 15  # rows with a picture or with words
    assert lively.sum() >= 0.8 * heat["height"] * scale
    assert found.shape[0] >= view["height"] * scale
    page.locator(".views [data-view=inside]").click()
    other, _ = saved(page, "png")
    assert other == "cbam-lens-bison-inside.png"


def test_what_goes_wrong_is_said(visit: Visit) -> None:
    page = unfolded(visit, allowed="ERR_FAILED")
    page.route("**/api/v1/bundle", lambda route: route.abort())
    page.locator("[data-save=zip]").click()
    expect(page.locator(".saves [role=status]")).to_contain_text("Check the connection")
    expect(page.locator("[data-save=zip]")).to_be_enabled()
