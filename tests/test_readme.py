"""The README says what is so."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cbam
from cbam.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_its_table_is_what_the_command_prints() -> None:
    printed = CliRunner().invoke(app, ["models", "list", "--markdown"]).stdout
    assert "not measured" not in printed
    assert printed in README


@pytest.mark.parametrize("name", cbam.cards())
def test_it_names_every_class_of_a_small_family(name: str) -> None:
    labels = cbam.cards()[name].labels
    text = " ".join(README.split())
    assert [label for label in labels if label not in text] == []


def test_every_file_it_links_to_is_there() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    local = [link for link in links if not link.startswith("http")]
    assert len(local) > 3
    assert [link for link in local if not (ROOT / link).exists()] == []
