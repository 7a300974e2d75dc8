"""Find classes by what people type: part of a name, a synonym, an everyday word, a WordNet id."""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

LIMIT = 12  # results, unless more are asked for: what fits below a field


@dataclass(frozen=True)
class Found:
    """A class, or an everyday word that means several."""

    target: str  # names it wherever a target is asked for: its label, unless that is ambiguous
    label: str
    indices: tuple[int, ...]
    folder: str = ""  # of a class: what data sets call it, of ImageNet its WordNet id
    synonyms: tuple[str, ...] = ()
    matched: str = ""  # the name that the text was found in, if it is not the label


@dataclass(frozen=True)
class Entry:
    """What can be found, and under which names; those that matter most come first."""

    found: Found
    names: tuple[str, ...]
    plain: tuple[str, ...]  # the same names as they are compared


@cache
def synonyms() -> dict[str, tuple[str, ...]]:
    """WordNet id -> its names in WordNet 3.0, for ImageNet's classes; see synonyms.tsv."""
    text = (files("cbam.cards") / "synonyms.tsv").read_text(encoding="utf-8")
    rows = (line.split("\t") for line in text.splitlines() if not line.startswith("#"))
    return {folder: tuple(names.split("; ")) for folder, names in rows}


def plain(text: str) -> str:
    """A text without accents, case and punctuation: "Café-crème " -> "cafe creme"."""
    letters = unicodedata.normalize("NFKD", text.casefold())
    bare = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return " ".join("".join(letter if letter.isalnum() else " " for letter in bare).split())


def entries(
    labels: Sequence[str],
    folders: Sequence[str],
    words: Mapping[str, tuple[int, ...]],
    classes: Callable[[str], tuple[int, ...]],
) -> tuple[Entry, ...]:
    """Everything that a search can find: the words that mean several classes, then each class.

    `classes` says which classes a text means as a target.
    """
    several = {word: at for word, at in words.items() if len(at) > 1 and classes(word) == at}
    word_of = {index: word for word, at in words.items() for index in at}

    def entry(found: Found, *names: str) -> Entry:
        return Entry(found, names, tuple(plain(name) for name in names))

    found = [entry(Found(word, word, at), word) for word, at in several.items()]
    for index, (label, folder) in enumerate(zip(labels, folders, strict=False)):
        sure = (name for name in (label, folder) if classes(name) == (index,))
        others = tuple(name for name in synonyms().get(folder, ()) if plain(name) != plain(label))
        own = Found(next(sure, str(index)), label, (index,), folder, others)
        found.append(entry(own, label, word_of.get(index, label), *others, folder))
    return tuple(found)


def search(known: Sequence[Entry], text: str, limit: int | None = LIMIT) -> tuple[Found, ...]:
    """What a text may mean, the likeliest first; accents, case and punctuation do not matter.

    A name that equals the text goes first. Then come names that hold it as whole words, that begin
    with it, that have words which begin with its words, and that hold it anywhere. Labels go before
    words, words before synonyms, short names before long ones. Nothing for an empty text.
    """
    asked = plain(text)
    ranked: list[tuple[tuple[int, int, int, int], Found]] = []
    for order, entry in enumerate(known if asked else ()):
        ranks = [(_rank(asked, name), place) for place, name in enumerate(entry.plain)]
        if len(ranks) > 1:  # a class is one of its word's meanings, not the word itself
            ranks[1] = (max(ranks[1][0], WORDS), 1)
        rank, place = min(ranks)
        if rank < NOWHERE:
            name = entry.names[place] if place else ""
            length = len(entry.plain[place])
            ranked.append(
                ((rank, min(place, 2), length, order), replace(entry.found, matched=name))
            )
    ranked.sort(key=lambda item: item[0])
    return tuple(found for _, found in ranked[:limit])


EQUAL, WORDS, START, STARTS, INSIDE, NOWHERE = range(6)


def _rank(asked: str, name: str) -> int:
    """How well a name fits a text, both plain: the lower, the better."""
    if asked == name:
        return EQUAL
    if f" {asked} " in f" {name} ":
        return WORDS
    if name.startswith(asked):
        return START
    words = name.split()
    if all(any(word.startswith(each) for word in words) for each in asked.split()):
        return STARTS
    if len(asked) > 2 and asked in name:
        return INSIDE
    return NOWHERE
