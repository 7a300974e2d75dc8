"""A page for each attention module: its facts are the tables', its examples run."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

import cbam
from cbam.attention import ATTENTION
from cbam.backbones import BACKBONES
from scripts import module_pages

ROOT = Path(cbam.__file__).parent.parent
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in module_pages.PAGES.glob("*.md")}
LIBRARY = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")


def test_every_module_has_a_page_and_is_in_the_contents():
    assert PAGES.keys() == {*module_pages.names(), "index"}
    contents = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for name in PAGES:
        assert f"modules/{name}.md" in contents
        assert name == "index" or f"({name}.md)" in PAGES["index"]


@pytest.mark.parametrize("name", module_pages.names())
def test_a_pages_facts_are_what_the_tables_say(name: str):
    page = PAGES[name]
    assert module_pages.with_facts(page, name) == page
    assert ATTENTION[name].paper in page


def test_the_facts_follow_the_tables(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module_pages, "facts", lambda name: f"facts of {name}")
    page = module_pages.with_facts(PAGES["gc"], "gc")
    assert "facts of gc" in page
    assert "25,557,032" not in page
    assert page.startswith(PAGES["gc"][:100])


@pytest.mark.parametrize("name", module_pages.names())
def test_a_pages_figure_is_there_and_shows_four_blocks(name: str):
    with Image.open(module_pages.PAGES / f"{name}.webp") as figure:
        assert figure.width == 4 * (170 + 10) + 10
        assert figure.height > 100
    assert f"({name}.webp)" in PAGES[name]


@pytest.mark.parametrize("name", module_pages.names())
def test_a_pages_examples_build_networks(name: str):
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGES[name], re.DOTALL))
    assert code.count("cbam.build(") >= 1
    with torch.device("meta"):  # shapes only: quick
        exec(compile(code, name, "exec"), {})


@pytest.mark.parametrize("name", PAGES)
def test_every_file_a_page_links_to_is_there(name: str):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", PAGES[name])
    local = [link for link in links if not link.startswith("http")]
    assert local
    assert [link for link in local if not (module_pages.PAGES / link).exists()] == []


def test_the_guide_names_every_backbone_and_every_attention():
    for name in (*BACKBONES, *ATTENTION):
        assert f"`{name}`" in LIBRARY
