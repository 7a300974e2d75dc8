"""Trying maps over REST: the library's numbers, in slices that let other questions through."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from app_fixtures import FAMILY, HeldSlices, assert_problem, values
from fastapi.testclient import TestClient

import cbam
from app.inference import engine as engine_module
from cbam.evaluate.examine import NOT_PROOF, Exam, Examined, examine_all
from cbam.evaluate.faithfulness import Trial
from cbam.images.photo import open_photo
from cbam.slices import finished

pytest_plugins = ["app_fixtures"]

LIMIT_S = 120
QUICK = {"steps": 3, "orders": 2}


def ask(client: TestClient, photo: bytes, **fields: Any) -> Any:
    files = {"image": ("photo.jpg", photo)}
    return client.post("/api/v1/faithfulness", files=files, data={**QUICK, **fields})


@pytest.fixture(scope="module")
def expected(tiny_models: Path, jpeg: bytes) -> list[Examined]:
    """What the library says of the tiny family."""
    models = [cbam.load(tiny_models / name) for name in FAMILY]
    explanations = cbam.compare(models, open_photo(jpeg), cbam.Options(3))
    exam = Exam(Trial(steps=3, orders=2), True, (10, 20, 90, 110))
    return finished(examine_all(models, explanations, exam))


def test_everything_is_the_librarys(
    serve: Callable[..., TestClient], jpeg: bytes, expected: list[Examined]
) -> None:
    client = serve(long_timeout_s=3600)  # however busy this machine is
    answer = ask(client, jpeg, target="3", randomisation=True, box="10,20,90,110").json()
    assert answer["note"] == NOT_PROOF
    assert answer["target"]["index"] == 3
    assert [each["model"] for each in answer["results"]] == list(FAMILY)
    for found, own in zip(answer["results"], expected, strict=True):
        assert own.curves is not None
        assert own.strip is not None
        assert own.box is not None
        curves = found["curves"]
        assert curves["shares"] == pytest.approx([0, 1 / 3, 2 / 3, 1])
        for name, order in (("map", own.curves.map), ("centre", own.curves.centre)):
            assert curves[name]["deletion"] == pytest.approx(order.deletion.tolist(), abs=1e-5)
            assert curves[name]["insertion"] == pytest.approx(order.insertion.tolist(), abs=1e-5)
            assert curves[name]["deletion_area"] == pytest.approx(order.deletion_area, abs=1e-5)
        assert len(curves["random"]) == 2
        for got, order in zip(curves["random"], own.curves.random, strict=True):
            assert got["deletion"] == pytest.approx(order.deletion.tolist(), abs=1e-5)
        assert curves["deletion_beats"] == own.curves.deletion_beats
        assert curves["map"]["overall"] == pytest.approx(own.curves.map.overall, abs=1e-5)
        assert curves["random_overall"] == pytest.approx(own.curves.random_overall, abs=1e-5)
        assert found["target_probability"] == pytest.approx(curves["map"]["deletion"][0], abs=1e-5)
        strip = found["randomisation"]
        assert [each["stage"] for each in strip["stages"]] == [
            each.stage for each in own.strip.stages
        ]
        for got, stage in zip(strip["stages"], own.strip.stages, strict=True):
            assert got["ssim"] == pytest.approx(stage.similarity.ssim, abs=1e-3)
            spread = float(np.ptp(stage.map))
            assert np.abs(values(got["map"]) - stage.map).max() <= spread / 500 + 1e-4
        assert found["box"]["energy"] == pytest.approx(own.box.energy, abs=1e-5)
        assert found["box"]["hit"] is own.box.hit
        assert [each["threshold"] for each in found["box"]["ious"]] == list(own.box.ious)
        assert found["verdict"] == own.verdict


def test_what_is_not_asked_for_is_not_done(client: TestClient, jpeg: bytes) -> None:
    plain = ask(client, jpeg, models="tiny-se").json()["results"][0]
    assert (plain["randomisation"], plain["box"]) == (None, None)
    boxed = ask(client, jpeg, models="tiny-se", curves=False, box="0,0,80,120").json()["results"][0]
    assert (boxed["curves"], boxed["randomisation"]) == (None, None)
    assert boxed["box"]["uniform_energy"] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"steps": 1}, ["steps"]),
        ({"steps": 1000}, ["steps"]),
        ({"orders": 99}, ["orders"]),
        ({"fill": "noise"}, ["noise", "blur"]),
        ({"box": "1,2,3"}, ["1,2,3", "x0,y0,x1,y1"]),
        ({"box": "0,0,500,500"}, ["box", "inside the photo"]),
        ({"randomisation": True, "method": "scorecam"}, ["scorecam", "gradcam"]),
        ({"method": "x"}, ["Known: gradcam"]),
    ],
)
def test_what_cannot_be_tried_is_refused(
    client: TestClient, jpeg: bytes, fields: dict[str, Any], words: list[str]
) -> None:
    assert_problem(ask(client, jpeg, **fields), 422, *words)


def send(client: TestClient, jpeg: bytes, found: list[Any], **fields: Any) -> threading.Thread:
    thread = threading.Thread(target=lambda: found.append(ask(client, jpeg, **fields)))
    thread.start()
    return thread


def test_other_questions_are_answered_between_the_slices(
    serve: Callable[..., TestClient], jpeg: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, found = serve(long_timeout_s=3600), []
    held = HeldSlices(monkeypatch)
    order = held.order
    thread = send(client, jpeg, found, models="tiny-se", steps=20, orders=10)
    assert held.begun.wait(LIMIT_S)
    other = threading.Thread(
        target=lambda: order.append(
            client.post("/api/v1/predict", files={"image": ("x.jpg", jpeg)}).status_code
        )
    )
    other.start()
    engine = client.app.state.engine  # type: ignore[attr-defined]
    while not engine.queue.depth:
        time.sleep(0.005)
    held.through.set()
    other.join(LIMIT_S)
    thread.join(LIMIT_S)
    assert found[0].status_code == 200
    assert 200 in order
    after = len(order) - 1 - order.index(200)
    assert after > 10  # it did not wait for the end
    assert "trial;dur=" in found[0].headers["server-timing"]
    gauge = "cbam_lens_long_questions 0.0"
    assert gauge in client.get("/metrics").text


def test_only_so_many_long_questions_run_at_once(
    serve: Callable[..., TestClient], jpeg: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, found, held = serve(long_at_once=1, long_timeout_s=3600), [], HeldSlices(monkeypatch)
    thread = send(client, jpeg, found, models="tiny-se")
    assert held.begun.wait(LIMIT_S)
    problem = ask(client, jpeg, models="tiny-se")
    assert_problem(problem, 503, "long questions")
    assert problem.headers["retry-after"]
    held.through.set()
    short = ask(client, jpeg, models="tiny-se", curves=False, box="0,0,80,120")
    thread.join(LIMIT_S)
    assert (found[0].status_code, short.status_code) == (200, 200)
    assert ask(client, jpeg, models="tiny-se").status_code == 200  # the place is free again


def test_a_long_question_has_a_deadline(serve: Callable[..., TestClient], jpeg: bytes) -> None:
    client = serve(long_timeout_s=0.001)
    assert_problem(ask(client, jpeg, models="tiny-se"), 504, "0.001 s", "fewer models")
    assert "cbam_lens_long_questions 0.0" in client.get("/metrics").text


def test_a_failing_slice_is_its_own_questions_failure(
    serve: Callable[..., TestClient], jpeg: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve()

    def broken(work: Any) -> Any:
        raise StopIteration("nobody expects this")

    with monkeypatch.context() as patched:
        patched.setattr(engine_module, "next_slice", broken)
        assert_problem(ask(client, jpeg, models="tiny-se"), 500)
    assert ask(client, jpeg, models="tiny-se").status_code == 200
