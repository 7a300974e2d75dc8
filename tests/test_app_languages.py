"""Which language the page is in, and that it is in that one altogether."""

import json
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any

import pytest
from app_fixtures import form_of
from fastapi.testclient import TestClient

from app.words import DEFAULT, languages, preferred, words
from cbam import ATTENTION
from cbam.explain.verdict import Verdict
from cbam.said import said

pytest_plugins = ["app_fixtures"]

VARIES = "X-Fragment, Accept-Language, Cookie"
# Two English words beside each other, neither of them a name: a phrase that was not translated.
ENGLISH = re.compile(r"\b(?:the|of|is|are|and|a|an|to|in|its|this|that|for|not|with)\b [a-z]+")


class Text(HTMLParser):
    """What a reader may see or hear of a page, without code and what is marked as English."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.said: list[str] = []
        self.attributes: dict[str, dict[str, str]] = {}
        self._silent: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.attributes[given.get("id", tag)] = given
        if tag in ("script", "style", "code", "pre", "template") or (
            given.get("lang") == "en" and tag != "html"
        ):
            self._silent.append(tag)
        elif not self._silent:
            names = ("aria-label", "alt", "title", "placeholder", "data-label")
            self.said += [given[name] for name in names if given.get(name)]

    def handle_endtag(self, tag: str) -> None:
        if self._silent and self._silent[-1] == tag:
            self._silent.pop()

    def handle_data(self, data: str) -> None:
        if not self._silent and data.strip():
            self.said.append(" ".join(data.split()))

    @property
    def english(self) -> list[str]:
        return [each for each in self.said if ENGLISH.search(each)]


def send(client: TestClient, jpeg: bytes, headers: Mapping[str, str] = {}, **fields: str) -> Any:
    body, kind = form_of(jpeg, top_k="10", family="tiny", **fields)
    return client.post("/", content=body, headers={"Content-Type": kind, **headers})


@pytest.fixture
def visitor(client: TestClient) -> TestClient:
    """One of the running app's visitors, with cookies of its own."""
    visitor = TestClient(client.app, raise_server_exceptions=False)
    visitor.portal = client.portal  # the event loop that the app runs in
    return visitor


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("ko", "ko"),
        ("ko-KR,ko;q=0.9,en-US;q=0.8,en;q=0.7", "ko"),
        ("en-US,en;q=0.9,ko;q=0.8", "en"),
        ("en;q=0.3, ko;q=0.4", "ko"),
        ("de, fr;q=0.9, ko;q=0.1", "ko"),
        ("de, *;q=0.1", "en"),
        ("en;q=0, *", "ko"),
        ("ko;q=0", "en"),
        ("ko;q=0, en;q=0", "en"),
        ("KO-kr ; q=1", "ko"),
        ("ko;q=high, ;;, =, en;q=2", "en"),
        ("*", "en"),
    ],
)
def test_the_readers_favourite_of_our_languages_is_taken(header: str, language: str) -> None:
    assert preferred(header, ["en", "ko"]) == language


def test_the_address_goes_before_what_is_remembered_and_that_before_the_browser(
    visitor: TestClient,
) -> None:
    def language(path: str, accept: str = "") -> tuple[str, bool]:
        answer = visitor.get(path, headers={"Accept-Language": accept})
        assert answer.headers["vary"] == VARIES
        found = answer.headers["content-language"]
        assert Text(answer.text).attributes["html"]["lang"] == found
        return found, "set-cookie" in answer.headers

    assert language("/") == ("en", False)
    assert language("/", "ko") == ("ko", False)
    assert language("/?lang=en", "ko") == ("en", True)
    assert language("/", "ko") == ("en", False)  # remembered
    assert language("/?lang=ko") == ("ko", True)
    assert language("/") == ("ko", False)
    assert language("/?lang=xx") == ("ko", False)
    assert visitor.get("/docs").headers["content-language"] == "ko"


def test_the_choice_is_kept_for_this_service_alone(visitor: TestClient) -> None:
    cookie = visitor.get("/?lang=ko").headers["set-cookie"]
    assert cookie.startswith("lang=ko; Path=/; Max-Age=")
    assert {"SameSite=Lax", "HttpOnly"} <= set(cookie.split("; "))


def test_every_language_links_to_the_others(visitor: TestClient) -> None:
    html = visitor.get("/").text
    for language, name in languages().items():
        assert re.search(
            rf'<a href="\?lang={language}"[^>]* lang="{language}"[^>]*>{name}</a>', html
        )


def test_a_fragment_is_in_the_language_of_its_page(visitor: TestClient, jpeg: bytes) -> None:
    visitor.get("/?lang=en")  # another tab
    headers = {"X-Fragment": "answer", "Accept-Language": "ko"}
    answer = send(visitor, jpeg, headers)
    assert answer.headers["content-language"] == "ko"
    assert words("ko")("compare.another") in answer.text


def test_a_form_without_scripts_is_answered_in_the_language_of_its_address(
    visitor: TestClient, jpeg: bytes
) -> None:
    body, kind = form_of(jpeg, family="tiny", lang="ko")
    answer = visitor.post("/?lang=ko", content=body, headers={"Content-Type": kind})
    assert (answer.status_code, answer.headers["content-language"]) == (200, "ko")


@pytest.mark.parametrize("gates", ["", "open"])
def test_a_page_in_another_language_says_nothing_in_english(
    visitor: TestClient, jpeg: bytes, gates: str
) -> None:
    fields = {"gates": gates} if gates else {}
    answer = send(visitor, jpeg, {"Accept-Language": "ko"}, **fields)
    assert answer.status_code == 200
    page = Text(answer.text)
    assert page.attributes["html"]["lang"] == "ko"
    assert not page.english
    # The scripts' words come along, and no second copy of the server's.
    sent = json.loads(re.search(r'id="words">(.*?)</script>', answer.text)[1])  # type: ignore[index]
    assert sent == words("ko").scripts


@pytest.mark.parametrize("language", languages())
def test_thousands_are_set_off_in_every_language(visitor: TestClient, language: str) -> None:
    text = Text(visitor.get(f"/?lang={language}").text)
    long = re.compile(r"(?<![\d.])(?!(?:19|20)\d\d\b)\d{4,}")  # of what is no year
    assert not [each for each in text.said if long.search(each)]


def test_an_error_is_named_in_the_pages_language_and_told_in_english(visitor: TestClient) -> None:
    page = Text(send(visitor, b"no photo", {"Accept-Language": "ko"}).text)
    assert "읽을 수 없는 파일입니다" in page.said
    assert not page.english  # the server's sentence says that it is English


def test_the_api_answers_in_english(visitor: TestClient, jpeg: bytes) -> None:
    files = {"image": ("x.jpg", jpeg)}
    first, second = (
        visitor.post("/api/v1/explain", files=files, headers={"Accept-Language": each}).json()
        for each in ("en", "ko")
    )
    assert first["verdict"] == second["verdict"]


def test_the_file_to_take_away_is_in_the_language_that_is_asked_for(
    visitor: TestClient, jpeg: bytes
) -> None:
    for language, headers in (("en", {}), ("ko", {"Accept-Language": "ko"})):
        answer = visitor.post(
            "/api/v1/bundle",
            files={"image": ("x.jpg", jpeg)},
            data={"format": "html", "gates": "open"},
            headers=headers,
        )
        page = Text(answer.text)
        assert answer.headers["content-language"] == page.attributes["html"]["lang"] == language
        assert bool(page.english) == (language == DEFAULT)


# Texts that are filled in


def test_values_are_text_and_only_the_catalogues_marks_are_html() -> None:
    t = words("en")
    assert t("answer.says", title="<i>", word="<b>x</b>", percent=1) == (
        "&lt;i&gt; says <b>&lt;b&gt;x&lt;/b&gt;</b> (1)"
    )
    assert t("search.count", count=1) == "1 class"
    assert t("search.count", count=2) == "2 classes"
    with pytest.raises(KeyError):
        t("search.some", shown=1)
    with pytest.raises(KeyError):
        t("no.such.text")


def test_what_a_language_leaves_out_is_said_as_the_library_says_it() -> None:
    for language in languages():
        assert words(language).of("attention.toy.intro", "One <toys>.") == "One &lt;toys&gt;."
        assert words(language).said("judged", said("new", "New: {a}.", a="1")) == "New: 1."
    intro = ATTENTION["se"].intro
    assert words("en").of("attention.se.intro", intro) == intro
    assert words("ko").of("attention.se.intro", intro) != intro


@pytest.mark.parametrize("names", [("a",), ("a", "b"), ("a", "b", "c")])
@pytest.mark.parametrize("models", [1, 2, 3])
@pytest.mark.parametrize("sure", [True, False])
def test_a_headline_names_what_was_said_in_every_language(
    names: tuple[str, ...], models: int, sure: bool
) -> None:
    if len(names) > models:
        return
    verdict = Verdict(models, names, sure, none_of_these=True)
    assert words("en").headline(verdict) == verdict.headline
    assert words("en").warning(verdict, 1000) == verdict.warning(1000)
    headline = words("ko").headline(verdict)
    assert all(name in headline for name in names)
    assert not ENGLISH.search(headline + words("ko").warning(verdict, 1000))
    assert "1,000" in words("ko").warning(verdict, 1000)


def test_lists_end_as_the_language_ends_them() -> None:
    assert words("en").either(["a", "b", "<c>"]) == "a, b or &lt;c&gt;"
    assert words("en").listed(["a", "b", "c"]) == "a, b and c"
    assert words("ko").either(["a"]) == "a"
    assert words("ko").either(["a", "b"]) == "a 또는 b"
