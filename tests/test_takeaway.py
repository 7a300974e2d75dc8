"""One answer to take away: from the service and the command, and what asks the same again."""

import hashlib
import io
import json
import re
import shlex
import zipfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from app_fixtures import FAMILY, assert_problem, encoded, photo, picture
from commanding import Run
from fastapi.testclient import TestClient
from PIL import Image

import cbam
from app.takeaway import html_file, lines
from cbam.bundle.read import read
from cbam.bundle.records import Asked, ModelRecord, bundle_of
from cbam.cards.card import Card
from cbam.explain.question import Options
from cbam.model import Model

pytest_plugins = ["app_fixtures", "commanding"]

BUNDLE = "/api/v1/bundle"


def ask(client: TestClient, route: str, data: bytes, **fields: Any) -> Any:
    answer = client.post(f"/api/v1/{route}", files={"image": ("x.jpg", data)}, data=fields)
    assert answer.status_code == 200, answer.text[:500]
    return answer


def timeless(answer: Any) -> Any:
    """JSON without times."""
    if isinstance(answer, dict):
        return {name: timeless(each) for name, each in answer.items() if name != "timing_ms"}
    return [timeless(each) for each in answer] if isinstance(answer, list) else answer


@pytest.mark.parametrize(
    ("route", "fields"),
    [("explain", {}), ("explain", {"target": "c", "method": "layercam", "layer": "layer2.0"}),
     ("explain", {"models": ["tiny-cbam"], "top_k": "2"}),
     ("intervene", {"gates": "layer1.0.channel=off"})],
    ids=["plain", "options", "one model", "gates"],
)  # fmt: skip
def test_a_bundle_holds_the_answer_of_the_api(
    client: TestClient, jpeg: bytes, route: str, fields: dict[str, Any]
) -> None:
    sent = ask(client, "bundle", jpeg, **fields)
    assert sent.headers["content-type"] == "application/zip"
    assert "attachment" in sent.headers["content-disposition"]
    assert sent.headers["cache-control"] == "no-store"
    wanted = timeless(ask(client, route, jpeg, **fields).json())
    with zipfile.ZipFile(io.BytesIO(sent.content)) as archive:
        assert json.loads(archive.read("answer.json")) == wanted
    found = read(sent.content)
    assert [each.model for each in found.explanations] == [
        each["model"] for each in wanted["results"]
    ]
    assert found.photo_sha256 == hashlib.sha256(jpeg).hexdigest()
    assert np.array_equal(np.asarray(found.explanations[0].photo), np.asarray(picture(jpeg)))


def test_the_same_question_gives_the_same_bytes(client: TestClient, jpeg: bytes) -> None:
    one, other = (ask(client, "bundle", jpeg).content for _ in range(2))
    assert one == other
    assert one != ask(client, "bundle", encoded(photo(seed=1), quality=95)).content


def test_a_bundle_is_refused_as_every_question_is(client: TestClient, jpeg: bytes) -> None:
    assert_problem(client.post(BUNDLE, files={"image": ("x.jpg", b"text")}), 415)
    wrong = client.post(BUNDLE, files={"image": ("x.jpg", jpeg)}, data={"format": "pdf"})
    assert_problem(wrong, 422, "format", "'zip' or 'html'")
    assert_problem(client.post(BUNDLE, data={"target": "a"}), 415)


class Page(HTMLParser):
    """What an HTML file asks for, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_html_file_needs_nothing_else(client: TestClient, jpeg: bytes) -> None:
    sent = ask(client, "bundle", jpeg, format="html", gates="open")
    assert sent.headers["content-type"] == "text/html; charset=utf-8"
    assert "attachment" in sent.headers["content-disposition"]
    page = Page(sent.text)
    assert not {"script", "link", "iframe", "object", "form"} & {tag for tag, _ in page.tags}
    pictures = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert len(pictures) == 1 + 3 + 8 + 16  # photo, maps, gates of SE and of CBAM
    assert all(str(each).startswith("data:image/") for each in pictures)
    assert all(attrs.get("alt") for tag, attrs in page.tags if tag == "img")
    assert not re.search(r"(url\((?!#)|@import|https?://(?!127\.0\.0\.1|www\.w3\.org))", sent.text)
    result = ask(client, "intervene", jpeg, gates="open").json()
    for each in result["results"]:
        if each["changed"]:
            for side in ("before", "after"):
                assert f"{each[side]['target_probability'] * 100:.1f}" in page.text
    assert "not a retraining" in page.text
    for name in FAMILY:
        assert name in page.text


def test_names_of_strangers_are_text_in_the_html_file(
    make_model: Callable[..., Model], make_photo: Callable[..., Image.Image]
) -> None:
    model = make_model("cbam", labels=("<b>x", "&amp;", "c", "d", "e"))
    found = bundle_of([model.explain(make_photo(), target=0)], [model], Options(), "0" * 64)
    text = html_file(found)
    assert "<b>x" not in text
    assert "&lt;b&gt;x" in text
    assert "<b>x" in Page(text).text


# The same again


def asked(client: TestClient, **options: Any) -> tuple[Asked, list[ModelRecord]]:
    """A question to the tiny family and its models' records."""
    models = client.app.state.engine.chosen([])  # type: ignore[attr-defined]
    return Asked.of(Options(**options), options["target"]), [
        ModelRecord.of(each) for each in models
    ]


OPTIONS: list[dict[str, Any]] = [
    {"target": "a"},
    {"target": "c", "method": "layercam", "layer": "layer2.0,layer4.1", "top_k": 3, "fuse": "max"},
    {"target": "b", "method": "finercam", "versus": "j"},
    {"target": 4, "gates": "layer1.0.channel=off, *.spatial=0.5"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=["label", "layers", "versus", "gates"])
def test_the_curl_line_asks_the_same(
    client: TestClient, jpeg: bytes, options: dict[str, Any]
) -> None:
    made = lines(*asked(client, **options), photo="my photo's.jpg", address="http://x")
    program, address, *words = shlex.split(made.curl.replace("\\\n", " "))
    assert (program, words[::2]) == ("curl", ["-F"] * (len(words) // 2))
    assert words[1] == "image=@my photo's.jpg"
    fields: dict[str, Any] = {}
    for word in words[3::2]:
        name, _, value = word.partition("=")
        fields.setdefault(name, []).append(value)
    found = client.post(
        address.removeprefix("http://x"), files={"image": ("x.jpg", jpeg)}, data=fields
    )
    wanted = ask(client, "explain", jpeg, **options)
    assert timeless(found.json()) == timeless(wanted.json())


@pytest.mark.parametrize("options", OPTIONS, ids=["label", "layers", "versus", "gates"])
def test_the_python_lines_ask_the_same(
    client: TestClient,
    jpeg: bytes,
    options: dict[str, Any],
    tiny_models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "my photo's.jpg"
    path.write_bytes(jpeg)
    load = cbam.load
    monkeypatch.setattr(cbam, "load", lambda name: load(tiny_models / name))
    found: dict[str, Any] = {}
    exec(lines(*asked(client, **options), photo=str(path)).python, found)
    wanted = ask(client, "explain", jpeg, **options).json()["results"]
    for each, result in zip(found["explanations"], wanted, strict=True):
        assert each.model == result["model"]
        assert each.target.probability == result["target_probability"]
        assert float(each.heatmap.max()) == result["heatmaps"][0]["map"]["max"]
        assert [p.label for p in each.predictions] == [p["label"] for p in result["predictions"]]
        assert dict(each.changed) == result["changed"]


def test_another_back_end_is_named(client: TestClient) -> None:
    question, records = asked(client, target="a")
    other = [each.model_copy(update={"backend": "openvino"}) for each in records]
    assert "cbam.load(name, 'openvino')" in lines(question, other).python
    assert "--backend openvino" in lines(question, other).command
    assert "eager" not in lines(question, records).python


# The command


@pytest.fixture
def file(tmp_path: Path, jpeg: bytes) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg)
    return path


@pytest.mark.parametrize("gates", [(), ("--gates", "open")], ids=["plain", "gates"])
def test_what_explain_writes_open_shows_again(
    run: Run, tiny_card: Card, file: Path, tmp_path: Path, gates: tuple[str, ...]
) -> None:
    bundle, sheet = tmp_path / "x.zip", tmp_path / "sheet.png"
    words = ("explain", file, "--model", tiny_card.folder, *gates)
    status, table, err = run(*words, "-o", bundle)
    assert (status, err) == (0, f"wrote {bundle}\n")
    status, shown, err = run("open", bundle, "-o", sheet)
    assert status == 0
    assert shown.startswith(table)
    assert "Every file has the hash" in shown
    assert tiny_card.name in err  # its weights are not among those of this machine
    run(*words, "-o", tmp_path / "again.png")
    assert (
        picture(sheet.read_bytes()).tobytes()
        == picture((tmp_path / "again.png").read_bytes()).tobytes()
    )
    _, told, _ = run("open", bundle, "--json")
    _, wanted, _ = run(*words, "--json", "--target", read(bundle.read_bytes()).question.target)
    assert json.loads(told) == timeless(json.loads(wanted))
    run("open", bundle, "-o", tmp_path / "once.zip")
    assert (tmp_path / "once.zip").read_bytes() == bundle.read_bytes()
    run("open", bundle, "-o", tmp_path / "x.html")
    run(*words, "-o", tmp_path / "y.html")
    assert (tmp_path / "x.html").read_text("utf-8") == (tmp_path / "y.html").read_text("utf-8")


def test_open_refuses_what_is_no_bundle_in_one_sentence(
    run: Run, file: Path, tmp_path: Path
) -> None:
    for words, said in (
        ((file,), "no zip file"),
        ((tmp_path / "gone.zip",), "gone.zip"),
        ((tmp_path,), "cannot be read"),
        ((file, "-o", tmp_path / "x.bmp"), ".bmp"),
    ):
        status, out, err = run("open", *words)
        assert (status, out) == (1, "")
        assert err.startswith("cbam-lens: ")
        assert said in err
        assert err.count("\n") == 1


def test_a_bundle_from_the_service_opens_on_the_command_line(
    run: Run, client: TestClient, jpeg: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(ask(client, "bundle", jpeg).content)
    status, out, _ = run("open", path)
    assert status == 0
    for name in FAMILY:
        assert name in out
