"""POST /api/v1/detect and `cbam-lens detect`: boxes, their heat maps, and what is refused."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from app_fixtures import (
    HeldSlices,
    assert_problem,
    encoded,
    photo,
    picture,
    values,
    wait_until_ready,
)
from detecting import LABELS, tiny_family
from fastapi.testclient import TestClient
from typer.testing import CliRunner

import cbam
from app.cli.main import app as command
from app.inference import engine as engine_module
from app.main import create_app
from app.routes.forms import DetectFields
from app.settings import Settings
from cbam.errors import BadCard, CBAMLensError
from cbam.explain.d_rise import DRiseOptions, d_rise
from cbam.explain.detection import DetectOptions
from cbam.images.photo import open_photo

pytest_plugins = ["app_fixtures", "detecting"]
NAMES = ["tiny-none-things", "tiny-se-things", "tiny-cbam-things"]
LIMIT_S = 120


@pytest.fixture(scope="module")
def finder(tiny_detectors: Path) -> Iterator[TestClient]:
    app = create_app(Settings(models_folder=tiny_detectors, backend="eager"))
    with TestClient(app, raise_server_exceptions=False) as client:
        wait_until_ready(client)
        yield client


def ask(client: TestClient, data: bytes, **fields: Any) -> Any:
    return client.post("/api/v1/detect", files={"image": ("x.jpg", data)}, data=fields)


def test_detectors_cost_nothing_until_somebody_asks(finder: TestClient, jpeg: bytes):
    engine = finder.app.state.engine  # type: ignore[attr-defined]
    assert not engine.detectors
    assert ask(finder, jpeg, models="tiny-se-things").status_code == 200
    assert [*engine.detectors] == ["tiny-se-things"]
    known = {model["name"] for model in finder.get("/api/v1/models").json()["models"]}
    assert known == {"tiny-none", "tiny-se", "tiny-cbam"}  # classifiers alone


def test_every_detector_of_the_family_answers(finder: TestClient, jpeg: bytes):
    answer = ask(finder, jpeg, maps=2)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert [each["model"] for each in found["results"]] == NAMES
    assert found["image"]["width"] == 160
    assert {"of", "method", "score", "iou", "limit"} <= found.keys()
    for each in found["results"]:
        assert 0 < len(each["detections"]) <= 20
        for box in each["detections"]:
            assert box["label"] == LABELS[box["index"]]
            assert 0 <= box["box"]["x0"] <= box["box"]["x1"] <= 160
            assert 0 <= box["box"]["y0"] <= box["box"]["y1"] <= 120
            assert box["counterparts"].keys() == {*NAMES} - {each["model"]}
        assert [item["detection"] for item in each["heatmaps"]] == [0, 1]
        for item in each["heatmaps"]:
            assert values(item["map"]).min() >= 0
            assert 0 < item["energy_uniform"] <= 1
            assert 0 < item["energy_of_box"] <= 1.001
        assert {"decode", "queue", "trunk", "head"} == each["timing_ms"].keys()
    kinds = [bool(each["attention"]) for each in found["results"]]
    assert kinds == [False, True, True]
    assert len(found["results"][2]["attention"]) == 8


def test_a_form_with_every_field_may_name_six_detectors(finder: TestClient, jpeg: bytes):
    fields = dict.fromkeys(DetectFields.model_fields, "")
    answer = ask(finder, jpeg, **{**fields, "models": NAMES * 2, "maps": "0"})
    assert answer.status_code == 200, answer.text
    assert [each["model"] for each in answer.json()["results"]] == NAMES


def test_counterparts_are_mutual(finder: TestClient, jpeg: bytes):
    results = {each["model"]: each["detections"] for each in ask(finder, jpeg).json()["results"]}
    mine, other = results[NAMES[0]], results[NAMES[1]]
    for box in mine:
        if (at := box["counterparts"][NAMES[1]]) is not None:
            assert other[at]["label"] == box["label"]


def test_the_map_of_one_place_is_asked_by_a_box(finder: TestClient, jpeg: bytes):
    third = ask(finder, jpeg, maps=0).json()["results"][2]["detections"][2]["box"]
    box = ",".join(str(third[side]) for side in ("x0", "y0", "x1", "y1"))
    answer = ask(finder, jpeg, box=box, of="left", layer="layer2.1", attention="false").json()
    last = answer["results"][2]
    assert [item["detection"] for item in last["heatmaps"]] == [2]
    assert last["layer"] == "layer2.1"
    assert last["attention"] == []
    assert answer["of"] == "left"


def test_of_two_things_in_one_place_the_class_asked_for_gets_the_map(
    finder: TestClient, jpeg: bytes
):
    """A class that is asked for with a box is never explained by a box of another class."""
    for label in LABELS:
        answer = ask(finder, jpeg, box="0,0,160,120", label=label, limit=100, score=0).json()
        boxes = [
            each["detections"][item["detection"]]
            for each in answer["results"]
            for item in each["heatmaps"]
        ]
        assert boxes
        assert {each["label"] for each in boxes} == {label}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"box": "0,0,9,9", "label": "green"}, ["class of 'tiny-none-things'", "red, blue"]),
        ({"models": "a,b,c,d,e,f,g,h,i"}, ["models", "8"]),
        ({"models": "tiny-none"}, ["detector", "tiny-cbam-things"]),
        ({"family": "tiny"}, ["family of detectors", "things"]),
        ({"method": "gradcan"}, ["gradcan", "hirescam", "d-rise"]),
        ({"method": "d-rise", "of": "left"}, ["leave out 'of'"]),
        ({"method": "d-rise", "layer": "layer3.1"}, ["leave out 'of' and 'layer'"]),
        ({"method": "d-rise", "masks": "0"}, ["masks"]),
        ({"method": "d-rise", "masks": "5001"}, ["masks", "5000"]),
        ({"method": "d-rise", "box": "0,0,9,9", "label": "green"}, ["green", "red, blue"]),
        ({"of": "width"}, ["width", "left"]),
        ({"layer": "layer4.1"}, ["layer4.1", "layer3.1"]),
        ({"box": "1,2,3"}, ["'1,2,3' is no box"]),
        ({"box": "5,5,1,1"}, ["is no box"]),
        ({"box": "nan,0,1,1"}, ["is no box"]),
        ({"score": "2"}, ["score", "less than or equal to 1"]),
        ({"limit": "0"}, ["limit"]),
        ({"target": "red"}, ["no field 'target'"]),
    ],
)
def test_what_cannot_be_asked_is_refused(
    finder: TestClient, jpeg: bytes, fields: dict[str, str], words: list[str]
):
    assert_problem(ask(finder, jpeg, **fields), 422, *words)


def test_bad_photos_are_refused_as_everywhere(finder: TestClient, jpeg: bytes):
    assert_problem(ask(finder, b"no photo"), 415)
    assert_problem(ask(finder, jpeg[:300]), 422)
    assert_problem(finder.post("/api/v1/detect", files={"maps": (None, "1")}), 422, "No photo came")


def test_a_service_without_detectors_says_so(client: TestClient, jpeg: bytes):
    assert_problem(ask(client, jpeg), 501, "no detectors")


def test_a_drained_service_finds_nothing(tiny_detectors: Path, jpeg: bytes):
    app = create_app(Settings(models_folder=tiny_detectors, backend="eager"))
    with TestClient(app, raise_server_exceptions=False) as client:
        wait_until_ready(client)
        app.state.engine.drain()
        assert_problem(ask(client, jpeg), 503)


def test_damaged_heads_fail_the_start(tmp_path: Path):
    card, *_ = tiny_family(tmp_path)
    (card.folder / "weights.safetensors").write_bytes(b"nothing")
    with pytest.raises(BadCard, match=card.name):
        create_app(Settings(models_folder=tmp_path))


def test_d_rise_is_the_librarys(finder: TestClient, tiny_detectors: Path, jpeg: bytes):
    answer = ask(finder, jpeg, method="d-rise", masks=20, seed=3, maps=2)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["method"], found["of"]) == ("d-rise", "score")
    assert (found["masks"], found["seed"]) == (20, 3)
    plain = ask(finder, jpeg, maps=0).json()
    assert (plain["masks"], plain["seed"]) == (None, None)
    how = DRiseOptions(masks=20, seed=3, batch=8)
    for name, each in zip(NAMES, found["results"], strict=True):
        own = d_rise(cbam.load(tiny_detectors / name), open_photo(jpeg), DetectOptions(maps=2), how)
        scores = [box["score"] for box in each["detections"]]
        assert scores == pytest.approx([box.score for box in own.detections], abs=1e-5)
        assert (each["attention"], each["layer"]) == ([], "")
        for mine, its in zip(each["heatmaps"], own.heatmaps, strict=True):
            assert mine["detection"] == its.detection
            spread = float(np.ptp(its.map))
            assert np.abs(values(mine["map"]) - its.map).max() <= spread / 500 + 1e-4


def test_d_rise_lets_other_questions_through_and_only_so_many_at_once(
    tiny_detectors: Path, jpeg: bytes, monkeypatch: pytest.MonkeyPatch
):
    settings = Settings(
        models_folder=tiny_detectors, backend="eager", long_at_once=1, long_timeout_s=3600
    )
    app = create_app(settings)
    with TestClient(app, raise_server_exceptions=False) as client:
        wait_until_ready(client)
        held = HeldSlices(monkeypatch)
        order = held.order
        hidden = {"method": "d-rise", "masks": 200, "models": NAMES[0]}
        threads = [
            threading.Thread(target=lambda: order.append(ask(client, jpeg, **hidden).status_code))
        ]
        threads[0].start()
        assert held.begun.wait(LIMIT_S)
        problem = ask(client, jpeg, **hidden)
        assert_problem(problem, 503, "long questions")
        assert problem.headers["retry-after"]
        threads.append(
            threading.Thread(
                target=lambda: order.append(
                    client.post("/api/v1/predict", files={"image": ("x.jpg", jpeg)}).json()
                )
            )
        )
        threads[1].start()
        while not app.state.engine.queue.depth:
            time.sleep(0.005)
        held.through.set()
        for thread in threads:
            thread.join(LIMIT_S)
        (other,) = (at for at, each in enumerate(order) if isinstance(each, dict))
        assert order[other + 1 :].count("slice") > 10  # it did not wait for the end
        assert order[-1] == 200
        assert "cbam_lens_long_questions 0.0" in client.get("/metrics").text


def test_d_rise_has_a_deadline_and_ends_when_the_service_drains(
    tiny_detectors: Path, jpeg: bytes, monkeypatch: pytest.MonkeyPatch
):
    app = create_app(Settings(models_folder=tiny_detectors, backend="eager", long_timeout_s=0.001))
    with TestClient(app, raise_server_exceptions=False) as client:
        wait_until_ready(client)
        hidden = {"method": "d-rise", "masks": 20}
        assert_problem(ask(client, jpeg, **hidden), 504, "0.001 s", "fewer masks")
        assert "cbam_lens_long_questions 0.0" in client.get("/metrics").text
        object.__setattr__(app.state.settings, "long_timeout_s", 3600)
        real = engine_module.next_slice

        def drained(work: Any) -> Any:
            app.state.engine.drain()
            return real(work)

        monkeypatch.setattr(engine_module, "next_slice", drained)
        assert_problem(ask(client, jpeg, **hidden), 503, "being stopped")


def invoke(*arguments: str) -> str:
    """The command's output; its own errors are raised, as its entry point expects."""
    done = CliRunner().invoke(command, ["detect", *arguments])
    if isinstance(done.exception, CBAMLensError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(photo(), "PNG"))
    return path


def models(tiny_detectors: Path) -> list[str]:
    return [part for name in NAMES for part in ("--model", str(tiny_detectors / name))]


def test_the_command_prints_what_each_detector_found(tiny_detectors: Path, file: Path):
    said = invoke(str(file), *models(tiny_detectors), "--maps", "0")
    for name in NAMES:
        assert name in said
    assert "x0 y0 x1 y1" in said


def test_the_command_says_that_nothing_was_found(tiny_detectors: Path, file: Path):
    assert invoke(str(file), *models(tiny_detectors), "--score", "1").count("nothing found") == 3


def test_the_command_gives_the_services_json(tiny_detectors: Path, file: Path, finder: TestClient):
    mine = json.loads(invoke(str(file), *models(tiny_detectors), "--json"))
    theirs = ask(finder, file.read_bytes()).json()
    for answer in (mine, theirs):
        for each in answer["results"]:
            del each["timing_ms"]
    assert mine["image"] == theirs["image"]
    assert [len(each["detections"]) for each in mine["results"]] == [
        len(each["detections"]) for each in theirs["results"]
    ]
    assert mine.keys() == theirs.keys()


@pytest.mark.parametrize("options", [[], ["--maps", "0"], ["--score", "1"]])
def test_the_command_draws_a_sheet(
    tiny_detectors: Path, file: Path, tmp_path: Path, options: list[str]
):
    out = tmp_path / "out.png"
    invoke(str(file), *models(tiny_detectors), "-o", str(out), *options)
    sheet = picture(out.read_bytes())
    assert sheet.width == 3 * (300 + 12) + 12
    assert len(sheet.getcolors(1_000_000)) > 100  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "tiny"], "No detector 'tiny'"),
        (["--box", "1,2"], "is no box"),
        (["--of", "width"], "score, left"),
    ],
)
def test_the_command_refuses_with_a_sentence(
    file: Path, arguments: list[str], says: str, tiny_detectors: Path
):
    with pytest.raises(CBAMLensError, match=says):
        invoke(str(file), *arguments)


def test_a_model_that_is_no_detector_is_refused(tiny_detectors: Path, file: Path):
    with pytest.raises(CBAMLensError, match="No detector"):
        invoke(str(file), "--model", str(tiny_detectors / "tiny-se"))


def test_the_command_shows_a_detectors_card(tiny_detectors: Path):
    done = CliRunner().invoke(command, ["models", "show", str(tiny_detectors / NAMES[2])])
    card = json.loads(done.stdout)
    assert card["classifier"] == "tiny-cbam"
    assert card["layers"][-1] == "layer3.1"
