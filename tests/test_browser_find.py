"""What is where, on the page, in Chromium: boxes side by side, linked, filtered and explained."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from app_server import Running, running
from browsing import PHOTO, Visit, nameless
from playwright.sync_api import Locator, Page, Route, expect

from app.main import create_app
from app.settings import Settings
from cbam.explain.detection import overlap

pytest_plugins = ["app_fixtures", "browsing", "detecting"]

NAMES = ("tiny-none-things", "tiny-se-things", "tiny-cbam-things")
SILENCE = """() => {
    window.fetch = (_, { signal }) =>
        new Promise((_, refuse) => signal.addEventListener("abort", () => refuse(signal.reason)));
}"""
WORDS = """async (answers) => {
    const { counted, difference, things } = await import("/static/js/lib/things.js");
    const { inside } = await import("/static/js/lib/maps.js");
    const map = { rows: 1, columns: 2, values: [1, 3], min: 1, max: 3, mean: 2 };
    const found = things(answers, 0.3);
    const titles = new Map(answers.map(({ model }) => [model, model]));
    return {
        counted: counted(found),
        said: found.map((thing) => difference(found, thing, titles, answers)),
        boxes: found.map(({ boxes }) => Object.fromEntries(boxes)),
        halves: inside(map, { x0: 0, y0: 0, x1: 75, y1: 10 }, [100, 10]),
    };
}"""


@pytest.fixture(scope="module")
def server(tiny_detectors: Path) -> Iterator[str]:
    settings = Settings(models_folder=tiny_detectors, log_style="off", inference_timeout_s=300)
    with running(create_app(settings)) as served:
        yield served.address


@pytest.fixture(scope="module")
def told(server: str) -> list[dict[str, Any]]:
    """What the API says of the photo, down to the least score that the page can show."""
    image = httpx.get(f"{server}/static/gallery/{PHOTO}").content
    answer = httpx.post(
        f"{server}/api/v1/detect",
        files={"image": (PHOTO, image)},
        data={"score": "0.1", "limit": "50", "maps": "0", "attention": "false"},
        timeout=300,
    )
    assert answer.status_code == 200, answer.text
    results: list[dict[str, Any]] = answer.json()["results"]
    return results


def clear(detections: list[dict[str, Any]], least: float) -> list[dict[str, Any]]:
    """Boxes with this score; of those in one place only the one with the surest class."""
    kept: list[dict[str, Any]] = []
    for each in detections:
        others = [own for own in kept if own["label"] != each["label"]]
        near = (overlap(corners(each), corners(own)) >= 0.5 for own in others)
        if each["score"] >= least and not any(near):
            kept.append(each)
    return kept


def corners(detection: dict[str, Any]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (float(detection["box"][side]) for side in ("x0", "y0", "x1", "y1"))
    return x0, y0, x1, y1


def found(page: Page) -> None:
    """The detectors have answered."""
    expect(page.locator(".find-column .find-photo > canvas")).to_have_count(3)
    expect(page.locator(".find-said")).not_to_have_text(re.compile("looking"))


def opened(visit: Visit, **options: Any) -> Page:
    page = visit(f"/?photo={PHOTO}&view=find", **options)
    found(page)
    return page


def boxes(page: Page, name: str) -> Locator:
    return page.locator(f".find-column[data-model='{name}'] .find-box")


def shared_thing(page: Page) -> str:
    """The number of a thing that all three find."""
    numbers = [
        {str(each.get_attribute("data-thing")) for each in boxes(page, name).all()}
        for name in NAMES
    ]
    return sorted(set.intersection(*numbers))[0]


def test_boxes_are_those_of_the_api_and_the_slider_hides_the_less_sure(
    visit: Visit, told: list[dict[str, Any]]
) -> None:
    page = opened(visit)
    for least in (0.3, 0.1, 0.6):
        page.locator("[name=least]").fill(str(least))
        for each in told:
            expected = len(clear(each["detections"], least))
            expect(boxes(page, each["model"])).to_have_count(expected)
        expect(page.locator(".find-tools output")).to_have_text(f"{least:.0%}".replace("%", " %"))
    page.locator("[name=least]").fill("0.9")
    sure = sum(len(clear(each["detections"], 0.9)) for each in told)
    assert page.locator(".find-box").count() == sure
    if not sure:
        expect(page.locator(".find-said")).to_contain_text("None of them finds anything")


def test_it_asks_once_and_only_when_it_is_seen(visit: Visit) -> None:
    page = visit(f"/?photo={PHOTO}")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    expect(page.locator("#view-compare")).to_be_visible()
    for view in ("find", "compare", "find"):
        page.locator(f".views [data-view={view}]").click()
        if view == "find":
            found(page)
    assert sum(url.endswith("/api/v1/detect") for url in asked) == 1


def test_the_same_thing_lights_up_everywhere(visit: Visit) -> None:
    page = opened(visit)
    number = shared_thing(page)
    box = page.locator(f".find-column[data-model='{NAMES[0]}'] .find-box[data-thing='{number}']")
    box.focus()
    lit = page.locator("[data-lit]")
    expect(lit).to_have_count(4)  # a box in each column and a row of the table
    assert {each.get_attribute("data-thing") for each in lit.all()} == {number}
    page.locator("[name=least]").focus()
    expect(lit).to_have_count(0)


def test_what_one_misses_is_said_in_words_and_drawn(visit: Visit) -> None:
    page = opened(visit)
    missed = page.locator(".find-missed").count()
    assert page.locator(".find-photo > .find-ghost").count() == missed
    rows = page.locator(".find-table tbody tr").count()
    whole = sum(
        not row.locator(".find-missed").count()
        for row in page.locator(".find-table tbody tr").all()
    )
    assert page.locator(".find-differences li").count() == rows - whole


def test_a_box_is_explained_in_every_column_and_escape_goes_back(visit: Visit) -> None:
    page = opened(visit)
    number = shared_thing(page)
    box = page.locator(f".find-column[data-model='{NAMES[2]}'] .find-box[data-thing='{number}']")
    box.focus()
    with page.expect_response("**/api/v1/detect") as answered:
        page.keyboard.press("Enter")
    results = answered.value.json()["results"]
    expect(page.locator(".find-photo heat-map canvas")).to_have_count(3)
    for name, each in zip(NAMES, results, strict=True):
        (item,) = each["heatmaps"]
        note = page.locator(f".find-column[data-model='{name}'] .find-note")
        for share in ("energy_in_box", "energy_uniform", "energy_of_box"):
            expect(note).to_contain_text(f"{int(item[share] * 100 + 0.5)} %")
    expect(box).to_have_attribute("aria-pressed", "true")
    # SE has one kind of gate, CBAM two; a tiny ResNet has eight blocks.
    expect(page.locator("#view-find [data-slot=gates] .block")).to_have_count(16)
    expect(page.locator("#view-find [data-slot=gates] gate-bars")).to_have_count(16)
    expect(page.locator("#view-find [data-slot=gates] .find-tile")).to_have_count(8)
    with page.expect_response("**/api/v1/detect") as answered:
        page.locator("[name=of]").select_option("left")
    assert answered.value.json()["of"] == "left"
    expect(page.locator(".find-said")).to_contain_text("its left side")
    box.focus()
    page.keyboard.press("Escape")
    expect(page.locator(".find-photo heat-map")).to_have_count(0)
    expect(box).to_have_attribute("aria-pressed", "false")
    expect(box).to_be_focused()
    expect(page.locator("#view-find [data-slot=gates]")).to_be_empty()


def test_parts_are_hidden_on_demand_network_by_network(visit: Visit) -> None:
    page = opened(visit)
    number = shared_thing(page)
    hide = page.locator("[data-do=hide]")
    expect(hide).to_be_hidden()  # nothing is chosen
    page.locator(f".find-table tr[data-thing='{number}'] button").click()
    expect(page.locator(".find-photo heat-map canvas")).to_have_count(3)
    answers: list[dict[str, Any]] = []

    def fewer(route: Route) -> None:
        """The same question, for fewer masks."""
        body = route.request.post_data_buffer or b""
        boundary = body.partition(b"\r\n")[0]
        field = b'\r\nContent-Disposition: form-data; name="masks"\r\n\r\n16\r\n'
        response = route.fetch(post_data=boundary + field + body, timeout=300_000)
        answers.append(response.json())
        route.fulfill(response=response)

    page.route("**/api/v1/detect", fewer)
    hide.click()
    expect(page.locator(".find-said")).to_contain_text("by D-RISE")
    expect(page.locator(".find-hiding")).to_be_hidden()
    assert [each["method"] for each in answers] == ["d-rise"] * 3
    assert [each["masks"] for each in answers] == [16] * 3
    for name, each in zip(NAMES, answers, strict=True):
        (result,) = each["results"]
        assert result["model"] == name
        note = page.locator(f".find-column[data-model='{name}'] .find-note")
        expect(note).to_contain_text("D-RISE.")
        (item,) = result["heatmaps"]
        if item["energy_in_box"] is not None:
            expect(note).to_contain_text(f"{int(item['energy_in_box'] * 100 + 0.5)} %")
    expect(page.locator(".find-photo heat-map canvas")).to_have_count(3)


def test_hiding_can_be_cancelled_and_the_boxes_stay(visit: Visit) -> None:
    page = opened(visit)
    page.locator(".find-table button").first.click()
    expect(page.locator(".find-said")).to_contain_text("bright is what spoke for")
    page.evaluate(SILENCE)
    page.locator("[data-do=hide]").click()
    expect(page.locator(".find-said")).to_contain_text("1 of 3")
    page.locator(".find-hiding [data-do=cancel]").click()
    expect(page.locator(".find-said")).to_have_text("Cancelled.")
    expect(page.locator(".find-hiding")).to_be_hidden()
    expect(page.locator("[data-do=hide]")).to_be_focused()
    page.locator("[data-do=hide]").click()
    expect(page.locator(".find-said")).to_contain_text("1 of 3")
    page.locator("[data-do=all]").click()  # leaving ends it, too
    expect(page.locator(".find-hiding")).to_be_hidden()
    expect(page.locator(".find-photo heat-map")).to_have_count(0)


def test_arrow_keys_go_from_box_to_box_and_tab_leaves_them(visit: Visit) -> None:
    page = opened(visit)
    page.locator("[name=least]").fill("0.1")
    own = boxes(page, NAMES[0])
    assert own.count() > 1
    assert [each.get_attribute("tabindex") for each in own.all()].count("0") == 1
    own.first.focus()
    page.keyboard.press("ArrowRight")
    expect(own.nth(1)).to_be_focused()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(own.last).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator(f".find-column[data-model='{NAMES[0]}'] :focus")).to_have_count(0)


def test_an_upload_is_looked_at_as_well(visit: Visit, jpeg: bytes) -> None:
    page = visit("/?view=find")
    file = {"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": jpeg}
    page.locator("#photo-form input[type=file]").set_input_files(file)
    expect(page.locator("#result-photo")).to_have_attribute("width", "160")
    found(page)
    ratio = page.locator(".find-photo").first.evaluate("each => each.style.aspectRatio")
    assert ratio == "160 / 120"


def test_no_answer_is_said_and_tried_again_when_it_is_seen_again(visit: Visit) -> None:
    page = visit(f"/?photo={PHOTO}", allowed="ERR_FAILED")
    page.route("**/api/v1/detect", lambda route: route.abort())
    page.locator(".views [data-view=find]").click()
    expect(page.locator(".find-said")).to_contain_text("No answer from the server")
    page.unroute("**/api/v1/detect")
    page.locator(".views [data-view=compare]").click()
    page.locator(".views [data-view=find]").click()
    found(page)


@pytest.mark.parametrize("width", [320, 1440])
def test_every_control_has_a_name_and_nothing_sticks_out(visit: Visit, width: int) -> None:
    page = opened(visit, viewport={"width": width, "height": 844})
    page.locator(".find-table button").first.click()
    expect(page.locator(".find-photo heat-map canvas").first).to_be_visible()
    assert nameless(page, ".find") == []
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_a_service_without_detectors_offers_no_such_view(visit: Visit, service: Running) -> None:
    page = httpx.get(f"{service.address}/?photo={PHOTO}").text
    assert 'data-view="compare"' in page
    assert 'data-view="find"' not in page
    visit()  # the fixture expects a visit


def box(x: float, label: str, score: float) -> dict[str, Any]:
    """A square of 20 pixels."""
    return {"box": {"x0": x, "y0": 0, "x1": x + 20, "y1": 20}, "label": label, "score": score}


def test_differences_are_told_by_hand(visit: Visit) -> None:
    """A sheep for all; a second one for CBAM, which plain nearly finds and SE takes for a cow."""
    answers = [
        {"model": "plain", "detections": [box(0, "sheep", 0.9), box(50, "sheep", 0.2)]},
        # One place, two classes: the surer one counts.
        {
            "model": "SE",
            "detections": [box(2, "sheep", 0.8), box(50, "cow", 0.5), box(50, "sheep", 0.4)],
        },
        {"model": "CBAM", "detections": [box(1, "sheep", 0.7), box(52, "sheep", 0.6)]},
    ]
    said = visit().evaluate(WORDS, answers)
    assert said["boxes"] == [{"plain": 0, "SE": 0, "CBAM": 0}, {"CBAM": 1}, {"SE": 1}]
    # Three quarters of the photo: the whole left cell and half of the right one.
    assert said["halves"] == {"inside": pytest.approx(5 / 3), "outside": pytest.approx(3)}
    assert said["counted"] == "sheep (2) and a cow"
    assert [each.replace("\u00a0", " ") for each in said["said"]] == [
        "",
        "CBAM finds a second sheep that plain and SE miss (plain gives it only 20 %; SE says cow).",
        "SE finds a cow that plain and CBAM miss (CBAM says sheep).",
    ]


def test_two_models_things_are_linked_as_the_api_links_them(
    visit: Visit, told: list[dict[str, Any]]
) -> None:
    """Of one class: the page shows one class in a place, the API all of them."""
    red = [
        [number for number, each in enumerate(answer["detections"]) if each["label"] == "red"]
        for answer in told[:2]
    ]
    answers = [
        {"model": answer["model"], "detections": [answer["detections"][at] for at in numbers]}
        for answer, numbers in zip(told, red, strict=False)
    ]
    things = visit().evaluate(WORDS.replace("0.3", "0.1"), answers)["boxes"]
    linked = {thing[NAMES[0]]: thing.get(NAMES[1]) for thing in things if NAMES[0] in thing}
    for at, number in enumerate(red[0]):
        counterpart = told[0]["detections"][number]["counterparts"][NAMES[1]]
        assert linked[at] == (None if counterpart is None else red[1].index(counterpart))
    assert any(each is not None for each in linked.values())
