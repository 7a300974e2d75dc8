"""Search: the classes that a text may mean, in the library, over REST and on the command line."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from app_fixtures import assert_problem
from fastapi.testclient import TestClient
from timm.data import ImageNetInfo
from typer.testing import CliRunner

import cbam
from app.cli.main import app as command
from cbam.cards.card import Card, write_card
from cbam.cards.search import LIMIT, plain, synonyms
from cbam.errors import UnknownName
from cbam.model import Model

pytest_plugins = ["app_fixtures"]

# tabby, Siamese cat, tench, toaster, tiger cat, ice bear, lesser panda
FOLDERS = (
    *("n02123045", "n02123597", "n01440764", "n04442312", "n02123159", "n02134084"),
    "n02509815",
)
LABELS = (
    *("tabby", "Siamese cat", "tench", "toaster", "tiger cat", "ice bear"),
    "lesser panda",
)


@pytest.fixture
def card(make_model: Callable[..., Model]) -> Card:
    """Seven of ImageNet's classes."""
    return replace(make_model(labels=LABELS).card, folders=FOLDERS)


def targets(card: Card, text: str) -> list[str]:
    return [found.target for found in card.search(text)]


@pytest.mark.parametrize("text", ["Café crème", "CAFE-CREME", "  cafe   crème "])
def test_accents_case_and_punctuation_do_not_matter(text: str) -> None:
    assert plain(text) == "cafe creme"


def test_a_word_goes_first_then_labels_then_other_names(card: Card) -> None:
    # The word itself; labels with the word in them, the short one first; the class that only its
    # word gives away; last the lesser panda, which WordNet also calls "bear cat" and "cat bear".
    assert targets(card, "cat") == ["cat", "tiger cat", "Siamese cat", "tabby", "lesser panda"]
    word, *_, tabby, panda = card.search("cat")
    assert word.indices == (0, 1, 4)
    assert (tabby.indices, tabby.matched) == ((0,), "cat")
    assert panda.matched == "bear cat"


@pytest.mark.parametrize(
    ("text", "first", "matched"),
    [
        ("siam", "Siamese cat", ""),
        ("cat SIAM", "Siamese cat", ""),  # words in any order
        ("polar bear", "ice bear", "polar bear"),
        ("Thalarctos", "ice bear", "Thalarctos maritimus"),
        ("n02134084", "ice bear", "n02134084"),
        ("aste", "toaster", ""),
        ("tench", "tench", ""),
    ],
)
def test_a_class_is_found_by(card: Card, text: str, first: str, matched: str) -> None:
    found = card.search(text)[0]
    assert (found.label, found.matched) == (first, matched)


def test_the_beginning_of_a_name_goes_before_its_middle(card: Card) -> None:
    card = replace(card, labels=("stone", "tone", "a tone deaf cat", "x", "y", "z", "tones"))
    card = replace(card, folders=())
    assert targets(card, "tone") == ["tone", "a tone deaf cat", "tones", "stone"]


@pytest.mark.parametrize("text", ["", "  ", "-!", "giraffe"])
def test_nothing_is_found_for_an_empty_or_foreign_text(card: Card, text: str) -> None:
    assert card.search(text) == ()


def test_as_many_are_found_as_asked_for() -> None:
    card = cbam.available()["resnet50-imagenet"]
    everything = card.search("dog", None)
    assert len(everything) > 100
    assert card.search("dog") == everything[:LIMIT]
    assert card.search("dog", 3) == everything[:3]


def test_whatever_is_found_is_a_target_that_means_it() -> None:
    for card in cbam.available().values():
        for letter in "abcdefghijklmnopqrstuvwxyz":
            for found in card.search(letter, None):
                assert card.classes(found.target) == found.indices


def test_labels_that_are_not_unique_get_a_target_that_is(card: Card) -> None:
    twice = replace(card, labels=(*LABELS[:5], "crane", "Crane"))
    assert targets(twice, "crane") == ["crane", "n02509815"]
    bare = replace(card, labels=("a", "a"), folders=())
    assert [each.target for each in bare.search("a")] == ["a", "1"]
    assert [each.indices for each in bare.search("a")] == [(0,), (1,)]


def test_a_target_may_be_a_synonym_and_lack_accents(card: Card) -> None:
    assert card.classes("Polar-Bear") == (5,)
    assert card.classes("SIAMESE  cat") == (1,)
    with pytest.raises(UnknownName, match=r"'siames'\. Did you mean Siamese cat\?"):
        card.classes("siames")
    accented = replace(card, labels=("crêpe", "C++", "C", "+", "x", "y", "z"), folders=())
    assert accented.classes("crepe") == (0,)
    assert [accented.classes(name) for name in ("c++", "c", "+")] == [(1,), (2,), (3,)]
    with pytest.raises(UnknownName):
        accented.classes("!")


def test_a_synonym_of_two_classes_is_no_target(card: Card) -> None:
    assert "catamount" in synonyms()["n02125311"]  # cougar
    assert "catamount" in synonyms()["n02127052"]  # lynx
    card = replace(card, labels=("cougar", "lynx"), folders=("n02125311", "n02127052"))
    assert targets(card, "catamount") == ["cougar", "lynx"]
    with pytest.raises(UnknownName, match="Did you mean cougar, lynx"):
        card.classes("catamount")


def test_synonyms_are_wordnets_as_timm_has_them() -> None:
    timms = ImageNetInfo("imagenet-1k")
    ids = timms.label_names()
    assert set(synonyms()) == set(ids)
    for folder in ids:
        theirs = timms.label_name_to_description(folder, detailed=False)
        assert ", ".join(synonyms()[folder]) == theirs


def test_wordnets_notice_stays_with_its_names() -> None:
    text = (Path(cbam.__file__).parent / "cards" / "synonyms.tsv").read_text(encoding="utf-8")
    for line in (
        "# WordNet 3.0 Copyright 2006 by Princeton University. All rights reserved.",
        "# Permission to use, copy, modify and distribute this software and",
        '# THIS SOFTWARE AND DATABASE IS PROVIDED "AS IS" AND PRINCETON',
    ):
        assert line in text.splitlines()
    assert "WordNet 3.0" in (Path(cbam.__file__).parents[1] / "NOTICE").read_text(encoding="utf-8")


def test_the_api_finds_classes_of_a_family(client: TestClient) -> None:
    answer = client.get("/api/v1/classes", params={"q": "B"}).json()
    assert answer == {
        "family": "tiny",
        "total": 1,
        "classes": [
            {
                "target": "b",
                "label": "b",
                "indices": [1],
                "folder": "b",
                "synonyms": [],
                "matched": "",
            }
        ],
    }
    assert client.get("/api/v1/classes").json()["classes"] == []


def test_the_api_counts_what_it_does_not_list(
    card: Card, make_network: Callable[..., object], serve: Callable[..., TestClient]
) -> None:
    client = serve()
    client.app.state.engine.cards["tiny-none"] = card  # type: ignore[attr-defined]
    answer = client.get("/api/v1/classes", params={"q": "cat", "limit": 2}).json()
    assert answer["total"] == 5
    assert [each["target"] for each in answer["classes"]] == ["cat", "tiger cat"]
    assert answer["classes"][0]["indices"] == [0, 1, 4]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"family": "gone"}, ("gone", "tiny")),
        ({"limit": "0"}, ("limit", "0")),
        ({"q": "x" * 201}, ("q",)),
    ],
)
def test_a_search_that_cannot_be_made_says_why(
    client: TestClient, query: dict[str, str], words: tuple[str, ...]
) -> None:
    assert_problem(client.get("/api/v1/classes", params=query), 422, *words)


def test_classes_are_searched_off_the_event_loop(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    loops: list[bool] = []
    real = Card.search

    def spy(self: Card, text: str, limit: int | None = LIMIT) -> object:
        try:
            asyncio.get_running_loop()
            loops.append(True)
        except RuntimeError:
            loops.append(False)
        assert threading.current_thread() is not threading.main_thread()
        return real(self, text, limit)

    monkeypatch.setattr(Card, "search", spy)
    assert client.get("/api/v1/classes", params={"q": "a"}).status_code == 200
    assert loops == [False]


def test_the_command_lists_what_a_text_may_mean(card: Card, tmp_path: Path) -> None:
    folder = str(write_card(replace(card, folder=tmp_path / "m")).folder)
    shown = CliRunner().invoke(command, ["models", "show", folder, "--search", "polar"])
    assert shown.exit_code == 0, shown.output
    assert "ice bear" in shown.output
    assert "n02134084" in shown.output
    none = CliRunner().invoke(command, ["models", "show", folder, "--search", "giraffe"])
    assert isinstance(none.exception, UnknownName)
