"""The README says what is so."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cbam
from app.cli.main import app
from app.settings import Settings
from cbam.backends.choose import BACKENDS

ROOT = Path(__file__).parent.parent
SERVICE = (ROOT / "docs" / "service.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_its_table_is_what_the_command_prints() -> None:
    printed = CliRunner().invoke(app, ["models", "list", "--markdown"]).stdout
    assert "not measured" not in printed
    assert printed in README


def test_its_speeds_are_all_those_with_a_target_that_the_benchmark_wrote() -> None:
    results = (ROOT / "benchmarks" / "results.md").read_text(encoding="utf-8").splitlines()
    judged = [line for line in results if "| met |" in line or "| missed |" in line]
    assert len(judged) > 5
    assert "\n".join(judged) in README


SMALL = {card.family: card.labels for card in cbam.available().values() if len(card.labels) <= 20}


@pytest.mark.parametrize("family", SMALL)
def test_it_names_every_class_of_a_small_family(family: str) -> None:
    labels = SMALL[family]
    text = " ".join(README.split())
    assert [label for label in labels if label not in text] == []


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "docs/service.md", "benchmarks/README.md"]
)
def test_every_file_it_links_to_is_there(page: str) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", (ROOT / page).read_text(encoding="utf-8"))
    local = [link for link in links if not link.startswith("http")]
    assert local
    assert [link for link in local if not (ROOT / page).parent.joinpath(link).exists()] == []


def test_every_setting_is_explained_with_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| .+ \|$", SERVICE, re.MULTILINE)
    defaults = {
        name: "empty"
        if field.default in ("", (), None)
        else f"{field.default:g}"
        if isinstance(field.default, float)
        else str(field.default)
        for name, field in Settings.model_fields.items()
    }
    assert dict(rows) == defaults
    backends = next(line for line in SERVICE.splitlines() if line.startswith("| `backend`"))
    assert [name for name in (*BACKENDS, "auto") if name not in backends] == []
