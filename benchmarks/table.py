"""The table: rows that are ratios, with their targets, as Markdown and as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

import numpy as np

SECTIONS = {
    "peers": "Grad-CAM beside the peers' default use, and beside a plain forward pass",
    "methods": "Each method beside a plain forward pass, and beside the grad-cam package's own",
    "service": "Requests a second over HTTP beside the engine alone",
    "memory": "Peak resident memory, each in a process of its own",
}


@dataclass(frozen=True)
class Side:
    """What one side of a comparison measured, round by round."""

    name: str
    values: tuple[float, ...] = ()
    unit: str = "ms"

    @property
    def shown(self) -> str:
        """The median: context, not a result."""
        return f"{median(self.values):.3g} {self.unit}" if self.values else ""


@dataclass(frozen=True)
class Target:
    """What a ratio should be: a goal of the project."""

    limit: float
    sign: str

    def met(self, ratio: float) -> bool:
        """Whether a ratio is on the right side."""
        return ratio >= self.limit if self.sign == "≥" else ratio <= self.limit

    def __str__(self) -> str:
        return f"{self.sign} {self.limit:g}"


at_least = partial(Target, sign="≥")  # more is better
at_most = partial(Target, sign="≤")


@dataclass(frozen=True)
class Row:
    """`upper` / `lower`, or why there is no such ratio."""

    section: str  # a key of SECTIONS
    what: str
    upper: Side
    lower: Side
    target: Target | None = None
    difference: float | None = None  # largest between both sides' maps, scaled to [0, 1]
    missing: str = ""  # "not installed", "failed: ..."; then there are no numbers

    @property
    def ratios(self) -> list[float]:
        """One a round: both sides ran right after each other. Empty if the row is missing."""
        if self.missing:
            return []
        return [a / b for a, b in zip(self.upper.values, self.lower.values, strict=True)]

    @property
    def ratio(self) -> float | None:
        """The median of the rounds' ratios; None if the row is missing."""
        return median(self.ratios) if self.ratios else None

    @property
    def spread(self) -> tuple[float, float] | None:
        """What the middle half of the rounds lies between; None of fewer than two rounds."""
        if len(self.ratios) < 2:
            return None
        low, high = np.percentile(self.ratios, (25, 75))
        return float(low), float(high)

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without a target or a ratio."""
        return self.target.met(self.ratio) if self.target and self.ratio else None

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "section": self.section,
            "what": self.what,
            "sides": [vars(self.upper), vars(self.lower)],
            "ratio": self.ratio,
            "spread": self.spread,
            "target": None if self.target is None else str(self.target),
            "met": self.met,
            "largest_map_difference": self.difference,
            "missing": self.missing or None,
        }

    def cells(self) -> list[str]:
        """As TITLES has them."""
        ratio = f"*{self.missing}*" if self.ratio is None else f"**{_short(self.ratio)}**"
        met = "" if self.met is None else ("met" if self.met else "missed")
        return [
            self.what,
            f"{self.upper.name} / {self.lower.name}",
            ratio,
            "–".join(map(_short, self.spread or ())),
            "" if self.target is None else str(self.target),
            met,
            " / ".join(filter(None, (self.upper.shown, self.lower.shown))),
            "" if self.difference is None else f"{self.difference:.0e}",
        ]


TITLES = ("what", "A / B", "ratio", "middle half", "target", "", "A / B here", "max map difference")


@dataclass(frozen=True)
class Report:
    """The whole table, and where it was measured."""

    facts: Mapping[str, str]
    rows: Sequence[Row] = field(default_factory=list)

    @property
    def failed(self) -> list[Row]:
        """Rows that should have been there."""
        return [row for row in self.rows if row.missing.startswith("failed")]

    def to_markdown(self) -> str:
        """A heading and a table a section, after a list of where it was measured."""
        lines = [f"* {name}: {value}" for name, value in self.facts.items()]
        for section, title in SECTIONS.items():
            rows = [row for row in self.rows if row.section == section]
            if rows:
                lines += ["", f"### {title}", "", _line(TITLES), _line(["---"] * len(TITLES))]
                lines += [_line(row.cells()) for row in rows]
        return "\n".join([*lines, ""])

    def to_json(self) -> str:
        """Facts and rows, every round's value included."""
        content = {"facts": dict(self.facts), "rows": [row.as_dict() for row in self.rows]}
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _short(ratio: float) -> str:
    """1.034, 12.3, 2450: three digits, but never fewer than the target's two behind the point."""
    if ratio < 10:
        return f"{ratio:.2f}" if ratio >= 1.1 else f"{ratio:.3f}"
    return f"{ratio:.1f}" if ratio < 100 else f"{ratio:.0f}"
