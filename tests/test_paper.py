"""The paper's tables: what is printed, what is counted anew, and where the two part."""

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import cbam
from app.cli.main import app
from app.routes.answers import detector_info
from app.routes.pages import measured_detection
from app.templating import templates
from app.words import DEFAULT, words
from cbam import paper
from cbam.cards.families import detectors
from cbam.errors import MissingFile, OptionClash
from cbam.paper import (
    DETECTION_ROWS,
    PAPER,
    RELEASED,
    ROWS,
    TABLES,
    DetectionRow,
    Row,
    count_detector,
    counted,
    detection_agrees,
)
from cbam.training.ablation_study import latest, table, verdict

ROOT = Path(cbam.__file__).parent.parent
SHOWN: dict[str, Any] = json.loads((ROOT / "static" / "paper.json").read_text(encoding="utf-8"))
TABLES_4_AND_5 = [row for row in ROWS if row.table in (4, 5)]


def test_tables_4_and_5_have_thirty_systems():
    assert len(TABLES_4_AND_5) == 30
    assert len({(row.backbone, row.attention) for row in TABLES_4_AND_5}) == 30


@pytest.mark.parametrize("row", TABLES_4_AND_5, ids=lambda row: row.system)
def test_every_cell_of_tables_4_and_5_agrees_to_the_last_printed_digit(row: Row):
    found = counted(row, [PAPER])
    assert f"{found.params / 1e6:.2f}" == row.params_m
    assert f"{found.gmacs[PAPER]:.3f}" == row.gmacs
    assert (found.params_agree, found.gmacs_agree) == (True, True)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.table} {row.system}")
def test_the_pages_file_holds_what_is_counted(row: Row):
    (shown,) = [
        each for each in SHOWN["rows"] if (each["table"], each["system"]) == (row.table, row.system)
    ]
    found = counted(row, [PAPER])
    assert shown["counted"]["params"] == found.params
    assert shown["counted"]["gmacs"][PAPER] == round(found.gmacs[PAPER], 4)
    assert shown["agrees"] == {"params": found.params_agree, "gmacs": found.gmacs_agree}
    assert shown["printed"]["top1_error"] == row.top1_error


def test_the_pages_file_names_every_table():
    assert SHOWN["tables"] == {str(number): title for number, title in TABLES.items()}
    assert {row.table for row in ROWS} == set(TABLES)
    detection = SHOWN["detection"]
    numbers = {str(row.table) for row in DETECTION_ROWS}
    assert set(detection["tables"]) == set(detection["notes"]) == numbers


@pytest.mark.parametrize("row", DETECTION_ROWS, ids=lambda row: row.system)
def test_detectors_agree_with_what_is_printed_and_shown(row: DetectionRow):
    params = count_detector(row)
    decimals = len(row.params_m.partition(".")[2])
    assert (f"{params / 1e6:.{decimals}f}" == row.params_m) is bool(row.params_m)
    assert detection_agrees(row) is (True if row.params_m else None)
    (shown,) = [each for each in SHOWN["detection"]["rows"] if each["system"] == row.system]
    assert shown["counted"]["params"] == params
    assert shown["printed"]["map50"] == row.map50
    page = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    assert "| " + " | ".join([row.system, *paper.detection_cells(row)]) + " |" in page


def test_what_does_not_agree_is_named_and_nothing_else_is():
    for row in ROWS:
        found = counted(row, [PAPER])
        assert (False in (found.params_agree, found.gmacs_agree)) == bool(row.note), row.system
    notes = {row.system: row.note for row in ROWS}
    assert "25.92M" in notes["+ AvgPool (SE)"]
    assert "25,915,099" in notes["+ AvgPool (SE)"]
    assert "3.869" in notes["+ channel, 1x1 conv, k=3"]


def test_the_released_code_strides_in_the_3x3_and_costs_more():
    (row,) = [row for row in ROWS if (row.table, row.system) == (4, "ResNet50 + CBAM")]
    found = counted(row)
    assert (round(found.gmacs[PAPER], 3), round(found.gmacs[RELEASED], 3)) == (3.864, 4.096)
    (basic,) = [row for row in ROWS if (row.table, row.system) == (4, "ResNet18")]
    assert counted(basic).gmacs[PAPER] == counted(basic).gmacs[RELEASED]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows: the command itself, without counting everything again."""
    rows = [row for row in ROWS if row.backbone in ("resnet18",)][:1]
    rows += [row for row in ROWS if row.table == 1][1:2]
    monkeypatch.setattr(paper, "ROWS", tuple(rows))
    monkeypatch.setattr(paper, "DETECTION_ROWS", DETECTION_ROWS[-1:])


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["paper", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_the_command_prints_tables_json_and_markdown(few: None):
    printed = run()
    assert "11.690M" in printed
    assert "5.995M" in printed
    said = json.loads(run("--json"))
    assert said["rows"][0]["counted"]["gmacs"] == {"1x1": 1.8141, "3x3": 1.8141}
    assert said["rows"][1]["agrees"] == {"params": False, "gmacs": False}
    text = run("--markdown")
    assert "| ResNet18 | 11.69M | 11.690M | 1.814 | 1.8141 |" in text
    assert "28.088M *" in text
    assert "**\\*** Table 1 prints" in text


def nearly(rows: list[dict[str, Any]]) -> Any:
    """The rows as JSON has them, but for the last digits of their numbers."""
    return json.loads(json.dumps(rows), parse_float=lambda text: round(float(text), 9))


def test_the_json_holds_an_ablation_if_there_is_one(
    few: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("toml", "jsonl"):
        source = ROOT / "recipes" / f"ablation-small.{name}"
        (tmp_path / f"other.{name}").write_bytes(source.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert "ablation" not in json.loads(run("--json"))
    said = json.loads(run("--json", "--ablation", "other.jsonl"))["ablation"]
    runs = latest(tmp_path / "other.jsonl")
    assert nearly(said["rows"]) == nearly(table(runs))
    assert said["verdict"] == verdict(runs)
    assert (said["runs"], said["classes"], said["test_photos"]) == (len(runs), 58, 2900)
    assert said["command"] == ("cbam-lens ablate other.toml --results other.jsonl --summary")
    with pytest.raises(MissingFile, match="no finished runs"):
        run("--json", "--ablation", "none.jsonl")


def test_the_page_shows_the_results_that_are_there():
    runs = latest(ROOT / "recipes" / "ablation-small.jsonl")
    shown = SHOWN["ablation"]
    assert shown["verdict"] == verdict(runs)
    assert nearly(shown["rows"]) == nearly(table(runs))


def test_the_command_writes_the_kind_of_file_that_it_is_asked_for(few: None, tmp_path: Path):
    run("-o", str(tmp_path / "paper.json"))
    assert json.loads((tmp_path / "paper.json").read_text())["size_px"] == 224
    run("-o", str(tmp_path / "paper.md"))
    assert (tmp_path / "paper.md").read_text().startswith("### Table 1")
    with pytest.raises(OptionClash, match=r"neither \.json nor \.md"):
        run("-o", str(tmp_path / "paper.txt"))


def test_the_documentation_shows_the_same_rows():
    text = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    for shown in SHOWN["rows"]:
        counts = shown["counted"]
        star = " *" if shown["agrees"]["params"] is False else ""
        assert f"| {counts['params'] / 1e6:.3f}M{star} |" in text
        (line,) = [
            line
            for line in text.partition(f"### Table {shown['table']}\n")[2].splitlines()
            if line.startswith(f"| {shown['system']} |")
        ][:1]
        assert f"{counts['gmacs'][PAPER]:.4f}" in line
        assert f"{counts['gmacs'][RELEASED]:.4f}" in line


def rendered(**what: Any) -> str:
    """The view in English, as the page includes it."""
    t = words(DEFAULT)
    macros = templates().get_template("_words.html").make_module({"t": t})
    return templates().get_template("views/paper.html").render(t=t, words=macros, **what)


def test_the_page_shows_what_the_cards_of_our_detectors_say():
    cards = detectors().values()
    measured = measured_detection([detector_info(card) for card in cards])
    html = rendered(paper=SHOWN, measured=[], detection=measured)
    rows = {
        re.sub(r"<[^>]+>", "", row.partition("</th>")[0]).strip(): [
            re.sub(r"<[^>]+>", "", cell).strip() for cell in re.findall(r"<td>(.*?)</td>", row)
        ]
        for row in html.partition("Detectors, measured ourselves")[2].split("<tr>")
    }
    for card in cards:
        boxes = card.metrics["boxes"]
        cells = rows[card.title]
        assert cells[:2] == [str(boxes["photos"]), str(boxes["objects"])]
        percent = [f"{100 * boxes[name]:.1f}" for name in ("map50", "map75", "map50_95")]
        assert cells[2:5] == percent
        for cell, other in zip(cells[5:], ("none", "se"), strict=True):
            known = card.metrics.get(f"against_{other}")
            if known is None:
                assert cell == "–"
                continue
            difference, low, high = (f"{100 * each:+.1f}" for each in known["map50"])
            assert cell.replace("−", "-") == f"{difference} ({low} to {high})"
    intervals = [
        values["map50"][1:]
        for card in cards
        for key, values in card.metrics.items()
        if key.startswith("against_")
    ]
    noise = all(low <= 0 <= high for low, high in intervals)
    assert ("No difference is beyond noise" in html) is noise


def test_a_page_without_results_says_nothing_of_them():
    found = {key: value for key, value in SHOWN.items() if key != "ablation"}
    html = rendered(paper=found, measured=[], detection=[])
    assert "run for real" not in html
    assert "Detectors, measured" not in html
    study = SHOWN["ablation"]
    again = unescape(rendered(paper=SHOWN, measured=[], detection=[]))
    assert study["verdict"] in again
    assert study["command"] in again
    assert again.count("<tr") - html.count("<tr") == len(study["rows"]) + 1
