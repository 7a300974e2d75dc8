"""Changed gates over REST: the same grammar as in Python, and the same numbers."""

import io
import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from app_fixtures import FAMILY, assert_problem, picture, values
from fastapi.testclient import TestClient

import cbam
from app.inference import engine as engine_module
from cbam.explain.explainer import answer_many, before_and_after
from cbam.explain.question import Options, resolve
from cbam.images.photo import open_photo

pytest_plugins = ["app_fixtures"]

GATES = "layer1.0.channel=off, layer4.*.spatial=0.5, layer3.1.channel=avg"


def ask(client: TestClient, route: str, photo: bytes, **fields: Any) -> Any:
    return client.post(f"/api/v1/{route}", files={"image": ("photo.jpg", photo)}, data=fields)


@pytest.fixture(scope="module")
def family(tiny_models: Path) -> list[cbam.Model]:
    return [cbam.load(tiny_models / name) for name in FAMILY]


def same(found: dict[str, Any], expected: cbam.Explanation) -> None:
    """An answer over REST is the library's."""
    assert found["model"] == expected.model
    assert [each["label"] for each in found["predictions"]] == [
        each.label for each in expected.predictions
    ]
    for got, own in zip(found["predictions"], expected.predictions, strict=True):
        assert got["probability"] == pytest.approx(own.probability, abs=1e-6)
    assert found["target_probability"] == pytest.approx(expected.target.probability, abs=1e-6)
    heat = found["heatmaps"][0]["map"]
    spread = heat["max"] - heat["min"]
    assert np.abs(values(heat) - expected.heatmap).max() <= spread / 500 + 1e-5
    assert found["changed"] == dict(expected.changed)
    for block, own_block in zip(found["attention"], expected.attention, strict=True):
        np.testing.assert_allclose(block["channel"], own_block.channel, atol=1e-4)


def test_before_and_after_are_the_librarys(
    client: TestClient, jpeg: bytes, family: list[cbam.Model]
) -> None:
    answer = ask(client, "intervene", jpeg, gates=GATES).json()
    before, after = before_and_after(resolve(family, Options(gates=GATES)), open_photo(jpeg))
    assert answer["target"]["label"] == before[0].target.label
    assert [each["model"] for each in answer["results"]] == list(FAMILY)
    for found, old, new in zip(answer["results"], before, after, strict=True):
        same(found["before"], old)
        same(found["after"], new)
        assert found["changed"] == dict(new.changed)
        assert found["before"]["changed"] == {}
        flipped = old.predictions[0].index != new.predictions[0].index
        assert found["flipped"] is flipped
    assert [bool(each["changed"]) for each in answer["results"]] == [False, True, True]
    plain = answer["results"][0]  # it has no gates, and is not asked again
    for each in (plain["before"], plain["after"]):
        each["timing_ms"].pop("queue")
    assert plain["before"] == plain["after"]


def test_explain_takes_the_same_gates(
    client: TestClient, jpeg: bytes, family: list[cbam.Model]
) -> None:
    target = ask(client, "explain", jpeg).json()["target"]["label"]
    answer = ask(client, "explain", jpeg, gates=GATES, target=target).json()
    expected = cbam.compare(family, jpeg, Options(target, gates=GATES))
    for found, own in zip(answer["results"], expected, strict=True):
        same(found, own)
    attention = ask(client, "attention", jpeg, gates="open", models="tiny-cbam").json()["results"]
    assert set(attention[0]["changed"].values()) == {"off"}
    assert set(attention[0]["attention"][0]["channel"]) == {1.0}
    predicted = ask(client, "predict", jpeg, gates="open", models="tiny-cbam").json()["results"]
    assert predicted[0]["changed"] == attention[0]["changed"]


def test_the_photo_is_decoded_once_and_unchanged_models_are_asked_once(
    serve: Callable[..., TestClient], jpeg: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve()
    decoded: list[int] = []
    asked: list[list[str]] = []
    decode, answer_many = engine_module.decode, engine_module.answer_many

    def counted(data: bytes, **limits: Any) -> Any:
        decoded.append(len(data))
        return decode(data, **limits)

    def listed(questions: Any) -> Any:
        asked.extend([model.card.name for model in question.models] for question, _ in questions)
        return answer_many(questions)

    monkeypatch.setattr(engine_module, "decode", counted)
    monkeypatch.setattr(engine_module, "answer_many", listed)
    answer = ask(client, "intervene", jpeg, gates="*.spatial=off")
    assert answer.status_code == 200
    assert decoded == [len(jpeg)]
    assert asked == [list(FAMILY), ["tiny-cbam"]]
    assert "decode" in answer.headers["server-timing"]


def test_a_picture_says_that_gates_were_changed(client: TestClient, jpeg: bytes) -> None:
    for route, accept in (("compare", "*/*"), ("attention", "image/png")):
        plain, changed = (
            client.post(
                f"/api/v1/{route}",
                files={"image": ("x.jpg", jpeg)},
                # A change that changes no pixel but the words: it holds a channel's gate at itself.
                data={"models": "tiny-cbam", "gates": gates},
                headers={"Accept": accept},
            )
            for gates in ("", "layer1.0.channel[0]=own")
        )
        one, other = (np.asarray(picture(each.content)).astype(int) for each in (plain, changed))
        assert one.shape == other.shape
        rows = np.abs(one - other).sum(axis=(1, 2)).nonzero()[0]
        assert len(rows), "no mark"
        assert rows.max() < 30, "only the title says it"
    refused = ask(client, "heatmap", jpeg, gates="open")
    assert_problem(refused, 422, "gates")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"gates": "layer9.0.channel=off"}, ["layer9.0.channel", "layer1.0.channel"]),
        ({"gates": "nonsense"}, ["nonsense", "open"]),
        ({"gates": "layer1.0.channel=0.5, layer1.0.channel=off"}, ["both speak"]),
        ({"gates": "open", "models": "tiny-none"}, ["no gates"]),
        ({"gates": "x" * 4001}, ["gates", "4000"]),
        ({"gates": "layer1.0.spatial=avg, *=mask:0/00"}, ["mask:0/00"]),
    ],
)
@pytest.mark.parametrize("route", ["explain", "intervene"])
def test_what_cannot_be_changed_is_refused_with_422(
    client: TestClient, jpeg: bytes, route: str, fields: dict[str, str], words: list[str]
) -> None:
    assert_problem(ask(client, route, jpeg, **fields), 422, *words)


def test_without_gates_every_gate_is_opened(client: TestClient, jpeg: bytes) -> None:
    answer = ask(client, "intervene", jpeg, models="tiny-se").json()
    assert set(answer["results"][0]["changed"].values()) == {"off"}


def test_a_broken_photo_is_refused(client: TestClient) -> None:
    buffer = io.BytesIO(b"no photo")
    assert_problem(ask(client, "intervene", buffer.getvalue(), gates="open"), 415)


@pytest.mark.parametrize(
    ("gates", "target", "asked"),
    [
        ("layer4.1.spatial=off", "c", [["tiny-cbam"], ["tiny-cbam"]]),
        ("layer4.1.channel=off", "c", [["tiny-se", "tiny-cbam"]] * 2),
        ("layer4.1.spatial=off", "", [["tiny-se", "tiny-cbam"], ["tiny-cbam"]]),
    ],
)
def test_the_page_asks_only_models_that_change_and_says_what_the_library_says(
    client: TestClient,
    jpeg: bytes,
    family: list[cbam.Model],
    monkeypatch: pytest.MonkeyPatch,
    gates: str,
    target: str,
    asked: list[list[str]],
) -> None:
    runs: list[list[str]] = []

    def counted(questions: Any) -> Any:
        runs.extend([model.card.name for model in each.models] for each, _ in questions)
        return answer_many(questions)

    monkeypatch.setattr(engine_module, "answer_many", counted)
    fields = {"gates": gates, "target": target}
    files = {"image": ("photo.jpg", jpeg)}
    page = client.post("/", files=files, data=fields, headers={"X-Fragment": "what-if"}).text
    assert runs == asked
    about = target or family[1].explain(jpeg).target.label  # of the first model with gates
    changed = [family[FAMILY.index(name)] for name in re.findall(r'data-model="(.*?)"', page)]
    assert [model.name for model in changed] == asked[-1]
    expected = [
        each
        for model in changed
        for each in (model.explain(jpeg, about), model.explain(jpeg, about, gates=gates))
    ]
    sides = re.findall(r'data-before="(.*?)" data-after="(.*?)"', page)
    maps = [json.loads(unescape(each))[0]["map"] for each in re.findall(r"data-maps='(.*?)'", page)]
    numbers = [float(number) for side in sides for number in side]
    for number, heat, own in zip(numbers, maps, expected, strict=True):
        assert number == pytest.approx(own.target.probability, abs=1e-6)
        spread = heat["max"] - heat["min"]
        assert np.abs(values(heat) - own.heatmap).max() <= spread / 500 + 1e-5


def test_what_if_without_before_asks_only_with_changed_gates(
    client: TestClient, jpeg: bytes, family: list[cbam.Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[Any] = []

    def counted(questions: Any) -> Any:
        runs.extend(question.intervenes for question, _ in questions)
        return answer_many(questions)

    monkeypatch.setattr(engine_module, "answer_many", counted)

    def sides(**fields: str) -> list[tuple[str, str]]:
        headers = {"X-Fragment": "what-if, after"}
        files = {"image": ("photo.jpg", jpeg)}
        page = client.post("/", files=files, data=fields, headers=headers).text
        return re.findall(r'data-before="(.*?)" data-after="(.*?)"', page)

    gates = "layer1.0.channel=off"
    found = sides(gates=gates, target="c")
    assert runs == [(True, True)]
    for (before, after), model in zip(found, family[1:], strict=True):
        assert before == after
        own = model.explain(jpeg, "c", gates=gates).target.probability
        assert float(after) == pytest.approx(own, abs=1e-6)
    runs.clear()
    (before, after), _ = sides(gates=gates)  # what they say first decides the class
    assert runs == [(False, False), (True, True)]
    assert before != after


def test_what_if_without_gates_shows_no_change(client: TestClient, jpeg: bytes) -> None:
    files = {"image": ("photo.jpg", jpeg)}
    answer = client.post("/", files=files, headers={"X-Fragment": "what-if"})
    assert answer.status_code == 200
    assert "data-before" not in answer.text
