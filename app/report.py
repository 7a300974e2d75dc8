"""A report: what cards say of models, and what these say of some photos, as one HTML file.

Every number is on a card, or is of a photo that was asked for the report.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup
from PIL import Image

from app import tables
from app.tables import Table
from app.templating import bundled, templates, uri
from cbam import __version__
from cbam.cards.card import Card
from cbam.cards.detector import DetectorCard
from cbam.cards.reliance import reliance
from cbam.evaluate.recall_curves import curve_picture
from cbam.explain.detection import Detected
from cbam.explain.explanation import Explanation
from cbam.explain.verdict import counted, verdict
from cbam.sheets import compare_sheet, detect_sheet


@dataclass(frozen=True)
class Part:
    """One subject: a heading, sentences, a table, and a drawing."""

    title: str
    says: tuple[str, ...] = ()
    table: Table | None = None
    drawing: Markup | None = None  # SVG of ours

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.says or self.drawing or (self.table and self.table[1]))


@dataclass(frozen=True)
class Chapter:
    """A family: what is known of all its members."""

    title: str
    data: str  # what they were trained on
    licence: str
    parts: tuple[Part, ...]
    commands: tuple[str, ...]  # that measured it


@dataclass(frozen=True, eq=False)
class Asked:
    """What models and detectors said of one photo."""

    name: str
    explanations: Sequence[Sequence[Explanation]] = field(default=())  # family by family
    found: Sequence[Detected] = field(default=())


def classifiers(cards: Mapping[str, Card]) -> Chapter:
    """What the cards of one family of classifiers say."""
    members = [*cards.values()]
    parts = (
        Part("How often they are right, where their heat maps point", (), tables.measured(cards)),
        Part("Are differences more than chance?", (INTERVALS,), tables.differences(cards)),
        Part("Heat maps against a map that sees no photo", (), tables.boxes(cards)),
        Part("Heat maps at several thresholds, and minus plain's", (), tables.analysis(cards)),
        Part(
            "What the gates are for",
            tuple(f"{each.title}: {said}" for each in members if (said := reliance(each))),
            tables.held_gates(cards),
        ),
        Part("Do the answers depend on what the maps show?", (), tables.faithfulness(cards)),
        Part("How far probabilities can be trusted", (), tables.trust(cards)),
    )
    return _chapter(members, parts)


def detectors(cards: Sequence[DetectorCard], curves: Mapping[str, Any] | None = None) -> Chapter:
    """What the cards of one family of detectors say. `curves`: as `curve_data` gives them."""
    drawing = None
    if curves is not None:
        every = curves["detectors"]
        shown = {card.name: every[card.name] for card in cards if card.name in every}
        drawing = Markup(curve_picture({**curves, "detectors": shown})) if shown else None
    parts = (
        Part("How well they find, and heat maps in their boxes", (), tables.found(cards)),
        Part("Are differences more than chance?", (INTERVALS,), tables.found_differences(cards)),
        Part("Class by class, and by the objects' size", (), tables.found_classes(cards)),
        Part("Precision over recall", (), None, drawing),
    )
    return _chapter(cards, parts)


INTERVALS = (
    "In brackets the 95 % interval of the difference on the same photos. Where it holds 0, the "
    "difference may be chance."
)


def _chapter(members: Sequence[Card] | Sequence[DetectorCard], parts: Sequence[Part]) -> Chapter:
    commands = dict.fromkeys(
        values["command"]
        for card in members
        for values in card.metrics.values()
        if "command" in values
    )
    first = members[0]
    shown = tuple(each for each in parts if not each.empty and _has_rows(each))
    return Chapter(first.family_title, first.data, first.licence, shown, tuple(commands))


def _has_rows(part: Part) -> bool:
    """Whether a part that explains a table has rows to explain."""
    return part.says != (INTERVALS,) or bool(part.table and part.table[1])


def html_file(chapters: Sequence[Chapter], photos: Sequence[Asked] = ()) -> str:
    """The report as one HTML file: it needs no script, no other file and no network."""
    titles = ", ".join(dict.fromkeys(each.title for each in chapters))
    context = {
        "values": (bundled("static") / "css" / "values.css").read_text(encoding="utf-8"),
        "made_by": __version__,
        "title": f"{titles} · a report of CBAM Lens",
        "titles": titles,
        "chapters": chapters,
        "counted": f"{counted(len(photos))} photo{'s' if len(photos) > 1 else ''}",
        "photos": [{"name": each.name, "answers": [*_answers(each)]} for each in photos],
    }
    return templates().get_template("report_file.html").render(context)


def _answers(asked: Asked) -> list[dict[str, Any]]:
    """What was said of a photo: a picture, the same as a table, and a sentence."""
    answers = [
        {
            "says": verdict(each).headline,
            "table": tables.said(each),
            **_picture(compare_sheet(each), f"Heat maps for {each[0].target.label}, side by side"),
        }
        for each in asked.explanations
    ]
    if asked.found:
        answers.append(
            {
                "says": "What is where",
                "table": tables.found_in(asked.found),
                **_picture(detect_sheet(asked.found), "Boxes of the detectors, side by side"),
            }
        )
    return answers


def _picture(sheet: Image.Image, text: str) -> dict[str, Any]:
    return {"picture": uri(sheet), "width": sheet.width, "height": sheet.height, "alt": text}
