"""A sentence in English together with what it is made of, so that others can say it in theirs."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Said:
    """A sentence about something that was measured."""

    case: str  # which of its maker's sentences it is
    values: Mapping[str, str]  # its numbers by name, as the text has them
    text: str


def said(case: str, text: str, **values: str) -> Said:
    """The sentence `text` with `values` in place of its `{names}`."""
    return Said(case, values, text.format(**values))
