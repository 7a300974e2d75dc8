"""The page in a real Chromium, against a real server: what a visitor sees and does."""

import base64
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest
from app_fixtures import FAMILY, LABELS, encoded, photo, picture
from browsing import Visit, answered, choose, painting, press, upload
from heic import heic
from PIL import ExifTags, Image
from playwright.sync_api import Page, expect

pytest_plugins = ["app_fixtures", "browsing"]


def paintings(page: Page) -> list[np.ndarray]:
    """The columns' heat maps as painted, from left to right."""
    return [painting(canvas) for canvas in page.locator(".model-column heat-map canvas").all()]


def differ(one: list[np.ndarray], other: list[np.ndarray]) -> list[bool]:
    """Column by column, whether two paintings are not the same."""
    return [not np.array_equal(a, b) for a, b in zip(one, other, strict=True)]


def explained(server: str, data: bytes) -> dict[str, Any]:
    """The API's answer for the same photo, every class's map in it."""
    files = {"image": ("photo.jpg", data)}
    answer = httpx.post(f"{server}/api/v1/explain", files=files, data={"top_k": "10"})
    assert answer.status_code == 200
    result: dict[str, Any] = answer.json()
    return result


def with_evidence(answer: dict[str, Any]) -> list[str]:
    """The classes for which every model's map shows something."""
    peaks = [
        {heatmap["label"]: heatmap["map"]["max"] for heatmap in result["heatmaps"]}
        for result in answer["results"]
    ]
    found = [label for label in LABELS if all(peak[label] > 0 for peak in peaks)]
    assert len(found) >= 2, "the tiny models are to show something"
    return found


# A photo of one's own


def test_an_upload_paints_three_columns(visit: Visit, jpeg: bytes, server: str) -> None:
    page = visit()
    upload(page, jpeg)
    columns = page.locator("#result .model-column")
    assert [column.get_attribute("data-model") for column in columns.all()] == list(FAMILY)
    for column, result in zip(columns.all(), explained(server, jpeg)["results"], strict=True):
        shown = column.locator(".prediction")
        expect(shown).to_have_count(10)
        assert [button.get_attribute("value") for button in shown.all()] == [
            prediction["label"] for prediction in result["predictions"]
        ]
        percent = f"{result['predictions'][0]['probability'] * 100:.1f}"
        expect(shown.first).to_contain_text(percent)
    for painted in paintings(page):
        assert painted.shape == (120, 160, 3)
        assert painted.std() > 10, "a blank canvas"
    expect(page.locator("[role=alert]:visible")).to_have_count(0)


def test_the_script_asks_for_the_answer_alone(visit: Visit, jpeg: bytes) -> None:
    page = visit()
    with page.expect_response(lambda response: response.request.method == "POST") as asked:
        upload(page, jpeg)
    assert asked.value.request.headers["x-fragment"] == "answer"
    assert "data:image/" not in asked.value.text()
    source = str(page.locator("#result-photo").get_attribute("src"))
    assert source.startswith("blob:")  # drawn from the file itself
    assert page.locator(".preview").get_attribute("src") == source


def test_a_file_that_is_stored_on_its_side_is_drawn_upright(visit: Visit) -> None:
    upright = photo()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned clockwise
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    page = visit()
    upload(page, encoded(stored, "JPEG", exif=exif, quality=95))
    show(page, "view", "photo")
    for painted in paintings(page):
        assert painted.shape == (120, 160, 3)
        assert np.abs(painted - np.asarray(upright)).mean() < 4


@pytest.mark.parametrize(
    "script",
    [
        "HTMLImageElement.prototype.decode = async function () {"
        " if (this.src.startsWith('blob:')) throw new Error(); };",
        "Object.defineProperty(HTMLImageElement.prototype, 'naturalWidth', {"
        " get() { return this.src.startsWith('blob:') ? 120 : 160; } });",
    ],
    ids=["not at all", "in another size"],
)
def test_a_file_that_the_browser_decodes_otherwise_is_drawn_from_the_servers_picture(
    visit: Visit, jpeg: bytes, script: str
) -> None:
    page = visit(script=script)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.headers.get("x-fragment", "")))
    upload(page, jpeg)
    assert [parts for parts in asked if parts] == ["answer", "answer, photo"]
    assert str(page.locator("#result-photo").get_attribute("src")).startswith("data:image/jpeg")
    show(page, "view", "photo")
    for painted in paintings(page):
        assert np.abs(painted - np.asarray(picture(jpeg)).astype(int)).mean() < 4


def test_the_map_alone_is_the_apis_bare_heat_map(visit: Visit, jpeg: bytes, server: str) -> None:
    target = with_evidence(explained(server, jpeg))[0]
    page = visit()
    upload(page, jpeg)
    press(page, target)
    show(page, "view", "map")
    for name, painted in zip(FAMILY, paintings(page), strict=True):
        fields = {"model": name, "target": target, "overlay": "false"}
        answer = httpx.post(
            f"{server}/api/v1/heatmap", files={"image": ("x.jpg", jpeg)}, data=fields
        )
        bare = np.asarray(picture(answer.content)).astype(int)
        assert np.abs(painted - bare).mean() < 3


def show(page: Page, name: str, value: str) -> None:
    """Press one of the toolbar's choices."""
    page.locator(f".controls label:has(input[name={name}][value={value}])").click()


def test_the_photo_alone_is_the_photo(visit: Visit, jpeg: bytes) -> None:
    page = visit()
    upload(page, jpeg)
    show(page, "view", "photo")
    plain = np.asarray(picture(jpeg)).astype(int)
    for painted in paintings(page):
        assert np.abs(painted - plain).mean() < 1  # the file itself


def test_change_shows_the_difference_to_the_first_column(
    visit: Visit, jpeg: bytes, server: str
) -> None:
    page = visit()
    upload(page, jpeg)
    press(page, with_evidence(explained(server, jpeg))[0])
    show(page, "view", "difference")
    first, second, third = paintings(page)
    assert not np.array_equal(first, second)
    assert not np.array_equal(second, third)


def test_pressing_a_class_turns_every_column_to_it_without_asking_again(
    visit: Visit, jpeg: bytes, server: str
) -> None:
    answer = explained(server, jpeg)
    page = visit()
    upload(page, jpeg)
    asked: list[str] = []
    page.on("request", lambda each: each.url.startswith("blob:") or asked.append(each.url))
    now, then = with_evidence(answer)[:2]
    press(page, now)
    before = paintings(page)
    press(page, then, column=1)
    for column, result in zip(page.locator(".model-column").all(), answer["results"], strict=True):
        expect(column.locator("[data-fill=target]").first).to_have_text(then)
        said = {each["label"]: each["probability"] for each in result["predictions"]}
        expect(column.locator("[data-fill=probability]")).to_contain_text(f"{said[then] * 100:.1f}")
        pressed = column.locator(".prediction[aria-pressed=true]")
        expect(pressed).to_have_count(1)
        expect(pressed).to_have_attribute("value", then)
    assert differ(before, paintings(page)) == [True, True, True]
    assert asked == []


def test_the_opacity_slider_changes_every_picture(visit: Visit, jpeg: bytes, server: str) -> None:
    page = visit()
    upload(page, jpeg)
    press(page, with_evidence(explained(server, jpeg))[0])
    before = paintings(page)
    page.locator("input[name=opacity]").fill("0.2")
    after = paintings(page)
    assert differ(before, after) == [True, True, True]
    page.locator("input[name=opacity]").fill("0.7")
    assert differ(before, paintings(page)) == [False, False, False]


def test_the_opacity_stays_when_another_view_comes_between(visit: Visit, jpeg: bytes) -> None:
    page = visit()
    upload(page, jpeg)
    page.locator("input[name=opacity]").fill("0.3")
    before = paintings(page)
    show(page, "view", "map")
    show(page, "view", "overlay")
    assert differ(before, paintings(page)) == [False, False, False]
    show(page, "view", "map")
    upload(page, encoded(photo(seed=5)))
    show(page, "view", "overlay")
    expect(page.locator("input[name=opacity]")).to_have_value("0.3")


def test_one_scale_for_all_pales_all_but_the_hottest_column(
    visit: Visit, jpeg: bytes, server: str
) -> None:
    answer = explained(server, jpeg)
    target = with_evidence(answer)[0]
    peaks = [
        next(each["map"]["max"] for each in result["heatmaps"] if each["label"] == target)
        for result in answer["results"]
    ]
    page = visit()
    upload(page, jpeg)
    press(page, target)
    before = paintings(page)
    show(page, "scale", "shared")
    assert differ(before, paintings(page)) == [peak < max(peaks) for peak in peaks]


def test_another_method_and_layer_are_asked_for_at_once(visit: Visit, jpeg: bytes) -> None:
    page = visit()
    upload(page, jpeg)
    before = paintings(page)
    page.locator("details.options > summary").click()
    with answered(page):
        page.locator("select[name=layer]").select_option("layer2.0")
    expect(page.locator(".rest code")).to_contain_text("layer=layer2.0")
    with answered(page):
        page.locator("select[name=method]").select_option("layercam")
    expect(page.locator(".rest code")).to_contain_text("method=layercam")
    expect(page.locator(".rest code")).to_contain_text("layer=layer2.0")
    assert any(differ(before, paintings(page)))


def test_a_method_that_contrasts_classes_offers_them(visit: Visit, jpeg: bytes) -> None:
    page = visit("/?photo=balloon.jpg")
    expect(page.locator("#result")).to_be_visible()
    page.locator(".options summary").click()
    expect(page.get_by_label("Rather than")).to_be_hidden()  # Grad-CAM knows one class
    with answered(page):
        page.locator("select[name=method]").select_option(label="Finer-CAM")
    nearest = paintings(page)
    target = page.locator("#result").get_attribute("data-target")
    other = next(label for label in reversed(LABELS) if label != target)
    with answered(page):
        page.get_by_label("Rather than").select_option(label=other)
    assert any(differ(nearest, paintings(page)))
    assert f"versus={other}" in page.url
    assert f"-F versus={other}" in (page.locator(".rest code").text_content() or "")
    with answered(page):
        page.locator("select[name=method]").select_option(label="Layer-CAM")  # no class
    expect(page.get_by_label("Rather than")).to_be_hidden()
    assert "versus" not in page.url


def test_a_class_whose_map_is_not_here_is_asked_for(visit: Visit, jpeg: bytes) -> None:
    page = visit()
    upload(page, jpeg)
    page.locator("details.options > summary").click()
    with answered(page):
        page.locator("select[name=method]").select_option("layercam")  # the target's map only
    shown = page.locator("#result").get_attribute("data-target")
    other = next(label for label in LABELS if label != shown)
    with answered(page):
        press(page, other)
    expect(page.locator("#result")).to_have_attribute("data-target", other)
    expect(page.locator(".rest code")).to_contain_text("method=layercam")


def hand_over(page: Page, how: str, data: bytes, more: int = 0) -> None:
    """Paste or drop a photo somewhere on the page; `more` zeros behind it make it large."""
    page.evaluate(
        """([how, data, more]) => {
            const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
            const transfer = new DataTransfer();
            const parts = [bytes, new Uint8Array(more)];
            transfer.items.add(new File(parts, "photo.jpg", { type: "image/jpeg" }));
            const options = { bubbles: true, cancelable: true };
            document.body.dispatchEvent(how === "paste"
                ? new ClipboardEvent(how, { ...options, clipboardData: transfer })
                : new DragEvent(how, { ...options, dataTransfer: transfer }));
        }""",
        [how, base64.b64encode(data).decode(), more],
    )


@pytest.mark.parametrize("how", ["paste", "drop"])
def test_a_photo_can_be_pasted_or_dropped_anywhere(visit: Visit, jpeg: bytes, how: str) -> None:
    page = visit()
    with answered(page):
        hand_over(page, how, jpeg)
    expect(page.locator("#result-photo")).to_have_attribute("width", "160")


def test_the_keyboard_is_enough(visit: Visit, jpeg: bytes, server: str) -> None:
    page = visit()
    upload(page, jpeg)
    button = page.locator(".model-column").nth(2).locator(".prediction").nth(3)
    button.focus()
    page.keyboard.press("Enter")
    expect(button).to_have_attribute("aria-pressed", "true")
    label = str(button.get_attribute("value"))
    expect(page.locator(".model-column [data-fill=target]").first).to_have_text(label)
    for canvas in page.locator("heat-map canvas").all():
        assert label in str(canvas.get_attribute("aria-label"))  # a picture has text beside it


# The gallery


def test_the_first_visit_shows_an_example(visit: Visit) -> None:
    page = visit()
    expect(page.locator("#result .model-column heat-map canvas")).to_have_count(3)
    for painted in paintings(page):
        assert painted.std() > 10
    expect(page.locator(".gallery button[aria-current=true]")).to_have_count(1)


def test_a_gallery_photo_is_one_click_and_has_an_address(visit: Visit) -> None:
    page = visit()
    button = page.locator(".gallery button[name=photo]").nth(1)
    name = str(button.get_attribute("value"))
    with answered(page):
        button.click()
    expect(button).to_have_attribute("aria-current", "true")
    assert f"photo={name}" in page.url
    verdict = page.locator("#result .verdict").inner_text()
    page.reload()
    expect(page.locator("#result .model-column heat-map canvas")).to_have_count(3)
    assert page.locator("#result .verdict").inner_text() == verdict


def test_the_class_that_was_pressed_is_in_the_address(visit: Visit) -> None:
    page = visit()
    with answered(page):
        page.locator(".gallery button[name=photo]").nth(1).click()
    press(page, "g")
    assert "target=g" in page.url
    page.reload()
    expect(page.locator("#result")).to_have_attribute("data-target", "g")


def test_every_gallery_photo_has_its_picture_and_its_credit(visit: Visit) -> None:
    page = visit()
    buttons = page.locator(".gallery button[name=photo]")
    assert buttons.count() >= 3
    for image in buttons.locator("img").all():
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    expect(page.locator(".credits li")).to_have_count(buttons.count())


# What goes wrong


@pytest.mark.parametrize(
    ("data", "words"), [(b"I am text", "JPEG, PNG"), (encoded(photo())[:900], "truncated")]
)
def test_a_bad_file_shows_an_alert_and_the_page_goes_on(
    visit: Visit, jpeg: bytes, data: bytes, words: str
) -> None:
    page = visit(allowed=r"status of 4(15|22)")
    choose(page, data)
    alert = page.locator("[role=alert]:visible")
    expect(alert).to_be_visible()
    expect(alert).to_contain_text(words)
    upload(page, jpeg)
    expect(alert).to_have_count(0)


def test_a_heic_photo_is_answered_with_its_picture_although_the_browser_shows_none(
    visit: Visit, jpeg: bytes
) -> None:
    page = visit()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.method))
    with answered(page):
        choose(page, heic(), name="IMG_0001.HEIC", kind="image/heic")
    assert asked.count("POST") == 1  # the photo travels once
    said = page.locator(".drop .not-shown")
    expect(said).to_contain_text("IMG_0001.HEIC")
    expect(page.locator(".drop .preview")).to_have_count(0)
    broken = page.evaluate(
        "[...document.images].filter(image => image.complete && !image.naturalWidth).length"
    )
    assert broken == 0
    assert np.ptp(paintings(page)[0], axis=(0, 1)).min() > 50  # the four colours are there
    upload(page, jpeg)
    expect(said).to_have_count(0)
    expect(page.locator(".drop .preview")).to_have_count(1)


def test_after_an_error_the_last_answer_stays(visit: Visit, jpeg: bytes) -> None:
    page = visit(allowed="status of 415")
    upload(page, jpeg)
    choose(page, b"I am text")
    expect(page.locator("[role=alert]:visible")).to_be_visible()
    expect(page.locator("#result .model-column")).to_have_count(3)


def test_a_file_that_says_it_is_no_photo_or_is_too_large_is_not_even_sent(
    visit: Visit, jpeg: bytes
) -> None:
    page = visit()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.method))
    choose(page, b"I am text", name="notes.txt", kind="text/plain")
    expect(page.locator("[role=alert]:visible")).to_contain_text("text/plain")
    hand_over(page, "drop", jpeg, more=11 * 2**20)
    expect(page.locator("[role=alert]:visible")).to_contain_text("at most 10")
    assert "POST" not in asked
    upload(page, jpeg)
    expect(page.locator("[role=alert]:visible")).to_have_count(0)


def test_a_server_that_does_not_answer_shows_an_alert_and_can_be_asked_again(
    visit: Visit, jpeg: bytes
) -> None:
    page = visit(allowed="ERR_FAILED")
    page.route("**/", lambda route: route.abort())
    choose(page, jpeg)
    expect(page.locator("[role=alert]:visible")).to_be_visible()
    page.unroute("**/")
    upload(page, jpeg)
    expect(page.locator("[role=alert]:visible")).to_have_count(0)


def test_of_two_photos_in_a_row_the_last_one_is_answered(visit: Visit, jpeg: bytes) -> None:
    page = visit()
    choose(page, jpeg)
    choose(page, encoded(photo(90, 120, seed=3)))
    expect(page.locator("#result-photo")).to_have_attribute("width", "90")
    expect(page.locator("#result")).to_have_count(1)


# Dark and light


def test_dark_and_light_are_two_readable_pages(visit: Visit, jpeg: bytes) -> None:
    brightness: dict[str, tuple[float, float]] = {}
    for scheme in ("light", "dark"):
        page = visit(color_scheme=scheme)
        upload(page, jpeg)
        shot = np.asarray(picture(page.screenshot(clip={"x": 0, "y": 0, "width": 8, "height": 8})))
        ink = page.locator("h1").evaluate(
            """heading => {
                const context = new OffscreenCanvas(1, 1).getContext("2d");
                context.fillStyle = getComputedStyle(heading).color;
                context.fillRect(0, 0, 1, 1);
                return [...context.getImageData(0, 0, 1, 1).data.slice(0, 3)];
            }"""
        )
        brightness[scheme] = (float(shot[..., :3].mean()), float(np.mean(ink)))
        for painted in paintings(page):
            assert painted.std() > 10
    assert brightness["light"][0] > 180 > 90 > brightness["light"][1]
    assert brightness["dark"][0] < 90 < 160 < brightness["dark"][1]


# Without JavaScript


def shown_without_scripts(page: Page) -> None:
    """Three columns with pictures that the server painted."""
    images = page.locator("#result .model-column heat-map img")
    expect(images).to_have_count(3)
    for image in images.all():
        expect(image).to_be_visible()
        uri = str(image.get_attribute("src"))
        assert np.asarray(picture(base64.b64decode(uri.split(",")[1]))).std() > 10


def test_without_javascript_the_form_answers_with_pictures(visit: Visit, jpeg: bytes) -> None:
    page = visit(java_script_enabled=False)
    choose(page, jpeg)
    with page.expect_navigation():
        page.locator("#photo-form button.primary").click()
    shown_without_scripts(page)
    expect(page.locator("#result-photo")).to_have_attribute("width", "160")
    expect(page.locator("[data-model=tiny-cbam] .block img").first).to_be_visible()
    expect(page.locator("[role=alert]:visible")).to_have_count(0)


def test_without_javascript_a_gallery_photo_and_then_a_class_are_answered(visit: Visit) -> None:
    page = visit(java_script_enabled=False)
    button = page.locator(".gallery button[name=photo]").nth(1)
    name = str(button.get_attribute("value"))
    with page.expect_navigation():
        button.click()
    shown_without_scripts(page)
    expect(page.locator("#result")).to_have_attribute("data-photo", name)
    other = str(page.locator(".prediction").nth(1).get_attribute("value"))
    with page.expect_navigation():
        press(page, other)
    shown_without_scripts(page)
    expect(page.locator("#result")).to_have_attribute("data-photo", name)
    expect(page.locator("#result")).to_have_attribute("data-target", other)


def test_without_javascript_another_class_is_asked_for_with_the_photo_chosen_again(
    visit: Visit, jpeg: bytes
) -> None:
    page = visit(java_script_enabled=False)
    choose(page, jpeg)
    with page.expect_navigation():
        page.locator("#photo-form button.primary").click()
    other = str(page.locator(".prediction").nth(2).get_attribute("value"))
    choose(page, jpeg)
    with page.expect_navigation():
        press(page, other)
    expect(page.locator("#result-photo")).to_have_attribute("width", "160")
    expect(page.locator("#result")).to_have_attribute("data-target", other)


def test_without_javascript_a_form_without_a_photo_shows_an_alert(visit: Visit) -> None:
    page = visit(java_script_enabled=False, allowed="status of 422")
    page.locator("#photo-form button.primary").click()
    expect(page.locator("[role=alert]:visible")).to_be_visible()
    expect(page.locator("#photo-form")).to_be_visible()


# The API's documentation


def test_the_documentation_shows_every_route_within_the_strict_policy(visit: Visit) -> None:
    page = visit("/docs")
    for path in ("explain", "heatmap", "compare", "attention", "predict", "models"):
        expect(page.locator(f".opblock-summary-path:has-text('{path}')").first).to_be_visible()
