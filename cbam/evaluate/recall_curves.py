"""Precision against recall, class by class: as data, and as an SVG without any plotting package."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, model_validator

from cbam.data.text import read_text, sentence
from cbam.errors import BadData
from cbam.evaluate.detection import RECALLS, Precision

Curves = Mapping[str, Mapping[str, Any]]  # detector or class -> its curve

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")  # Okabe and Ito 2008
DASHES = ("", "7 3", "2 3", "9 3 2 3", "1 5", "12 4")  # told apart in grey, too
PANEL, GAP, LEFT, TOP, ACROSS = 190, 54, 46, 34, 3  # px of a panel, between panels, panels a row


def curve_data(found: Mapping[str, Precision]) -> dict[str, Any]:
    """Detectors' curves at an IoU of 0.5, by the detectors' names, as JSON takes them.

    Precision is the best at this recall or a higher one, as COCO has it; 0 where none is reached.
    """
    return {
        "iou": 0.5,
        "recall": [round(float(value), 2) for value in RECALLS],
        "detectors": {
            name: {
                label: {
                    "ap50": round(each.of_class[label], 4),
                    "precision": [round(float(value), 4) for value in curve],
                }
                for label, curve in each.curves.items()
            }
            for name, each in found.items()
        },
    }


class _Curve(BaseModel):
    ap50: float
    precision: list[float]


class _CurveFile(BaseModel):
    """What `curve_data` gives, as it is read again."""

    iou: float
    recall: list[float]
    detectors: dict[str, dict[str, _Curve]]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        curves = [each for of_one in self.detectors.values() for each in of_one.values()]
        if any(len(each.precision) != len(self.recall) for each in curves):
            raise ValueError("a curve has another number of values than 'recall'")
        return self


def read_curves(path: Path) -> dict[str, Any]:
    """What `curve_data` gave, from a JSON file. Raises BadData with the reason."""
    try:
        return _CurveFile.model_validate_json(read_text(path)).model_dump()
    except (OSError, ValueError) as error:
        raise BadData(
            f"{path} holds no curves, as `cbam-lens evaluate -o curves.json` writes them: "
            f"{sentence(error)}."
        ) from error


def curve_picture(data: Mapping[str, Any]) -> str:
    """What `curve_data` gave as an SVG: a panel for each class, a line for each detector."""
    found: Mapping[str, Curves] = data["detectors"]
    recall = data["recall"]
    labels = list(dict.fromkeys(label for curves in found.values() for label in curves))
    rows = -(-len(labels) // ACROSS)
    width = LEFT + ACROSS * (PANEL + GAP)
    height = TOP + rows * (PANEL + GAP + 14 * len(found)) + 20
    panels = "\n".join(
        _panel(
            label,
            {name: each[label] for name, each in found.items() if label in each},
            recall,
            LEFT + number % ACROSS * (PANEL + GAP),
            TOP + number // ACROSS * (PANEL + GAP + 14 * len(found)),
        )
        for number, label in enumerate(labels)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="11" role="img">\n'
        "<title>Precision against recall at an IoU of 0.5, class by class</title>\n"
        f'<rect width="{width}" height="{height}" fill="#fff"/>\n{panels}\n</svg>\n'
    )


def _panel(label: str, found: Curves, recall: Sequence[float], x: int, y: int) -> str:
    drawn = [
        f'<text x="{x}" y="{y - 10}" font-weight="bold" fill="#222">{escape(label)}</text>',
        f'<text x="{x + PANEL}" y="{y - 10}" text-anchor="end" fill="#444">'
        "precision over recall</text>",
    ]
    for share in (0.0, 0.5, 1.0):
        across, down = x + PANEL * share, y + PANEL * (1 - share)
        drawn += [
            f'<path d="M{x} {down:g}h{PANEL}M{across:g} {y}v{PANEL}" stroke="#ddd"/>',
            f'<text x="{x - 6}" y="{down + 4:g}" text-anchor="end" fill="#444">{share:g}</text>',
            f'<text x="{across:g}" y="{y + PANEL + 15}" text-anchor="middle" '
            f'fill="#444">{share:g}</text>',
        ]
    for number, (name, each) in enumerate(found.items()):
        dash = DASHES[number % len(DASHES)]
        stroke = f'stroke="{COLOURS[number % len(COLOURS)]}" stroke-width="2"'
        stroke += f' stroke-dasharray="{dash}"' if dash else ""
        at = y + PANEL + 32 + 14 * number
        drawn += [
            f'<polyline points="{_points(recall, each["precision"], x, y)}" fill="none" {stroke}/>',
            f'<path d="M{x} {at - 4}h22" {stroke}/>',
            f'<text x="{x + 28}" y="{at}" fill="#222">{escape(name)} {each["ap50"]:.1%}</text>',
        ]
    return "\n".join(drawn)


def _points(recall: Sequence[float], curve: Sequence[float], x: int, y: int) -> str:
    """A curve in a panel whose upper left corner is (x, y), up to the greatest recall reached."""
    reached = [(at, value) for at, value in zip(recall, curve, strict=True) if value > 0]
    return " ".join(f"{x + PANEL * at:.1f},{y + PANEL * (1 - value):.1f}" for at, value in reached)
