"""The benchmark: a ratio in every row from sides that both ran, or the reason why there is none."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from detecting import tiny_detector
from PIL import Image
from typer.testing import CliRunner

from benchmarks import detection, maps, memory, methods, service
from benchmarks.__main__ import app as bench
from benchmarks.__main__ import chosen
from benchmarks.peers import GRAD_CAM, PEERS, Peer
from benchmarks.peers import load as load_peer
from benchmarks.subjects import Plan, difference, resnet18, resnet50
from benchmarks.table import Report, Row, Side, at_least, at_most
from benchmarks.timing import MIN_ROUNDS, race
from cbam.backends.choose import BACKENDS
from cbam.cards.card import Card
from cbam.detector import open_detector
from cbam.errors import UnknownName
from cbam.explain.detection import DetectOptions
from cbam.explain.methods import METHODS

TINY = Plan.quick()


def row(
    upper: tuple[float, ...] = (6, 9), lower: tuple[float, ...] = (2, 3), **rest: object
) -> Row:
    return Row("peers", "a photo", Side("them", upper), Side("us", lower), **rest)  # type: ignore[arg-type]


def assert_measured(found: Row) -> None:
    """The row has a ratio, and both sides were measured equally often."""
    assert not found.missing, found
    assert found.ratio is not None
    assert math.isfinite(found.ratio)
    assert found.ratio > 0
    assert len(found.upper.values) == len(found.lower.values) >= 1
    assert all(value > 0 for value in (*found.upper.values, *found.lower.values))


def test_a_detectors_answer_is_measured_in_its_backbones_forward_passes(tmp_path: Path):
    detector = open_detector(tiny_detector(tmp_path))
    photo = Image.effect_noise((96, 64), 80).convert("RGB")
    score = 0.1
    boxes = len(detector.find(photo, DetectOptions(score=score)).detections)
    for engine in ("plain", "eager"):
        found = [*detection.costs(detector, photo, engine, 3, score)]
        assert [each.what for each in found] == [
            "forward", "boxes alone", "map of one box", "maps of all boxes",
        ]  # fmt: skip
        assert {(each.engine, each.boxes) for each in found} == {(engine, boxes)}
        assert found[0].ratio == 1
        assert all(each.fastest_ms > 0 and each.ratio > 0 for each in found)
        told = [*detection.lines(detector, photo, found)]
        assert told[0] == f"tiny-cbam-things, 64 x 32 px, {boxes} boxes"
        assert len(told) == 6
        goal = "met" if found[-1].ratio <= detection.TARGET else "missed"
        assert told[-1].endswith(f"target 3.0 {goal}")


# The table.


def test_a_ratio_is_the_median_of_the_rounds_and_not_that_of_the_medians():
    # Round by round 2, 1 and 10; the medians, 30 and 10, would say 3.
    found = row(upper=(20, 30, 100), lower=(10, 30, 10))
    assert found.ratio == 2
    assert found.spread == (1.5, 6.0)


def test_one_round_has_no_spread():
    assert row((6,), (2,)).spread is None
    assert row((6,), (2,)).ratio == 3


def test_targets_are_met_on_their_own_side():
    assert row(target=at_least(3)).met is True
    assert row(target=at_least(3.1)).met is False
    assert row(target=at_most(3)).met is True
    assert row(target=at_most(2.9)).met is False
    assert row().met is None


def test_a_missing_side_is_a_reason_and_never_a_number():
    found = row(upper=(), target=at_least(3), missing="not installed")
    assert found.ratio is None
    assert found.spread is None
    assert found.met is None
    assert "*not installed*" in found.cells()
    assert "met" not in found.cells()
    assert "missed" not in found.cells()


def test_markdown_has_a_table_a_section_and_as_many_cells_in_every_line():
    rows = [row(target=at_most(2)), replace(row(), section="memory", what="a | b")]
    text = Report({"machine": "a desk"}, rows).to_markdown()
    assert text.startswith("* machine: a desk\n")
    assert text.count("### ") == 2
    lines = [line.replace("\\|", "") for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {9}
    assert "**3.00** | 3.00–3.00 | ≤ 2 | missed | 7.5 ms / 2.5 ms" in text


def test_json_has_every_rounds_value():
    report = json.loads(Report({"machine": "a desk"}, [row(target=at_least(3))]).to_json())
    (found,) = report["rows"]
    assert [side["values"] for side in found["sides"]] == [[6, 9], [2, 3]]
    assert found["ratio"] == 3
    assert found["target"] == "≥ 3"
    assert found["met"] is True
    assert found["missing"] is None


def test_a_failure_is_told_from_what_is_not_installed():
    rows = [row(), row(upper=(), missing="not installed"), row(upper=(), missing="failed: x")]
    assert Report({}, rows).failed == [rows[2]]


def test_sections_are_chosen_by_name_in_the_tables_order():
    assert chosen("") == ["peers", "methods", "service", "memory"]
    assert chosen("memory, peers") == ["peers", "memory"]
    with pytest.raises(UnknownName, match="Known: peers, methods, service, memory"):
        chosen("memory,speed")


# The race.


class Watch:
    """A clock on which only contestants spend time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ran: list[str] = []

    def __call__(self) -> float:
        return self.now

    def contestant(self, name: str, seconds: float) -> Callable[[], str]:
        def run() -> str:
            self.ran.append(name)
            self.now += seconds
            return f"{name}'s map"

        return run


def test_contestants_run_in_turn_and_in_another_order_each_round():
    watch = Watch()
    runs = {name: watch.contestant(name, 1) for name in "abc"}
    found = race("peers", runs, 3, clock=watch)
    assert "".join(watch.ran) == "abc" + "abc" + "bca" + "cab"  # the first is not timed
    assert found.ms == dict.fromkeys("abc", (1000.0,) * 3)
    assert found.outputs["b"] == "b's map"


def test_a_race_ends_after_its_time_but_not_before_some_rounds():
    watch = Watch()
    runs = {"slow": watch.contestant("slow", 10), "fast": watch.contestant("fast", 1)}
    found = race("peers", runs, 50, 5, clock=watch)
    assert len(found.ms["slow"]) == len(found.ms["fast"]) == MIN_ROUNDS
    assert found.row("a photo", "slow", "fast").ratio == 10


def test_a_single_round_is_timed_itself():
    watch = Watch()
    found = race("peers", {"slow": watch.contestant("slow", 10)}, 1, clock=watch)
    assert watch.ran == ["slow"]
    assert found.ms == {"slow": (10_000.0,)}


def test_who_raises_is_out_with_the_reason_and_the_others_go_on():
    watch = Watch()

    def broken() -> None:
        raise ValueError("no such layer")

    runs = {"broken": broken, "fine": watch.contestant("fine", 1)}
    found = race("peers", runs, 2, clock=watch)
    missing = found.row("a photo", "broken", "fine", at_least(3))
    assert missing.missing == "failed: ValueError: no such layer"
    assert missing.ratio is None
    assert len(found.ms["fine"]) == 2


# What is measured.


@pytest.fixture(scope="module")
def peer_rows() -> list[Row]:
    return list(maps.measure(TINY))


@pytest.fixture(scope="module")
def installed() -> list[str]:
    return [name for name, peer in PEERS.items() if peer.load()[0] is not None]


def test_grad_cam_is_measured_beside_every_peer_and_forward_passes(
    peer_rows: list[Row], installed: list[str]
):
    upper = {found.upper.name for found in peer_rows}
    assert set(PEERS) <= upper
    for found in peer_rows:
        if found.upper.name in set(PEERS) - set(installed):
            assert found.missing.startswith("not installed")
        else:
            assert_measured(found)


def test_peers_make_the_same_maps(peer_rows: list[Row], installed: list[str]):
    compared = [found for found in peer_rows if found.upper.name in installed]
    assert GRAD_CAM in installed  # the others come with the extra [bench]
    assert {found.upper.name for found in compared} == set(installed)
    for found in compared:
        assert not found.missing, found
        assert found.difference is not None
        assert found.difference < 1e-3


def test_targets_are_those_of_the_design(peer_rows: list[Row]):
    targets = {
        (found.upper.name, found.lower.name, str(found.target))
        for found in peer_rows
        if found.target is not None
    }
    assert targets == {
        ("grad-cam", "ours", "≥ 3"),
        ("grad-cam", "ours, OpenVINO", "≥ 5"),
        ("torch-cam", "ours", "≥ 3"),
        ("torch-cam", "ours, OpenVINO", "≥ 5"),
        ("ours", "forward", "≤ 1.05"),
        ("ours, OpenVINO", "forward, OpenVINO", "≤ 1.05"),
        ("ours, both", "one forward", "≤ 2.1"),
    }


def test_difference_sees_another_map():
    subject = resnet18(TINY)
    ours = subject.explained(subject.photos(2))
    raw = np.stack([each.heatmap for each in ours])
    assert difference(ours, 5 * raw) < 1e-5  # scale is no difference
    assert difference(ours, raw[::-1].copy()) > 0.1
    enlarged = np.repeat(np.repeat(raw, 8, axis=1), 8, axis=2)
    assert difference(ours, enlarged[..., ::-1].copy()) > 0.1


def test_the_peers_network_is_the_same_but_as_a_user_has_it():
    subject = resnet50(TINY)
    assert all(parameter.requires_grad for parameter in subject.network.parameters())
    assert not any(parameter.requires_grad for parameter in subject.model.network.parameters())
    images = subject.tensor(subject.photos(2))
    with torch.inference_mode():
        plain = subject.network(images)
    assert torch.allclose(plain, subject.forward(subject.photos(2)), rtol=1e-3, atol=1e-3)


def test_a_peer_that_is_missing_is_reported_as_not_installed(monkeypatch: pytest.MonkeyPatch):
    def never(*_: object) -> np.ndarray:
        raise AssertionError("it is not there")

    monkeypatch.setattr(maps, "PEERS", {"torch-cam": Peer("no_such_package.methods", never)})
    rows = list(maps.against_peers(TINY, resnet18(TINY), 1, targets=True))
    gone = [found for found in rows if found.upper.name == "torch-cam"]
    assert len(gone) == 2  # beside ours, and beside ours with OpenVINO
    for found in gone:
        assert found.missing == "not installed"
        assert found.ratio is None
        assert found.met is None
        assert not found.upper.values
    assert not Report({}, rows).failed
    assert_measured(next(found for found in rows if found.upper.name == "ours"))


def test_openvino_that_is_missing_is_reported_as_not_installed(monkeypatch: pytest.MonkeyPatch):
    absent = replace(BACKENDS["openvino"], missing=lambda: "OpenVINO is not installed")
    monkeypatch.setitem(BACKENDS, "openvino", absent)
    monkeypatch.setattr(maps, "PEERS", {})
    rows = list(maps.against_peers(TINY, resnet18(TINY), 1))
    (gone,) = [found for found in rows if found.upper.name == maps.OURS_OV]
    assert gone.missing == "not installed"
    assert not Report({}, rows).failed


def test_a_peer_that_lacks_a_part_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "half_a_peer.py").write_text("import part_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    module, reason = load_peer("half_a_peer")
    assert module is None
    assert reason.startswith("not installed in full")
    assert "part_that_is_not_there" in reason


def test_every_method_is_measured_beside_a_forward_pass():
    rows = list(methods.measure(TINY))
    installed = PEERS[GRAD_CAM].load()[0] is not None
    for name, method in METHODS.items():
        mine = [found for found in rows if found.what.startswith(f"{method.title}, ")]
        assert any(found.upper.name == "ours" for found in mine)
        assert any(found.upper.name == GRAD_CAM for found in mine) == bool(METHODS[name].package)
    for found in rows:
        if found.missing == methods.ONLY_FULL:
            assert found.what == "Ablation-CAM, tiny ResNet-50"
            assert found.ratio is None
        elif found.upper.name == GRAD_CAM and not installed:
            assert found.missing.startswith("not installed")
        else:
            assert_measured(found)


# Processes of their own.


@pytest.mark.skipif(not memory.STATUS.exists(), reason="needs Linux's /proc")
def test_memory_is_measured_in_a_process_for_each_side(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        memory, "PEERS", {"captum": Peer("no_such_package", PEERS["captum"].explain)}
    )
    absent = replace(BACKENDS["openvino"], missing=lambda: "OpenVINO is not installed")
    monkeypatch.setitem(BACKENDS, "openvino", absent)
    rows = list(memory.measure(TINY))
    assert {found.upper.unit for found in rows} == {"MiB"}
    for found in rows:
        if found.upper.name in ("captum", memory.OURS_OV):
            assert found.missing == "not installed"
            assert found.ratio is None
        else:
            assert_measured(found)
    whole = next(found for found in rows if "process" in found.what and not found.missing)
    assert min(whole.upper.values) > 50  # MiB; torch alone is more


def test_a_side_whose_process_fails_is_a_failure(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "PEERS", {})
    monkeypatch.setattr(memory.sys, "executable", "/bin/false")
    rows = list(memory.measure(TINY))
    assert rows
    assert all(found.missing.startswith("failed: ") for found in rows)


@pytest.fixture
def service_rows(tiny_card: Card) -> list[Row]:
    return list(service.measure(TINY, tiny_card.folder.parent))


def test_the_service_answers_over_http_and_without(service_rows: list[Row]):
    assert [found.what.split(",")[0] for found in service_rows] == ["1 client", "2 clients"]
    for found in service_rows:
        assert_measured(found)
        assert found.upper.unit == "/s"


def test_both_sides_of_the_service_run_in_the_same_back_end(
    tiny_card: Card, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("CBAM_LENS_BACKEND")  # the default, auto, might choose two
    used: list[str] = []
    start, make = service.subprocess.Popen, service.create_app
    monkeypatch.setattr(
        service.subprocess,
        "Popen",
        lambda *given, env, **rest: (
            used.append(env["CBAM_LENS_BACKEND"]) or start(*given, env=env, **rest)
        ),
    )
    monkeypatch.setattr(
        service, "create_app", lambda given: used.append(given.backend) or make(given)
    )
    (found,) = service.measure(replace(TINY, clients=(1,)), tiny_card.folder.parent)
    assert_measured(found)
    assert used == ["eager", "eager"]


def test_a_server_that_does_not_start_is_a_failure_with_its_last_words(
    tiny_card: Card, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(service.sys, "executable", "/bin/false")
    rows = list(service.measure(replace(TINY, clients=(16,)), tiny_card.folder.parent))
    (found,) = rows
    assert "status 1" in found.missing
    assert found.missing.startswith("failed: ")
    assert str(found.target) == "≥ 0.9"
    assert found.met is None


def test_the_command_writes_markdown_and_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    measured = [row(target=at_least(3)), row(upper=(), missing="not installed")]
    monkeypatch.setattr("benchmarks.__main__.MEASURES", {"peers": lambda plan: iter(measured)})
    out = tmp_path / "results.md"
    result = CliRunner().invoke(bench, ["--quick", "--only", "peers", "-o", str(out)])
    assert result.exit_code == 0, result.output
    text = out.read_text(encoding="utf-8")
    assert "* machine: " in text
    assert "tiny networks" in text
    assert "**3.00**" in text
    content = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    assert [found["missing"] for found in content["rows"]] == [None, "not installed"]


def test_the_command_fails_if_something_failed(monkeypatch: pytest.MonkeyPatch):
    failed = [row(upper=(), missing="failed: no such layer")]
    monkeypatch.setattr("benchmarks.__main__.MEASURES", {"peers": lambda plan: iter(failed)})
    result = CliRunner().invoke(bench, ["--quick", "--only", "peers", "--markdown"])
    assert result.exit_code == 1
    assert "*failed: no such layer*" in result.stdout
