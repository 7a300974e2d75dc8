"""The page's words: one catalogue a language, `static/strings/<language>.json`.

A catalogue holds the language's own name and its texts by id, in two groups: those that scripts
need travel with the page, the others stay on the server. `{name}` in a text is filled in. A text of
a language that has plural forms may be an object with "one" and "other". The only markup in texts
is <b>, <code> and <kbd>; links and the like are values.

What the library's records say is English. Another language's catalogue says it under an id of its
own (`Words.of`), and whatever it leaves out stays as the library says it.
"""

import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from markupsafe import Markup, escape
from starlette.requests import Request

from app.templating import bundled
from cbam.explain.verdict import Verdict, counted
from cbam.said import Said

DEFAULT = "en"
FIELD = "lang"  # in the address, and the cookie that remembers it
YEAR_S = 365 * 24 * 60 * 60
NAME = re.compile(r"\{(\w+)\}")
TAGS = re.compile(r"&lt;(/?(?:b|code|kbd))&gt;")

Text = str | dict[str, str]


@cache
def catalogue(language: str) -> dict[str, Any]:
    """A language's catalogue: its "name", and the groups "page" and "scripts" of texts."""
    file = bundled("static") / "strings" / f"{language}.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


@cache
def languages() -> dict[str, str]:
    """The languages that have a catalogue, with their own names; the default first."""
    found = sorted(file.stem for file in (bundled("static") / "strings").glob("*.json"))
    return {each: catalogue(each)["name"] for each in sorted(found, key=lambda x: x != DEFAULT)}


class Words:
    """The words of one language: `t("form.close")`, `t("search.count", count=3)`."""

    def __init__(self, language: str) -> None:
        self.language = language
        groups = catalogue(language)
        self.scripts: Mapping[str, Text] = groups["scripts"]
        self._texts: dict[str, Text] = {**groups["page"], **self.scripts}

    def __call__(self, id: str, **values: object) -> Markup:
        """The text called `id`; a `count` of 1 asks for its form for one. Values are escaped."""
        return _filled(self._texts[id], values)

    def of(self, id: str, english: str, **values: object) -> Markup:
        """What a record says: in `english`, unless this language has a text for it."""
        text = self._texts.get(id)
        return escape(english) if text is None else _filled(text, values)

    def said(self, about: str, said: Said) -> Markup:
        """A sentence of the library."""
        return self.of(f"{about}.{said.case}", said.text, **said.values)

    def headline(self, verdict: Verdict) -> Markup:
        """What several models' answers come to."""
        if not verdict.sure:
            case = "perhaps" if verdict.agree else "unsure"
        elif not verdict.agree:
            case = "disagree"
        else:
            case = {1: "alone", 2: "both"}.get(verdict.models, "all")
        words = self.either(verdict.words)
        return self.of(
            f"verdict.{case}", verdict.headline, words=words, number=self.number(verdict.models)
        )

    def warning(self, verdict: Verdict, classes: int) -> Markup:
        """What to add if the photo may show none of so many classes; else nothing."""
        text = verdict.warning(classes)
        if not text:
            return Markup("")
        return self.of("verdict.none-of-these", text, number=self.number(classes))

    def number(self, count: int) -> str:
        """A number in a sentence: as the library writes it, or in figures."""
        return counted(count) if self.language == DEFAULT else f"{count:,}"

    def either(self, names: Iterable[object]) -> Markup:
        """ "a, b or c"."""
        return self._joined(list(names), "words.or")

    def listed(self, names: Iterable[object]) -> Markup:
        """ "a, b and c"."""
        return self._joined(list(names), "list.and")

    def _joined(self, names: list[object], last: str) -> Markup:
        *others, end = names
        return self(last).join(filter(None, (Markup(", ").join(map(escape, others)), escape(end))))


@cache
def words(language: str) -> Words:
    """The words of a language that has a catalogue."""
    return Words(language)


def _filled(text: Text, values: Mapping[str, object]) -> Markup:
    """The text with its values, as HTML."""
    if isinstance(text, dict):
        text = text["one" if values.get("count") == 1 else "other"]
    safe = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    safe = TAGS.sub(r"<\1>", safe.replace('"', "&quot;"))
    return Markup(NAME.sub(lambda name: str(escape(values[name[1]])), safe))


def language_of(request: Request) -> str:
    """The language to answer in: the address's, the remembered one, or the reader's favourite."""
    for chosen in (request.query_params.get(FIELD), request.cookies.get(FIELD)):
        if chosen in languages():
            return chosen
    return asked_for(request)


def asked_for(request: Request) -> str:
    """The language that the request itself asks for. The page's script asks for its page's."""
    return preferred(request.headers.get("accept-language", ""), list(languages()))


def preferred(header: str, known: list[str]) -> str:
    """The best of the `known` languages by Accept-Language (RFC 9110, section 12.5.4).

    A region's range asks for its language: "ko-KR" for "ko". Of several ranges of one language the
    greatest weight counts. If none of them is wanted it is the first one.
    """
    weights: dict[str, float] = {}
    for part in header.lower().split(","):
        tag, _, parameter = part.strip().partition(";")
        name, _, number = parameter.strip().partition("=")
        tag = tag.strip()
        try:
            weight = float(number) if name.strip() == "q" else 1.0
        except ValueError:
            continue
        if tag and 0 <= weight <= 1:
            main = tag.partition("-")[0]
            weights[main] = max(weight, weights.get(main, 0.0))
    rest = weights.get("*", 0.0)
    best = max(known, key=lambda each: weights.get(each, rest))  # the first of equals
    return best if weights.get(best, rest) > 0 else known[0]


def headers(request: Request, language: str) -> dict[str, str]:
    """What an answer in this language says of it; a language that was chosen is remembered."""
    found = {"Content-Language": language}
    if request.query_params.get(FIELD) == language:
        path = request.scope.get("root_path", "").rstrip("/") + "/"
        secure = "; Secure" if request.url.scheme == "https" else ""
        found["Set-Cookie"] = (
            f"{FIELD}={language}; Path={path}; Max-Age={YEAR_S}; SameSite=Lax; HttpOnly{secure}"
        )
    return found
