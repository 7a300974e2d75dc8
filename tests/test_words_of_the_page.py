"""The page's words: each in every language, each used, and none beside the catalogues."""

import gzip
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from jinja2 import Environment, nodes

from app.problems import STATUSES
from app.routes.views import VIEWS
from app.templating import bundled
from app.words import DEFAULT, catalogue, languages, words
from cbam import ATTENTION, METHODS, render
from cbam.explain.formulas import FUSIONS
from cbam.explain.gate_words import STATES

pytest_plugins = ["app_fixtures"]

REPORT = "report_file.html"  # the command writes it, in English as all that the command says
TEMPLATES = sorted(path for path in bundled("templates").rglob("*.html") if path.name != REPORT)
SCRIPTS = sorted((bundled("static") / "js").rglob("*.js"))
OTHERS = [each for each in languages() if each != DEFAULT]
GROUPS = ("page", "scripts")
NAME = re.compile(r"\{(\w+)\}")
TAG = re.compile(r"</?(\w+)[^>]*>")
ANY = ".+"  # in a pattern of ids, for what only the running page knows


def texts(language: str, *groups: str) -> dict[str, Any]:
    """A catalogue's texts by id."""
    return {id: text for each in groups or GROUPS for id, text in catalogue(language)[each].items()}


def forms(text: str | dict[str, str]) -> list[str]:
    return [text] if isinstance(text, str) else list(text.values())


def of_records() -> set[str]:
    """What other languages say of the library's records, whose English is the records' own."""
    every = [kind for each in ATTENTION.values() for kind in each.gates]
    kinds = {kind.name for kind in every}
    found = {f"view.{name}" for name in VIEWS}
    found |= {f"attention.{name}.{part}" for name in ATTENTION for part in ("phrase", "intro")}
    found |= {f"attention.{name}.story" for name, each in ATTENTION.items() if each.story}
    found |= {f"method.{name}.{part}" for name in METHODS for part in ("note", "cost")}
    found |= {f"unit.{each.unit}" for each in METHODS.values() if each.unit}
    found |= {f"gate.{name}.{part}" for name in kinds for part in ("title", "word")}
    found |= {f"gate.{kind.text}.says" for kind in every}
    found |= {f"what-if.kind.{name}" for name in kinds}
    found |= {f"state.{name}" for name in STATES}
    found |= {f"colours.{name}" for name in render.COLOUR_MAPS}
    found |= {f"fusion.{name}" for name in FUSIONS}
    found |= {f"error.{status}" for status in (*STATUSES, 500)}
    return found


# Texts for what the library or a card says in sentences of its own; other tests make these.
SENTENCES = re.compile(r"(verdict|reliance|judged|tried|family|photo|paper|detector)\..+")


def test_every_language_has_every_text_of_the_default() -> None:
    for language in OTHERS:
        for group in GROUPS:
            ours, theirs = texts(DEFAULT, group), texts(language, group)
            more = {id for id in theirs if id not in ours}
            assert not ours.keys() - theirs.keys()
            assert not {id for id in more - of_records() if not SENTENCES.fullmatch(id)}
        assert not of_records() - texts(language).keys()
        assert not of_records() & texts(DEFAULT).keys(), "said by the record itself"


def test_kinds_of_gates_share_a_text_only_if_they_say_the_same() -> None:
    said: dict[str, str] = {}
    for kind in (kind for each in ATTENTION.values() for kind in each.gates):
        assert said.setdefault(kind.text, kind.says) == kind.says, kind.text


def test_no_id_is_in_two_groups() -> None:
    for language in languages():
        groups = [set(texts(language, each)) for each in GROUPS]
        assert not groups[0] & groups[1]


def test_a_text_has_the_same_names_and_marks_in_every_language() -> None:
    for language in OTHERS:
        theirs = texts(language)
        for id, text in texts(DEFAULT).items():
            for form in forms(theirs[id]):
                # A language that counts otherwise may leave a count to its form.
                same = [set(NAME.findall(" ".join(forms(each)))) for each in (text, form)]
                assert same[0] - {"count"} == same[1] - {"count"}, id
                marks = [sorted(set(TAG.findall(" ".join(forms(each))))) for each in (text, form)]
                assert marks[0] == marks[1], id


def test_texts_are_said_and_marked_by_bare_tags_alone() -> None:
    for language in languages():
        for id, text in texts(language).items():
            assert isinstance(text, str) or text.keys() == {"one", "other"}, id
            for form in forms(text):
                assert form.strip(), id
                assert not re.search(r"<(?!/?(?:b|code|kbd)>)", form), id
        for id, text in texts(language, "scripts").items():
            assert not any("<" in form for form in forms(text)), f"{id}: scripts put in text alone"


# What the templates and the scripts ask for


def patterns(node: nodes.Node) -> list[str]:
    """The ids that an expression may stand for, as regular expressions."""
    match node:
        case nodes.Const():
            return [re.escape(str(node.value))]
        case nodes.CondExpr():
            assert node.expr2 is not None
            return [*patterns(node.expr1), *patterns(node.expr2)]
        case nodes.Concat():
            found = [""]
            for each in node.nodes:
                found = [one + more for one in found for more in patterns(each)]
            return found
        case _:
            return [ANY]


def asked_in_template(path: Path) -> Iterator[str]:
    tree = Environment().parse(path.read_text(encoding="utf-8"))
    for call in tree.find_all(nodes.Call):
        match call.node:
            case nodes.Name(name="t"):
                yield from patterns(call.args[0])
            case nodes.Getattr(node=nodes.Name(name="t"), attr="of"):
                yield from patterns(call.args[0])
            case nodes.Getattr(node=nodes.Name(name="t"), attr="said"):
                yield from (f"{each}\\.{ANY}" for each in patterns(call.args[0]))


class Literal(NamedTuple):
    """A string or a template of a script."""

    text: str  # what is computed is ANY
    before: str  # the code before it


def literals(code: str) -> Iterator[Literal]:
    """Every string and template in JavaScript, those in templates included; no comments."""
    at = 0
    skipped = ""  # the last code, without comments
    while at < len(code):
        skipped = skipped[-60:]
        two = code[at : at + 2]
        if two == "//":
            at = code.find("\n", at) if "\n" in code[at:] else len(code)
        elif two == "/*":
            at = code.index("*/", at) + 2
        elif code[at] == "/" and re.search(r"(?:^|[=(,:\[!&|?{};]|return)\s*$", skipped[-20:]):
            end = re.compile(r"/(?:\\.|\[(?:\\.|[^\]\\])*\]|[^/\\\[\n])+/[a-z]*").match(code, at)
            assert end, code[at : at + 40]
            at = end.end()
        elif code[at] in "\"'":
            end = re.compile(r"([\"'])((?:\\.|(?!\1).)*)\1").match(code, at)
            assert end, code[at : at + 40]
            yield Literal(end[2], skipped[-60:])
            skipped += end[0]
            at = end.end()
        elif code[at] == "`":
            at, text = at + 1, ""
            while code[at] != "`":
                if code.startswith("${", at):
                    depth, inner = 1, at + 2
                    at = inner
                    while depth:
                        if code[at] == "`":  # a template in a template
                            at = _end_of_template(code, at)
                            continue
                        depth += {"{": 1, "}": -1}.get(code[at], 0)
                        at += 1
                    yield from literals(code[inner : at - 1])
                    text += ANY
                else:
                    size = 2 if code[at] == "\\" else 1
                    text += code[at : at + size]
                    at += size
            yield Literal(text, skipped[-60:])
            skipped += '""'
            at += 1
        else:
            skipped += code[at]
            at += 1


def _end_of_template(code: str, at: int) -> int:
    at += 1
    while code[at] != "`":
        if code.startswith("${", at):
            depth, at = 1, at + 2
            while depth:
                if code[at] == "`":
                    at = _end_of_template(code, at)
                    continue
                depth += {"{": 1, "}": -1}.get(code[at], 0)
                at += 1
        else:
            at += 2 if code[at] == "\\" else 1
    return at + 1


ASKS = re.compile(r"(?<![\w.])(?:t|of|sentence)\($")


def asked_in_script(path: Path) -> Iterator[str]:
    """Ids that are asked for: a first argument, or one of the two between which it chooses."""
    for text, before in literals(path.read_text(encoding="utf-8")):
        chooses = re.search(r"(?<![\w.])(?:t|of)\([^(),]*(?:\?|:|\?\?)\s*$", before)
        if ASKS.search(before) or chooses:
            about = f"{re.escape(text)}\\.{ANY}" if "sentence(" in before[-9:] else re.escape(text)
            yield about.replace(re.escape(ANY), ANY)


def named_in_scripts() -> set[str]:
    """Every string of the scripts: an id may come from a table."""
    return {text for path in SCRIPTS for text, _ in literals(path.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_what_a_template_asks_for_is_there(path: Path) -> None:
    known = set().union(*(texts(each) for each in languages()))
    for pattern in asked_in_template(path):
        assert any(re.fullmatch(pattern, id) for id in known), pattern
        if ANY not in pattern:  # what is not a record's has to be said in every language
            assert pattern.replace("\\", "") in texts(DEFAULT), pattern


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_what_a_script_asks_for_travels_with_the_page(path: Path) -> None:
    known = set().union(*(texts(each, "scripts") for each in languages()))
    for pattern in asked_in_script(path):
        assert any(re.fullmatch(pattern, id) for id in known), pattern
        if ANY not in pattern:
            assert pattern.replace("\\", "") in texts(DEFAULT, "scripts"), pattern


def test_every_text_is_used() -> None:
    of_page = {each for path in TEMPLATES for each in asked_in_template(path)}
    named = named_in_scripts()
    of_scripts = {each for path in SCRIPTS for each in asked_in_script(path)}
    code = Path(words.__module__.replace(".", "/") + ".py")
    source = (bundled("templates").parent / code).read_text(encoding="utf-8")
    own = {re.escape(each) for each in re.findall(r'"(words\.\w+|verdict\.[\w-]+)"', source)}
    own.add(f"verdict\\.{ANY}")
    for language in languages():
        for id in texts(language, "page"):
            assert any(re.fullmatch(each, id) for each in of_page | own if each != ANY), id
        for id in texts(language, "scripts"):
            used = id in named
            assert used or any(re.fullmatch(each, id) for each in of_scripts if each != ANY), id


# Words beside the catalogues

MARK = "\ue000"  # in place of an expression
SHOWN = ("aria-label", "title", "alt", "placeholder")
# Names and code, the same in every language.
NAMES = {
    *("CBAM Lens", "CBAM", "ms", "openapi.json"),
    "layer1.0.channel=off, layer4.*.spatial=0.5",
}


class Visible(HTMLParser):
    """What of a template a reader may see or hear, without its expressions."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._silent += tag in ("style", "script")
        self.found += [value or "" for name, value in attrs if name in SHOWN]

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in ("style", "script")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.found.append(data)


def reads(text: str) -> bool:
    """Whether it has words of its own."""
    for name in sorted(NAMES, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "", text)
    return bool(re.search(r"[A-Za-z]{2}", text))


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_a_template_says_nothing_itself(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    environment = Environment()
    html = "".join(
        MARK if kind in ("variable_begin", "block_begin") else value
        for _, kind, value in environment.lex(source)
        if kind in ("data", "variable_begin", "block_begin")
    )
    visible = Visible()
    visible.feed(html)
    assert not [text for text in visible.found if reads(text)]
    # Nor does a string in an expression: a capital, or two words.
    said = [each.value for each in environment.parse(source).find_all(nodes.Const)]
    spoken = re.compile(r"[A-Z][a-z]+|.*[A-Za-z]{2,} [a-z(]{2,}.*")
    assert not [each for each in said if isinstance(each, str) and spoken.fullmatch(each)]


# Code that may have spaces and capitals: what finds elements, keys, errors for developers.
FINDS = re.compile(
    r"(?:(?:closest|matches|querySelector(?:All)?|one|all)\((?:[\w#.]+, )?|matchMedia\(|"
    r"class(?:Name)?\"?\s*[:=,]\s*|"
    r"made\(\"\w+\", (?:\"[^\"]*\"|t\(.*\)|[^\"]+), |parts\W+|\"X-Fragment\": )$"
)
DEVELOPERS = re.compile(r"(?:TypeError|RangeError|DOMException)\($")
CODE = re.compile(
    r"[\w-]+|"  # one word: looked at below
    r".*[=\[\]#>{}\\].*|"
    r"[\w-]+: .*;|"
    r"\d+ .*px sans-serif|"
    r"[MHVLZ\d ,.()+-]*|"
    r"[a-z]+/[\w+-]+(?:;.*)?",
    re.DOTALL,
)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_says_nothing_itself(path: Path) -> None:
    spoken = []
    for text, before in literals(path.read_text(encoding="utf-8")):
        if FINDS.search(before) or DEVELOPERS.search(before) or text in NAMES:
            continue
        plain = re.sub(r"\s+", " ", text.replace(ANY, MARK)).strip()
        sentence = re.search(r"[A-Za-z]{2,}[,.;:]? [A-Za-z(“]{2,}|[A-Za-z]{3,}[.…?!]$|’", plain)
        shown = re.search(
            r"(?:(?:textContent|title|alt|innerText|placeholder)\s*[:=]\s*|"
            r"(?:aria-label|title|alt|placeholder)\", |caption\(|new Option\(|Refused\()$",
            before,
        )
        if (sentence and not CODE.fullmatch(plain)) or (shown and reads(plain)):
            spoken.append(text)
    assert not spoken


@pytest.mark.parametrize("language", languages())
def test_what_a_visitor_loads_beside_the_photos_is_small(language: str) -> None:
    """All scripts, styles, the icon and the scripts' words, compressed together: 120 kB at most."""
    static = bundled("static")
    files = [*SCRIPTS, *sorted((static / "css").glob("*.css")), static / "favicon.svg"]
    own = b"".join(path.read_bytes() for path in files)
    own += json.dumps(texts(language, "scripts"), ensure_ascii=False).encode()
    assert len(gzip.compress(own)) <= 120_000


def test_a_style_sheet_says_nothing_itself() -> None:
    contents = [
        said
        for path in sorted((bundled("static") / "css").rglob("*.css"))
        for said in re.findall(r"(?<![\w-])content:([^;}]*)", path.read_text(encoding="utf-8"))
    ]
    assert contents
    assert not [said for said in contents if re.search(r"[\"'][^\"']*[A-Za-z]", said)]
