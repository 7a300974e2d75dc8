"""`cbam-lens report`: the cards' own numbers and answers about photos, in one file of HTML."""

import html
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from app_fixtures import FAMILY, encoded, photo, write_family
from detecting import squares, tiny_detector
from typer.testing import CliRunner

from app import tables
from app.cli.main import app
from cbam.cards.card import write_card
from cbam.cards.detector import write_detector_card
from cbam.cards.families import available, detectors
from cbam.errors import BadData, CannotWrite, CBAMLensError, OptionClash, UnknownName

FOUND = tuple(f"{name}-things" for name in FAMILY)
BOXES: dict[str, Any] = {
    "map50": 0.71234,
    "map75": 0.5,
    "map50_95": 0.4,
    "ap50": {"red": 0.75, "blue": 0.25},
    "map_by_size": {"small": 0.125},
    "objects_by_size": {"small": 1200},
    "command": "cbam-lens evaluate --boxed",
}
GATES: dict[str, Any] = {
    "photos": 300,
    "top1": 0.67,
    "command": "cbam-lens evaluate --hold",
    "all": {"mean": [-0.1, -0.12, -0.08], "changed": 0.2},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A family of classifiers and one of detectors, some of which were measured."""
    folder = write_family(tmp_path_factory.mktemp("models"))
    cards = available(folder)
    for name, card in cards.items():
        tiny_detector(folder, card.attention, card)
        val = {"photos": 1000, "top1": 0.6766, "top5": 0.9, "command": "cbam-lens evaluate --val"}
        metrics: dict[str, Any] = {"val": val}
        if name == "tiny-cbam":
            metrics |= {"gates": GATES, "against_none": {"top1": [0.012, -0.005, 0.03]}}
        write_card(replace(card, metrics=metrics))
    plain, _, with_cbam = detectors(folder).values()
    write_detector_card(replace(plain, metrics={"boxes": BOXES}))
    against = {"map50": [0.012, -0.03, 0.05]}
    metrics = {"boxes": BOXES, "against_none": against}
    write_detector_card(replace(with_cbam, metrics=metrics))
    return folder


@pytest.fixture(autouse=True)
def bundled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command knows the models of this folder."""
    for module in ("cbam.cards.families", "cbam.detector"):
        monkeypatch.setattr(f"{module}.models_folder", lambda: folder)


def written(path: Path, *arguments: object) -> str:
    """The report that the command writes; its own errors are raised."""
    words = [str(each) for each in ("report", *arguments, "-o", path)]
    done = CliRunner().invoke(app, words)
    if isinstance(done.exception, CBAMLensError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return path.read_text(encoding="utf-8")


def cells(text: str) -> list[list[str]]:
    """The rows of all tables, cell by cell."""
    rows = re.findall(r"<tr>(.*?)</tr>", text, re.DOTALL)
    return [
        [html.unescape(each) for each in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)]
        for row in rows
    ]


def test_a_report_has_the_tables_of_both_kinds_and_what_measured_them(folder: Path, tmp_path: Path):
    text = written(tmp_path / "report.html", "tiny", "things")
    cards, found = available(folder), [*detectors(folder).values()]
    shown = cells(text)
    for titles, rows in (
        tables.measured(cards),
        tables.differences(cards),
        tables.held_gates(cards),
        tables.found(found),
        tables.found_differences(found),
        tables.found_classes(found),
    ):
        assert rows
        assert titles in shown
        for row in rows:
            assert row in shown
    assert shown[shown.index(tables.differences(cards)[0]) + 1][:3] == [
        "tiny-cbam",
        "none",
        "+1.2 (-0.5 to +3.0)",
    ]
    assert "the answer depends on what the gates say" in text
    for command in ("evaluate --val", "evaluate --hold", "evaluate --boxed"):
        assert f"<code>cbam-lens {command}</code>" in text
    assert "show no photo" not in text
    assert tables.faithfulness(cards)[0] not in shown  # nothing was measured of it
    assert tables.boxes(cards)[0] not in shown


def test_a_report_needs_nothing_else(tmp_path: Path):
    text = written(tmp_path / "report.html", "tiny", "--photo", portrait(tmp_path))
    assert "default-src 'none'; img-src data:" in text
    assert "<script" not in text
    addresses = re.findall(r"(?:src|href)=[\"']?([^\"' >]+)", text)
    assert addresses
    assert all(each.startswith("data:") for each in addresses)
    assert not re.search(r"url\(|@import", text)


def portrait(folder: Path) -> Path:
    path = folder / "a <photo>.jpg"
    path.write_bytes(encoded(photo()))
    return path


def test_photos_are_asked_of_every_model(folder: Path, tmp_path: Path):
    path = portrait(tmp_path)
    text = written(tmp_path / "report.html", "tiny", "things", "--photo", path, "--photo", path)
    assert text.count("<h2>a &lt;photo&gt;.jpg</h2>") == 2
    images = re.findall(
        r'<img src="data:image/jpeg;base64,[^"]+" width="(\d+)"[^>]*alt="([^"]+)"', text
    )
    assert len(images) == 4
    assert images[0][1].startswith("Heat maps for")
    assert images[1][1].startswith("Boxes of")
    assert all(int(width) > 900 for width, _ in images)
    first = [row[0] for row in cells(text)]
    for name in (*FAMILY, *FOUND):
        assert first.count(name) >= 3  # its card, and two photos


def test_without_photos_no_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def never(*_: Any) -> None:
        raise AssertionError("nobody asked a model")

    monkeypatch.setattr("app.cli.report.load", never)
    monkeypatch.setattr("app.cli.report.open_detector", never)
    assert "tiny-se" in written(tmp_path / "report.html", "tiny-se", "tiny-se-things")


def test_models_are_named_by_folder_and_once_each(folder: Path, tmp_path: Path):
    text = written(tmp_path / "report.html", folder / "tiny-se", "tiny-se", folder / FOUND[0])
    first = [row[0] for row in cells(text)]
    assert first.count("tiny-se") == 2  # measured, and how far it can be trusted
    assert first.count(FOUND[0]) == 1
    assert "tiny-none" not in first


def test_curves_are_drawn_from_what_evaluate_wrote(folder: Path, tmp_path: Path):
    data = squares(tmp_path / "test.parquet", 4)
    curves = tmp_path / "curves.json"
    words = ["evaluate", *FOUND[:2], "--boxed", str(data), "-o", str(curves)]
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    text = written(tmp_path / "report.html", "things", "--curves", curves)
    assert text.count("<polyline") == 2 * 2
    said = json.loads(curves.read_text(encoding="utf-8"))["detectors"]
    for name, of_one in said.items():
        for curve in of_one.values():
            assert f">{name} {curve['ap50']:.1%}</text>" in text
    with pytest.raises(OptionClash, match="curves of none"):
        written(tmp_path / "report.html", "tiny", "--curves", curves)
    curves.write_text('{"recall": [0, 1], "iou": 0.5, "detectors": {"a": {"b": {"ap50": 1}}}}')
    with pytest.raises(BadData, match="holds no curves"):
        written(tmp_path / "report.html", "things", "--curves", curves)


def test_what_cannot_be_is_refused_before_the_work(tmp_path: Path):
    with pytest.raises(UnknownName, match=r"'nobody'.*tiny, things, tiny-none"):
        written(tmp_path / "report.html", "nobody")
    with pytest.raises(CannotWrite, match=r"ending '.pdf'"):
        written(tmp_path / "report.pdf", "tiny")
    with pytest.raises(CannotWrite, match="no folder"):
        written(tmp_path / "nowhere" / "report.html", "tiny")
    with pytest.raises(CBAMLensError, match="cannot be read"):
        written(tmp_path / "report.html", "tiny", "--photo", tmp_path / "none.jpg")
