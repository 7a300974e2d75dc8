"""The view Methods, in a real Chromium: every method's maps for one photo."""

import re
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest
from app_fixtures import FAMILY, values
from app_server import Running, models_at_work
from browsing import Visit
from playwright.sync_api import Locator, Page, expect

from cbam.explain.methods import METHODS

pytest_plugins = ["app_fixtures", "browsing"]
CHEAP = [name for name, method in METHODS.items() if method.cost_class == "low"]
COSTLY = [name for name in METHODS if name not in CHEAP]


def row(page: Page, method: str) -> Locator:
    return page.locator(f".method[data-method='{method}']")


def filled(page: Page, columns: int = 3) -> None:
    """Every cheap method has its maps."""
    for name in CHEAP:
        expect(row(page, name).locator("heat-map canvas")).to_have_count(columns)


def told(server: str, photo: bytes, **fields: str) -> list[Any]:
    """The API's maps for one method, in the order of the models."""
    answer = httpx.post(
        f"{server}/api/v1/explain",
        files={"image": ("photo.jpg", photo)},
        data={"attention": "false", "top_k": "1", **fields},
    ).json()
    return [result["heatmaps"][0] for result in answer["results"]]


def shown(page: Page, method: str) -> list[Any]:
    """What the row's heat maps hold."""
    maps = (
        row(page, method)
        .locator("heat-map")
        .evaluate_all("maps => maps.map((map) => JSON.parse(map.dataset.maps)[0])")
    )
    return list(maps)


def open_methods(visit: Visit, path: str = "/?photo=cat.jpg&target=b") -> Page:
    page = visit(path)
    expect(page.locator("#result")).to_have_attribute("data-target", "b")
    page.locator(".views [data-view=methods]").click()
    return page


def test_cheap_methods_come_by_themselves_and_costly_ones_on_demand(
    visit: Visit, server: str, tiny_models: Path
) -> None:
    asked: list[str] = []
    page = visit("/?photo=cat.jpg&target=b")
    page.on("request", lambda request: asked.append(request.method))
    expect(page.locator("#result .model-column heat-map canvas")).to_have_count(3)
    assert "POST" not in asked  # nothing is asked before the view is seen
    page.locator(".views [data-view=methods]").click()
    filled(page)
    assert asked.count("POST") == len(CHEAP)
    photo = httpx.get(f"{server}/static/gallery/cat.jpg").content
    for method in ("gradcam", "layercam", "eigencam"):
        assert shown(page, method) == told(server, photo, method=method, target="b")
    for name in COSTLY:
        expect(row(page, name).locator("heat-map")).to_have_count(0)
        row(page, name).get_by_role("button", name="Compute").click()
        expect(row(page, name).locator("heat-map canvas")).to_have_count(3)
        expect(row(page, name).get_by_role("button", name="Compute")).to_be_visible()
        assert shown(page, name) == told(server, photo, method=name, target="b")


def test_methods_with_the_same_map_are_marked_as_measured(visit: Visit) -> None:
    page = open_methods(visit)
    filled(page)
    reference = [values(each["map"]) for each in shown(page, "gradcam")]
    marked = set()
    for name in CHEAP[1:]:
        same = all(
            np.abs(a / max(a.max(), 1e-9) - b / max(b.max(), 1e-9)).max() < 0.01
            for a, b in zip(
                (values(each["map"]) for each in shown(page, name)), reference, strict=True
            )
        )
        badge = row(page, name).get_by_text("same map as Grad-CAM here")
        expect(badge).to_be_visible() if same else expect(badge).to_be_hidden()
        marked |= {name} if same else set()
    assert {"hirescam", "xgradcam"} <= marked  # before a pooled linear head they are one formula
    assert "layercam" not in marked
    for name, method in METHODS.items():
        expect(row(page, name).get_by_text("ignores the class")).to_have_count(
            int(method.ignores_class)
        )


def test_classes_stand_beside_each_other_for_one_model(visit: Visit, server: str) -> None:
    page = open_methods(visit)
    filled(page)
    page.locator(".choice label:has(input[value=classes])").click()
    page.locator(".methods-tools select[name=model]").select_option(FAMILY[0])
    filled(page)
    photo = httpx.get(f"{server}/static/gallery/cat.jpg").content
    captions = row(page, "gradcam").locator("figcaption").all_inner_texts()
    assert captions[0] == "b"
    assert len(set(captions)) == 3
    for label, heatmap in zip(captions, shown(page, "layercam"), strict=True):
        assert [heatmap] == told(server, photo, models=FAMILY[0], method="layercam", target=label)


def test_several_layers_are_fused_as_chosen(visit: Visit, server: str) -> None:
    page = open_methods(visit)
    filled(page)
    page.locator(".methods-tools summary").click()
    page.locator(".layers input[value='layer3.1']").check()
    page.locator(".methods-tools select[name=fuse]").select_option("max")
    expect(page.locator("[data-fill=layers]")).to_have_text("layer3.1, layer4.1")
    filled(page)
    photo = httpx.get(f"{server}/static/gallery/cat.jpg").content
    both = {"layer": "layer3.1,layer4.1", "fuse": "max"}
    assert shown(page, "gradcam") == told(server, photo, method="gradcam", target="b", **both)


def begin_and_cancel(part: Locator, begin: str, progress: re.Pattern[str]) -> None:
    """Begin what takes long by this button, see how far it is, and give it up."""
    part.get_by_role("button", name=begin).click()
    expect(part.get_by_role("status")).to_have_text(progress)
    expect(part.get_by_role("progressbar")).to_be_visible()
    part.get_by_role("button", name="Cancel").click()
    expect(part.get_by_role("status")).to_have_text("Cancelled.")
    expect(part.get_by_role("progressbar")).to_be_hidden()


def test_a_costly_method_shows_its_progress_and_can_be_cancelled(
    visit: Visit, service: Running
) -> None:
    page = open_methods(visit)
    filled(page)
    score = row(page, "scorecam")
    with models_at_work(service):
        begin_and_cancel(score, "Compute", re.compile("^ResNet-18: 1 of 3$"))
    score.get_by_role("button", name="Compute").click()
    expect(score.locator("heat-map canvas")).to_have_count(3)


def test_another_class_is_asked_of_every_method(visit: Visit) -> None:
    page = open_methods(visit)
    filled(page)
    before = shown(page, "layercam")
    page.locator(".views [data-view=compare]").click()
    page.locator(".model-column").first.locator(".prediction:not([value=b])").first.click()
    label = str(page.locator(".model-column [data-fill=target]").first.text_content())
    page.locator(".views [data-view=methods]").click()
    expect(page.locator("methods-view [data-fill=target]")).to_have_text(label)
    filled(page)
    after = shown(page, "layercam")
    assert {each["label"] for each in after} == {label}
    assert before != after


def tried(server: str, **fields: str) -> list[Any]:
    """What /faithfulness answers of each model, for the gallery's cat and class b."""
    photo = httpx.get(f"{server}/static/gallery/cat.jpg").content
    answer = httpx.post(
        f"{server}/api/v1/faithfulness",
        files={"image": ("photo.jpg", photo)},
        data={"target": "b", **fields},
        timeout=120,
    ).json()
    return [result["curves"] for result in answer["results"]]


def test_rows_are_measured_and_sorted_on_demand(visit: Visit, server: str) -> None:
    page = open_methods(visit)
    filled(page)
    page.get_by_role("button", name="Measure and sort").click()
    expect(page.locator("[data-slot=measured]")).to_contain_text("Sorted.")
    found: dict[str, list[float]] = dict(
        page.locator(".method").evaluate_all(
            """rows => rows.map((row) => [row.dataset.method,
                [...row.querySelectorAll("[data-score]")].map(({ dataset }) => +dataset.score)])"""
        )
    )
    names = list(found)
    assert set(names[: len(CHEAP)]) == set(CHEAP)
    assert all(found[name] == [] for name in COSTLY)  # they have no map yet
    means = [sum(found[name]) for name in names[: len(CHEAP)]]
    assert means == sorted(means, reverse=True)
    assert found["gradcam"] == found["hirescam"]  # one map, the same number
    reference = tried(server)
    for name, known in (("gradcam", reference), ("layercam", tried(server, method="layercam"))):
        own = [each["map"]["overall"] for each in known]
        assert found[name] == pytest.approx(own, abs=1e-5)
    for caption, own in zip(
        row(page, "layercam").locator("figcaption").all(), reference, strict=True
    ):
        low, high = min(own["random_overall"]), max(own["random_overall"])
        words = f"random {low:.2f} to {high:.2f}".replace("-", "\u2212")
        assert words in caption.inner_text()
    first = row(page, names[0]).locator("h3").inner_text()
    expect(page.locator("[data-slot=measured]")).to_contain_text(f"{first} comes first")
    page.locator(".methods-tools summary").click()
    page.locator(".layers input[value='layer3.1']").check()  # other maps: the numbers are gone
    filled(page)
    expect(page.locator("[data-score]")).to_have_count(0)
    assert page.locator(".method").first.get_attribute("data-method") == "gradcam"


def test_measuring_can_be_cancelled(visit: Visit, service: Running) -> None:
    page = open_methods(visit)
    filled(page)
    part = page.locator(".measure")
    with models_at_work(service):
        begin_and_cancel(part, "Measure and sort", re.compile("Grad-CAM: 1 of"))
        expect(part.get_by_role("button", name="Measure and sort")).to_be_visible()
