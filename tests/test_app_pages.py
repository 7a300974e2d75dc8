"""The page as HTML: it works without JavaScript, from this server alone, behind a strict policy."""

import base64
import re
import threading
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from app_fixtures import (
    BLOCKS,
    FAMILY,
    LABELS,
    encoded,
    form_of,
    photo,
    picture,
    wait_until_ready,
    write_family,
)
from fastapi import FastAPI
from fastapi.testclient import TestClient

import cbam
from app.inference import engine as engine_module
from app.main import create_app
from app.routes import pages as pages_module
from app.routes.deps import Asked
from app.routes.forms import PageFields
from app.settings import Settings
from app.templating import bundled
from cbam.explain.explanation import Prediction
from cbam.images.formats import EITHER

pytest_plugins = ["app_fixtures"]

GALLERY: list[dict[str, Any]] = tomllib.loads(
    (bundled("static") / "gallery" / "gallery.toml").read_text(encoding="utf-8")
)["photo"]
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
VOID = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"}


class HTML(HTMLParser):
    """A page, as far as the tests look into it: elements with their attributes and their text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.elements: list[dict[str, str]] = []
        self._open: list[dict[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        hidden = tag == "template" or any("hidden template" in each for each in self._open)
        element = {name: value or "" for name, value in attrs} | {":tag": tag, ":text": ""}
        if hidden:
            element["hidden template"] = ""
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[":tag"] != tag:
            pass

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element[":text"] += data

    def all(self, tag: str = "", **attributes: str) -> list[dict[str, str]]:
        """Shown elements of a tag with these attributes; a class may be one of several."""

        def fits(element: dict[str, str]) -> bool:
            if tag and element[":tag"] != tag or "hidden template" in element:
                return False
            for name, wanted in attributes.items():
                found = element.get(name.rstrip("_").replace("_", "-"))
                if found is None or wanted not in (found.split() if name == "class_" else [found]):
                    return False
            return True

        return [element for element in self.elements if fits(element)]

    def one(self, tag: str = "", **attributes: str) -> dict[str, str]:
        """The only such element."""
        found = self.all(tag, **attributes)
        assert len(found) == 1, (tag, attributes, found)
        return found[0]

    def local(self) -> set[str]:
        """Every address of our own that the page loads, links to or sends to."""
        found = {
            element[name]
            for element in self.elements
            for name in ("src", "href", "action", "data-openapi")
            if name in element
        }
        return {each for each in found if not re.match(r"https?://|data:|#", each)}


@pytest.fixture
def hang(tiny_app: FastAPI) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    """Put other photos into the gallery, for one test."""
    before = tiny_app.state.gallery
    yield lambda photos: setattr(tiny_app.state, "gallery", photos)
    tiny_app.state.gallery = before


def get(client: TestClient, path: str = "/", status: int = 200) -> HTML:
    """A page that is answered with this status."""
    return page_of(client.get(path), status)


def page_of(answer: Any, status: int = 200) -> HTML:
    """The answer, which is a page with this status."""
    assert answer.status_code == status, answer.text[:2000]
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return HTML(answer.text)


def send(
    client: TestClient, data: bytes | None, headers: Mapping[str, str] = {}, **fields: Any
) -> Any:
    """Send the form as a browser without scripts does, empty fields included."""
    form = {"top_k": "10", "family": "tiny", "method": "gradcam", "layer": "", **fields}
    body, kind = form_of(data or b"", **form)
    if data is None:  # no file chosen: a browser sends an empty one without a name
        body = body.replace(b'filename="x.jpg"', b'filename=""')
    return client.post("/", content=body, headers={"Content-Type": kind, **headers})


def fragment(client: TestClient, data: bytes | None, parts: str = "answer", **fields: Any) -> Any:
    """Send the form as the page's script does."""
    return send(client, data, {"X-Fragment": parts}, **fields)


def assert_usable(page: HTML) -> None:
    """Whatever happened, the form is there for another try."""
    form = page.one("form", id="photo-form")
    assert (form["method"], form["enctype"]) == ("post", "multipart/form-data")
    assert page.one("input", type="file", name="image")
    assert len(page.all("button", name="photo")) == len(GALLERY)


# The page before a photo is chosen


def test_the_page_is_html_with_the_form_the_gallery_and_the_classes(client: TestClient) -> None:
    page = get(client)
    assert page.one("html")["lang"] == "en"
    assert_usable(page)
    assert page.one("form", id="photo-form")["action"] == "/"
    assert not [each for each in page.all(role="alert") if "hidden" not in each]
    assert ", ".join(LABELS) in page.one("html")[":text"]
    options = page.all("option")
    assert {each["value"] for each in options if "value" in each} >= set(cbam.METHODS)
    assert set(BLOCKS) <= {each[":text"].strip() for each in options}


def test_before_a_photo_is_chosen_the_first_of_the_gallery_is_the_example(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = get(client)
    assert page.one(id="result")["data-photo"] == GALLERY[0]["file"]
    assert [each["data-model"] for each in page.all(class_="model-column")] == list(FAMILY)

    def not_again(*_: Any) -> Any:
        raise AssertionError("the example is made once and kept")

    monkeypatch.setattr(engine_module, "answer_many", not_again)
    assert get(client).one(id="result")[":text"] == page.one(id="result")[":text"]


def test_every_gallery_photo_is_shown_credited_and_there(client: TestClient) -> None:
    page = get(client)
    text = page.one("html")[":text"]
    assert [each["value"] for each in page.all("button", name="photo")] == [
        item["file"] for item in GALLERY
    ]
    for item in GALLERY:
        assert item["title"] in text
        assert item["author"] in text
        assert item["licence"] in text
        answer = client.get(f"/static/gallery/{item['file']}")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "image/jpeg"
        assert max(picture(answer.content).size) <= 1600


@pytest.mark.parametrize(
    ("shows", "sentence"),
    [
        (["not theirs"], "What the photo shows is not a class they know."),
        (
            ["not theirs", *LABELS],
            "The photo shows: a, b, c, d, e, f, g, h, i or j. All three are right.",
        ),
    ],
    ids=["none", "any"],
)
def test_a_gallery_photos_answers_are_judged_by_what_it_shows(
    client: TestClient, hang: Callable[..., None], shows: list[str], sentence: str
) -> None:
    first = {**GALLERY[0], "shows": shows, "missed_by": []}
    hang([first])
    page = get(client, f"/?photo={first['file']}")
    assert " ".join(page.one(class_="truth")[":text"].split()) == sentence


def test_the_gallery_names_what_the_family_knows_and_who_misses_it(
    client: TestClient, hang: Callable[..., None]
) -> None:
    photos = [
        {**GALLERY[0], "shows": ["c", "not theirs"], "missed_by": list(FAMILY)},
        {**GALLERY[1], "shows": ["d"], "missed_by": [next(iter(FAMILY)), "another family's"]},
        {**GALLERY[2], "shows": ["e"]},
        {**GALLERY[3], "shows": []},
    ]
    hang(photos)
    buttons = get(client).all("button", name="photo")
    said = [
        each[":text"].replace(photo["title"], "").strip()
        for each, photo in zip(buttons, photos, strict=True)
    ]
    assert said == ["c: missed by all", "d: missed by one", "e", "not a class they know"]


def test_every_field_has_a_label_and_every_picture_a_text(client: TestClient, jpeg: bytes) -> None:
    for page in (get(client), page_of(send(client, jpeg))):
        labels = {each["for"] for each in page.all("label") if "for" in each}
        for field in [*page.all("input"), *page.all("select")]:
            if field.get("type") == "hidden":
                continue
            inside = field.get("name", field.get("type", field[":tag"])) in labelled(page)
            assert inside or field.get("id") in labels, field
        assert all("alt" in image for image in page.all("img"))


def labelled(page: HTML) -> set[str]:
    """Names of the fields that stand inside a label; of one without a name its type or tag."""
    found, depth = set(), 0
    for part in re.finditer(r"<(/?)(label|input|select)\b([^>]*)>", page.text):
        end, tag, rest = part.groups()
        if tag == "label":
            depth += -1 if end else 1
        elif depth:
            named = re.search(r'\bname="([^"]*)"', rest) or re.search(r'\btype="([^"]*)"', rest)
            found.add(named[1] if named else tag)
    return found


def test_the_page_is_there_while_the_models_load_and_says_so_when_asked(
    serve: Callable[..., TestClient], jpeg: bytes, may_load: threading.Event
) -> None:
    client = serve(wait=False)
    try:
        page = get(client)
        assert_usable(page)
        assert not page.all(id="result")
        assert "loaded" in page.one("models-loading")[":text"]
        assert "refresh" in page.text
        refused = send(client, jpeg)
        page = page_of(refused, 503)
        assert_usable(page)
        assert "loaded" in page.one("models-loading")[":text"]
        assert "refresh" not in page.text, "the photo would be lost"
        assert int(refused.headers["retry-after"]) > 0
    finally:
        may_load.set()


# An answer without JavaScript


def test_an_upload_is_answered_with_three_columns(client: TestClient, jpeg: bytes) -> None:
    page = page_of(send(client, jpeg))
    assert_usable(page)
    assert not [each for each in page.all(role="alert") if "hidden" not in each]
    columns = page.all(class_="model-column")
    assert [column["data-model"] for column in columns] == list(FAMILY)
    files = {"image": ("photo.jpg", jpeg)}
    answer = client.post("/api/v1/explain", files=files, data={"top_k": "10"}).json()
    assert page.one(id="result")["data-target"] == answer["target"]["label"]
    for column, result in zip(columns, answer["results"], strict=True):
        for prediction in result["predictions"]:
            assert f"{prediction['probability'] * 100:.1f}" in column[":text"]
        assert f"P({answer['target']['label']})" in column[":text"]
    assert [each["value"] for each in page.all(class_="prediction")] == [
        prediction["label"] for result in answer["results"] for prediction in result["predictions"]
    ]
    assert len(page.all("heat-map")) == 3
    assert [each["data-block"] for each in page.all(class_="block")] == [*BLOCKS, *BLOCKS]


def test_the_pictures_are_in_the_page_and_show_something(client: TestClient, jpeg: bytes) -> None:
    page = page_of(send(client, jpeg))
    pictures = [each["src"] for each in page.all("img") if each["src"].startswith("data:")]
    assert len(pictures) == 1 + 3 + 8 + 16  # photo, overlays, spatial maps, channel bars
    for uri in pictures:
        assert np.asarray(picture(base64.b64decode(uri.split(",")[1]))).std() > 5


@pytest.mark.parametrize(
    ("said", "headline", "hint"),
    [
        ([("a", 0.9), ("a", 0.5), ("a", 0.2)], "All three say a", False),
        ([("a", 0.9), ("b", 0.3), ("a", 0.2)], "They disagree: a or b?", True),
        ([("a", 0.4), ("b", 0.3), ("c", 0.49)], "They are not sure: a, b or c?", True),
        ([("a", 0.4), ("a", 0.3), ("a", 0.2)], "They are not sure: perhaps a", True),
        ([("a", 0.5), ("a", 0.3)], "Both say a", False),
        ([("b", 0.5)], "It says b", False),
        ([("b", 0.4)], "It is not sure: perhaps b", True),
    ],
)
def test_the_headline_says_whether_they_agree_and_are_sure(
    client: TestClient,
    jpeg: bytes,
    monkeypatch: pytest.MonkeyPatch,
    said: list[tuple[str, float]],
    headline: str,
    hint: bool,
) -> None:
    def shown(asked: Asked[PageFields], parts: frozenset[str]) -> dict[str, Any]:
        answered = asked.answer.explanations
        for number, (label, probability) in enumerate(said):
            index = LABELS.index(label)
            own = Prediction(index, label, probability, (index,))
            answered[number] = replace(
                answered[number],
                words=(own, *answered[number].words[1:]),
                predictions=(own, *answered[number].predictions[1:]),
            )
        return made(asked, parts)

    made = pages_module._shown
    monkeypatch.setattr(pages_module, "_shown", shown)
    page = page_of(fragment(client, jpeg, models=list(FAMILY)[: len(said)], target="d"))
    assert " ".join(page.one(id="result-title")[":text"].split()) == headline
    words = " ".join(page.one(class_="verdict")[":text"].split())
    assert all(f"{probability * 100:.1f} %" in words for _, probability in said)
    assert bool(page.all(class_="unsure")) == hint
    looked = " ".join(page.one(class_="looked")[":text"].split())
    assert looked == f"Where {'it' if len(said) == 1 else 'they'} looked for d"


@pytest.mark.parametrize("flagged", [0, 1, 2, 3])
def test_a_photo_that_most_models_do_not_know_is_said_so(
    client: TestClient, jpeg: bytes, monkeypatch: pytest.MonkeyPatch, flagged: int
) -> None:
    def shown(asked: Asked[PageFields], parts: frozenset[str]) -> dict[str, Any]:
        answered = asked.answer.explanations
        for number in range(3):
            answered[number] = replace(answered[number], none_of_these=number < flagged)
        return made(asked, parts)

    made = pages_module._shown
    monkeypatch.setattr(pages_module, "_shown", shown)
    page = page_of(fragment(client, jpeg))
    said = " ".join(page.one(class_="verdict")[":text"].split())
    assert ("This may be none of the ten classes that they know." in said) == (flagged > 1)


@pytest.mark.parametrize("item", GALLERY[:3], ids=lambda item: item["file"])
def test_a_gallery_photo_is_answered_like_an_upload_of_it(
    client: TestClient, item: dict[str, str]
) -> None:
    data = (bundled("static") / "gallery" / item["file"]).read_bytes()
    posted = page_of(send(client, None, photo=item["file"]))
    linked = get(client, f"/?photo={item['file']}&top_k=10")
    uploaded = page_of(send(client, data))
    said = [
        [(each["value"], each["data-probability"]) for each in page.all(class_="prediction")]
        for page in (posted, linked, uploaded)
    ]
    assert len(said[0]) == 30
    assert said[0] == said[1] == said[2]
    assert posted.one(id="result")["data-photo"] == item["file"]
    assert uploaded.one(id="result")["data-photo"] == ""


def test_a_pressed_gallery_photo_goes_before_a_file_that_is_still_chosen(
    client: TestClient, jpeg: bytes
) -> None:
    name = GALLERY[0]["file"]
    both = page_of(send(client, jpeg, photo=name))
    alone = page_of(send(client, None, photo=name))
    probabilities = [
        [each["data-probability"] for each in page.all(class_="prediction")]
        for page in (both, alone)
    ]
    assert probabilities[0] == probabilities[1]
    assert both.one(id="result")["data-photo"] == name


def test_what_a_shared_link_has_picked_up_on_its_way_is_no_matter(client: TestClient) -> None:
    page = get(client, f"/?photo={GALLERY[0]['file']}&fbclid=x&utm_source=y")
    assert len(page.all(class_="model-column")) == 3


def test_the_options_that_were_asked_for_are_kept_in_the_form(
    client: TestClient, jpeg: bytes
) -> None:
    page = page_of(send(client, jpeg, method="layercam", layer="layer2.0", target="c"))
    chosen = [each for each in page.all("option") if "selected" in each]
    chosen = chosen[:2]  # those of the form, which comes first
    assert [each.get("value", each[":text"]) for each in chosen] == ["layercam", "layer2.0"]
    assert page.one(id="result")["data-target"] == "c"
    assert "layer=layer2.0" in page.one(id="result")[":text"]


def test_a_link_names_models_and_target_as_the_api_does(client: TestClient) -> None:
    path = f"/?photo={GALLERY[0]['file']}&models=tiny-cbam&models=tiny-none&target=e"
    page = get(client, path)
    columns = [each["data-model"] for each in page.all(class_="model-column")]
    assert columns == ["tiny-cbam", "tiny-none"]
    assert page.one(id="result")["data-target"] == "e"


def test_a_link_to_another_family_shows_its_classes_and_its_example(tmp_path: Path) -> None:
    """What the choice of networks does, with and without a photo."""
    folder = write_family(tmp_path)
    card = folder / "tiny-se" / "card.toml"
    text = card.read_text(encoding="utf-8")
    card.write_text(text.replace('family = "tiny"', 'family = "words"'), encoding="utf-8")
    labels = [f"word {index}" for index in range(10)]
    (folder / "tiny-se" / "labels.txt").write_text("\n".join(labels) + "\n", encoding="utf-8")
    app = create_app(Settings(models_folder=folder))
    with TestClient(app) as client:
        wait_until_ready(client)
        for path, classes, models in (
            ("/", LABELS, ["tiny-none", "tiny-cbam"]),
            ("/?family=words", labels, ["tiny-se"]),
        ):
            page = get(client, path)
            assert ", ".join(classes) in page.one("html")[":text"]
            assert [each["data-model"] for each in page.all(class_="model-column")] == models


# What the page's script asks for


def test_the_script_gets_the_answer_alone_and_no_picture_that_it_paints_itself(
    client: TestClient, jpeg: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = page_of(send(client, jpeg))

    def unasked(*_: Any) -> Any:
        raise AssertionError("a picture that nobody sees")

    for name in ("uri", "_jpeg"):
        monkeypatch.setattr(pages_module, name, unasked)
    answer = fragment(client, jpeg)
    part = page_of(answer)
    assert answer.headers["vary"] == "X-Fragment, Accept-Language, Cookie"
    assert "data:image/" not in answer.text
    assert "<html" not in answer.text
    assert not part.all("form", id="photo-form")
    assert part.one("title")[":text"] == whole.one("title")[":text"]
    assert "src" not in part.one("img")  # the photo: the script has it
    assert (part.one("img")["width"], part.one("img")["height"]) == ("160", "120")
    for tag, names in (
        ("heat-map", ("data-maps", "data-view", "data-size", "data-name")),
        ("gate-map", ("data-map", "data-view", "data-size", "data-label")),
        ("gate-bars", ("data-values", "data-label")),
        ("button", ("class", "value", "data-probability")),
    ):
        for found, wanted in zip(part.all(tag), result_of(whole).all(tag), strict=True):
            assert [found.get(name) for name in names] == [wanted.get(name) for name in names]


def result_of(page: HTML) -> HTML:
    """The page's answer alone."""
    start = page.text.index('<section id="result"')
    return HTML(page.text[start : page.text.rindex("</section>")])  # it has sections in it


def test_a_browser_that_cannot_decode_its_file_gets_the_photo_and_no_other_picture(
    client: TestClient, jpeg: bytes
) -> None:
    part = page_of(fragment(client, jpeg, "answer, photo"))
    uris = re.findall(r'"(data:[^"]*)"', part.text)
    assert uris == [part.one("img")["src"]]
    assert picture(base64.b64decode(uris[0].split(",")[1])).size == (160, 120)


@pytest.mark.parametrize("parts", ["answer", "answer, photo"])
def test_a_gallery_photo_comes_from_its_own_address(
    serve: Callable[..., TestClient], parts: str
) -> None:
    client = serve(root_path="/lens")
    name = GALLERY[1]["file"]
    for page in (
        page_of(fragment(client, None, parts, photo=name)),
        get(client, f"/?photo={name}"),
    ):
        assert page.one("img", id="result-photo")["src"] == f"/lens/static/gallery/{name}"
        assert page.one(id="result")["data-photo"] == name


@pytest.mark.parametrize(
    ("data", "status", "words"),
    [
        (b"I am text", 415, EITHER),
        (None, 422, "photo"),
        (bytes(11 * 2**20), 413, "10 MiB"),
    ],
)
def test_the_script_gets_an_error_alone(
    client: TestClient, data: bytes | None, status: int, words: str
) -> None:
    part = page_of(fragment(client, data), status)
    assert words in part.one(id="error", role="alert")[":text"]
    assert not part.all("form")
    assert "<html" not in part.text


def test_the_gallery_is_read_once(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, jpeg: bytes
) -> None:
    def again(*_: Any) -> Any:
        raise AssertionError("gallery.toml was read again")

    monkeypatch.setattr(tomllib, "loads", again)
    get(client)
    get(client, f"/?photo={GALLERY[2]['file']}")
    page_of(send(client, jpeg))


# What goes wrong


@pytest.mark.parametrize(
    ("data", "fields", "status", "words"),
    [
        pytest.param(b"I am text", {}, 415, EITHER, id="text"),
        pytest.param(encoded(photo())[:900], {}, 422, "truncated", id="truncated"),
        pytest.param(None, {}, 422, "photo", id="no photo"),
        pytest.param(None, {"photo": "nothing.jpg"}, 422, "nothing.jpg", id="not in the gallery"),
        pytest.param(None, {"photo": "gallery.toml"}, 422, "gallery.toml", id="no photo of it"),
        pytest.param(None, {"photo": "../favicon.svg"}, 422, "../favicon.svg", id="path"),
        pytest.param(encoded(photo()), {"method": "gradcan"}, 422, "gradcam", id="method"),
        pytest.param(encoded(photo()), {"layer": "layer9"}, 422, "layer4.1", id="layer"),
        pytest.param(encoded(photo()), {"target": "zebra"}, 422, "9 j", id="target"),
        pytest.param(encoded(photo()), {"family": "huge"}, 422, "tiny", id="family"),
        pytest.param(encoded(photo()), {"top_k": "99"}, 422, "20", id="top_k"),
        pytest.param(encoded(photo()), {"top_k": "x"}, 422, "top_k", id="top_k no number"),
        pytest.param(encoded(photo()), {"bogus": "x"}, 422, "bogus", id="field"),
        pytest.param(bytes(11 * 2**20), {}, 413, "10 MiB", id="too large"),
    ],
)
def test_an_error_is_an_alert_on_a_page_that_can_be_used(
    client: TestClient, data: bytes | None, fields: dict[str, str], status: int, words: str
) -> None:
    page = page_of(send(client, data, **fields), status)
    assert words in page.one(role="alert")[":text"]
    assert_usable(page)
    assert not page.all(id="result")


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"content": b"x", "headers": {"Content-Type": "application/json"}},
        {"data": {"photo": GALLERY[0]["file"]}},
    ],
)
def test_what_is_no_such_form_is_an_alert_too(client: TestClient, request_: dict[str, Any]) -> None:
    page = page_of(client.post("/", **request_), 415)
    assert "multipart/form-data" in page.one(role="alert")[":text"]
    assert_usable(page)


@pytest.mark.parametrize(
    "name", ["photo", "method", "target", "layer", "family", "top_k", "models"]
)
def test_what_came_is_shown_as_text_never_as_html(
    client: TestClient, jpeg: bytes, name: str
) -> None:
    bad = "\"'><script>alert(1)</script>"
    answer = send(client, None if name == "photo" else jpeg, **{name: bad})
    page = page_of(answer, 422)
    assert bad in page.one(role="alert")[":text"]
    assert "<script>alert" not in answer.text
    assert_usable(page)


def test_an_error_of_ours_on_the_page_tells_nothing_of_the_inside(
    client: TestClient, jpeg: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("secret of the inside")

    monkeypatch.setattr(engine_module, "answer_many", broken)
    answer = send(client, jpeg)
    assert answer.status_code == 500
    assert "secret" not in answer.text


# Headers


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 200),
        ("/?photo=none", 422),
        ("/?family=none", 422),
        (f"/?photo={GALLERY[0]['file']}", 200),
        ("/api/v1/models", 200),
        ("/api/v1/nothing", 404),
        ("/api/v1/explain", 405),
        ("/nothing", 404),
        ("/static/css/site.css", 200),
        ("/static/nothing.css", 404),
        ("/static/%2e%2e/app/main.py", 404),
        ("/docs", 200),
        ("/openapi.json", 200),
        ("/swagger/swagger-ui.css", 200),
        ("/healthz", 200),
        ("/readyz", 200),
    ],
)
def test_every_answer_carries_the_strict_policy_and_an_id(
    client: TestClient, path: str, status: int
) -> None:
    answer = client.get(path)
    assert answer.status_code == status
    assert_guarded(answer)
    kept = path.startswith(("/static/", "/swagger/"))
    assert answer.headers["cache-control"] == ("no-cache" if kept else "no-store")


def assert_guarded(answer: Any) -> None:
    """The security headers are there, the policy is strict, and the answer has an id."""
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    policy = dict(
        (each.strip().split(" ", 1) + [""])[:2]
        for each in answer.headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == "'none'"
    assert policy["base-uri"] == "'none'"
    assert policy["form-action"] == "'self'"
    assert policy["script-src"] == "'self'"
    assert policy["style-src"] == "'self'"
    assert not re.search(r"unsafe|https?:|\*", answer.headers["content-security-policy"])
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])


def test_answers_to_uploads_and_errors_of_ours_are_guarded_too(
    client: TestClient, jpeg: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"image": ("x.jpg", jpeg)}
    for route in ("explain", "heatmap", "compare", "attention", "predict"):
        assert_guarded(client.post(f"/api/v1/{route}", files=files))
    assert_guarded(send(client, jpeg))
    assert_guarded(send(client, b"no photo"))

    def broken(*_: Any) -> Any:
        raise RuntimeError

    monkeypatch.setattr(engine_module, "answer_many", broken)
    failed = client.post("/api/v1/explain", files=files)
    assert failed.status_code == 500
    assert_guarded(failed)


def test_no_two_answers_have_the_same_id(client: TestClient) -> None:
    assert len({client.get("/healthz").headers["x-request-id"] for _ in range(20)}) == 20


def test_the_page_keeps_its_own_policy(client: TestClient, jpeg: bytes) -> None:
    """No inline script, handler or style, which the policy would block."""
    for page in (get(client), page_of(send(client, jpeg)), get(client, "/docs")):
        assert not [each for each in page.elements if each[":tag"] == "style" or "style" in each]
        for script in (each for each in page.elements if each[":tag"] == "script"):
            assert "src" in script or script["type"] == "application/json"
        assert not [name for each in page.elements for name in each if name.startswith("on")]


# Nothing from elsewhere


def test_everything_that_the_pages_load_is_here(client: TestClient, jpeg: bytes) -> None:
    for page in (get(client), page_of(send(client, jpeg)), get(client, "/docs")):
        for element in page.elements:
            loaded = element.get("src") or (element[":tag"] == "link" and element["href"])
            if loaded:
                assert not re.match(r"(https?:)?//", loaded), loaded
        addresses = page.local()
        assert addresses
        for address in addresses:
            assert client.get(address).status_code == 200, address


def test_every_module_sheet_and_picture_that_scripts_and_styles_name_is_here() -> None:
    static = bundled("static")
    scripts = list(static.rglob("*.js"))
    named = {static / "js" / "site.js", static / "js" / "views" / "docs.js"}  # by the templates
    for script in scripts:
        text = script.read_text(encoding="utf-8")
        assert text.startswith("// @ts-check\n"), f"{script.name} is not type-checked"
        for name in re.findall(r'(?:from|import) "([^"]+)"', text):
            assert name.startswith(("./", "../")), f"{script.name} imports {name}"
            named.add((script.parent / name).resolve())
        assert not re.search(r"""["'`]/(api|static|docs)""", text), "breaks behind a prefix"
    assert named == set(scripts)
    sheets = list(static.rglob("*.css"))
    named = {static / "css" / "site.css"}
    for sheet in sheets:
        text = sheet.read_text(encoding="utf-8")
        named |= {sheet.parent / name for name in re.findall(r'@import "([^"]+)"', text)}
        for name in re.findall(r"url\(['\"]?([^'\")]+)", text):
            assert name.startswith(("data:", "#")) or (sheet.parent / name).is_file()
    assert named == set(sheets)


def test_dark_mode_changes_the_raw_values_only() -> None:
    for sheet in bundled("static").rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        if sheet.name != "values.css":
            assert "prefers-color-scheme" not in text, sheet.name
            assert not re.search(r"--[\w-]+:\s", text), f"{sheet.name} makes up a value"
            continue
        raw, dark, roles = re.split(r"@media \(prefers-color-scheme: dark\)|/\* Components", text)
        values = set(re.findall(r"(--[\w-]+):", raw))
        assert set(re.findall(r"(--[\w-]+):", dark)) < values
        assert not values & set(re.findall(r"(--[\w-]+):", roles))


def test_the_documentation_reads_the_description_of_this_server(client: TestClient) -> None:
    page = get(client, "/docs")
    assert page.one(id="swagger-ui")["data-openapi"] == "/openapi.json"
    assert "servers" not in client.get("/openapi.json").json()


def test_behind_a_prefix_every_address_has_it(
    serve: Callable[..., TestClient], jpeg: bytes
) -> None:
    client = serve(root_path="/lens")
    for page in (get(client), page_of(send(client, jpeg)), get(client, "/docs")):
        addresses = page.local()
        assert addresses
        for address in addresses:
            if address.startswith("?"):  # this page in another way, wherever it is
                assert client.get(f"/lens/{address}").status_code == 200, address
                continue
            assert address.startswith("/lens/"), address
            # A proxy may take the prefix away or leave it on.
            assert client.get(address.removeprefix("/lens")).status_code == 200, address
            assert client.get(address).status_code == 200, address
    assert client.get("/openapi.json").json()["servers"] == [{"url": "/lens"}]
    assert get(client).one("form", id="photo-form")["action"] == "/lens/"
