"""The page's style sheets: whose a class is."""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

CSS = Path(__file__).parent.parent / "static" / "css"
SHARED = "base.css"  # what any part of the page may use
CLASS = re.compile(r"\.(-?[A-Za-z_][\w-]*)")
FILES = sorted(path for path in CSS.glob("*.css") if path.name not in ("site.css", SHARED))


def selectors(css: str) -> Iterator[str]:
    """Every selector of a style sheet; `a, b` are two."""
    css = re.sub(r"/\*.*?\*/", "", css, flags=re.DOTALL)
    for found in re.findall(r"([^{};]+)\{", css):
        if not found.strip().startswith(("@", "from", "to")):
            yield from (each.strip() for each in re.split(r",(?![^(]*\))", found))


def classes(selector: str) -> set[str]:
    """The classes that it names, without those that it leaves out."""
    return set(CLASS.findall(re.sub(r":not\([^)]*\)", "", selector)))


def bare(selector: str) -> set[str]:
    """The classes that a selector styles wherever they stand.

    `.pair` and `.pair:hover` do so. `.board .pair` and `.board > .pair` do not: there `.board`, and
    its file, says where.
    """
    return set() if re.search(r"[\s>+~]", selector) else classes(selector)


def test_selectors_are_read_as_written() -> None:
    css = "/* .no { } */ .a, :is(.b, .c) em { color: red }\n@media (x) { .d:hover { top: 0 } }"
    assert list(selectors(css)) == [".a", ":is(.b, .c) em", ".d:hover"]
    assert [bare(each) for each in selectors(css)] == [{"a"}, set(), {"d"}]


def test_a_class_is_styled_by_one_file_alone() -> None:
    """Two components that take the same name for different things would dress each other."""
    owners: dict[str, set[str]] = defaultdict(set)
    styled: dict[str, set[str]] = defaultdict(set)  # by a rule that begins with it
    for path in FILES:
        for selector in selectors(path.read_text(encoding="utf-8")):
            first = re.split(r"[\s>+~]+", selector)[0]
            for name in classes(first):
                styled[name].add(path.name)
            for name in bare(selector):
                owners[name].add(path.name)
    assert len(owners) > 100
    assert {name: files for name, files in styled.items() if len(files) > 1} == {}
    # A name that one file styles everywhere is styled by another only where it places its child.
    for path in FILES:
        for selector in selectors(path.read_text(encoding="utf-8")):
            if selector.startswith("[data-presenting]"):  # which hides parts of all kinds
                continue
            *_, last = re.split(r"(?<![>+~])\s+(?![>+~])", selector)
            if ">" in last:
                continue
            for name in classes(last):
                assert owners[name] <= {path.name}, f"{path.name}: {selector}: {owners[name]}"


def test_every_style_sheet_is_imported_once() -> None:
    imported = re.findall(r'@import "([^"]+)";', (CSS / "site.css").read_text(encoding="utf-8"))
    assert sorted(imported) == sorted(
        path.name for path in CSS.glob("*.css") if path.name != "site.css"
    )
