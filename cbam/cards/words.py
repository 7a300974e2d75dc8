"""Everyday words for ImageNet's classes: what people type and say, such as "cat" for five of them.

`words.tsv` names the word of a class by its WordNet id, whatever model or data set it stands in;
classes without one go by their own labels.
"""

from collections.abc import Sequence
from functools import cache
from importlib.resources import files


@cache
def words() -> dict[str, str]:
    """WordNet id -> everyday word."""
    lines = (files("cbam.cards") / "words.tsv").read_text(encoding="utf-8").splitlines()
    return dict(line.split("\t") for line in lines)


def grouped(folders: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Everyday word -> indices of its classes, of the classes with these WordNet ids."""
    found: dict[str, list[int]] = {}
    for index, folder in enumerate(folders):
        if folder in words():
            found.setdefault(words()[folder], []).append(index)
    return {word: tuple(indices) for word, indices in found.items()}
