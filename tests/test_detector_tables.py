"""What is shown of detectors: in the command's tables, in /api/v1/models, and their curves."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from app_fixtures import wait_until_ready
from detecting import LABELS, squares, tiny_family
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from app.cli.main import app as command
from app.main import create_app
from app.settings import Settings
from cbam.cards.detector import write_detector_card
from cbam.errors import CBAMLensError, OptionClash, UnknownName

pytest_plugins = ["detecting"]
NAMES = ["tiny-none-things", "tiny-se-things", "tiny-cbam-things"]


@pytest.fixture
def listed(tiny_detectors: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The command lists the models of this folder."""
    monkeypatch.setattr("cbam.cards.families.models_folder", lambda: tiny_detectors)
    return tiny_detectors


def invoke(*arguments: object) -> str:
    """The command's output; its own errors are raised, as its entry point expects."""
    done = CliRunner().invoke(command, [str(each) for each in arguments])
    if isinstance(done.exception, CBAMLensError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def evaluated(tiny_detectors: Path, data: Path, *options: object) -> str:
    return invoke("evaluate", *(tiny_detectors / name for name in NAMES), "--boxed", data, *options)


BOXES = {
    "map50": 0.71234,
    "map75": 0.5,
    "map50_95": 0.4,
    "ap50": {"red": 0.75, "blue": 0.25},
    "map_by_size": {"small": 0.125},
    "objects_by_size": {"small": 1200, "medium": 0, "large": 0},
}
SHARES = {"energy_in_box": 0.6, "energy_uniform": 0.3, "energy_of_box": 0.875}


def test_what_was_measured_is_listed_in_three_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("cbam.cards.families.models_folder", lambda: tmp_path)
    plain, _, cbam = tiny_family(tmp_path)
    write_detector_card(replace(plain, metrics={"boxes": BOXES, "heat_maps": SHARES}))
    against = {"map50": [0.012, -0.03, 0.05], "what": "difference"}
    write_detector_card(replace(cbam, metrics={"boxes": BOXES, "against_none": against}))
    every, classes, differences = (
        invoke("models", "detectors", table, "--markdown").splitlines()[2:]
        for table in ("all", "classes", "differences")
    )
    assert every[0] == (
        "| tiny-none-things | FCOS on ResNet-18 | 71.2% | 50.0% | 40.0% | 60.0% | 30.0% | 87.5% |"
    )
    assert every[1].count("not measured") == 6
    assert classes == [
        "| red | AP@.5 | 75.0% | 75.0% |",
        "| blue | AP@.5 | 25.0% | 25.0% |",
        "| small, 1,200 objects | mAP@.5:.95 | 12.5% | 12.5% |",
    ]
    assert differences == ["| tiny-cbam-things | none | +1.2 (-3.0 to +5.0) |"]


def test_all_models_are_listed_together(listed: Path):
    said = invoke("models", "list")
    for name in (*NAMES, "tiny-cbam", "tiny-none"):
        assert name in said


def test_an_unknown_table_is_refused_with_those_there_are(listed: Path):
    with pytest.raises(UnknownName, match="all, classes, differences"):
        invoke("models", "detectors", "sizes")


def test_curves_are_written_as_a_picture_and_as_data(tiny_detectors: Path, tmp_path: Path):
    data = squares(tmp_path / "test.parquet", 4)
    evaluated(tiny_detectors, data, "-o", tmp_path / "curves.json")
    curves = json.loads((tmp_path / "curves.json").read_text(encoding="utf-8"))
    assert [*curves["detectors"]] == NAMES
    assert curves["detectors"][NAMES[0]].keys() == {*LABELS}
    assert len(curves["recall"]) == len(curves["detectors"][NAMES[2]]["red"]["precision"]) == 101
    evaluated(tiny_detectors, data, "-o", tmp_path / "curves.svg")
    picture = ElementTree.fromstring((tmp_path / "curves.svg").read_text(encoding="utf-8"))
    assert len([each for each in picture.iter() if each.tag.endswith("polyline")]) == 3 * 2


def test_curves_of_another_kind_are_refused_before_the_work(tiny_detectors: Path, tmp_path: Path):
    data = squares(tmp_path / "test.parquet", 1)
    with pytest.raises(OptionClash, match=r"curves\.gif is neither \.svg nor \.json"):
        evaluated(tiny_detectors, data, "-o", "curves.gif")
    with pytest.raises(CBAMLensError, match="no folder"):
        evaluated(tiny_detectors, data, "-o", tmp_path / "nowhere" / "curves.svg")
    classifier = tiny_detectors / "tiny-cbam"
    with pytest.raises(OptionClash, match="for detectors"):
        invoke("evaluate", classifier, "--boxed", data, "-o", tmp_path / "curves.svg")


def test_the_api_shows_detectors_beside_the_models_without_loading_them(tiny_detectors: Path):
    with TestClient(create_app(Settings(models_folder=tiny_detectors, backend="eager"))) as client:
        wait_until_ready(client)
        answer = client.get("/api/v1/models").json()
        assert not client.app.state.engine.detectors  # type: ignore[attr-defined]
    assert [each["name"] for each in answer["detectors"]] == NAMES
    plain, _, cbam = answer["detectors"]
    assert (plain["attention"], cbam["attention"]) == ("none", "cbam")
    assert cbam["title"] == "FCOS on CBAM-ResNet-18"
    assert cbam["classifier"] == "tiny-cbam"
    assert cbam["classes"] == [*LABELS]
    assert [each["name"] for each in cbam["gates"]] == ["channel", "spatial"]
    assert {each["name"] for each in answer["models"]} == {"tiny-none", "tiny-se", "tiny-cbam"}
