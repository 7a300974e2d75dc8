"""Tables of what is on cards and of what was answered, for the command and for reports."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cbam.cards.card import Card
from cbam.cards.detector import DetectorCard
from cbam.cards.families import by_family
from cbam.evaluate.card_metrics import AGAINST
from cbam.evaluate.faithfulness_metrics import FAITHFULNESS
from cbam.evaluate.held_gates import SINGLE_WAYS
from cbam.explain.detection import Detected, counterparts
from cbam.explain.explanation import Explanation
from cbam.explain.methods import METHODS

Table = tuple[list[str], list[list[str]]]  # titles, rows
NOT_MEASURED = "not measured"
BOXED = "boxed"  # how a card's numbers from photos with boxes begin
# Column title -> where the number stands on a card.
MEASURES = {
    "top-1": ("val", "top1"),
    "top-5": ("val", "top5"),
    "calibration error": ("val", "calibration_error"),
    "pointing game": (BOXED, "pointing_game"),
    "energy in box": (BOXED, "energy_in_box"),
    "box IoU": (BOXED, "box_iou"),
}
LOCATED = {name: title for title, (data, name) in MEASURES.items() if data == BOXED}
COMPARED = {"top1": "points of top-1", **{name: f"of {title}" for name, title in LOCATED.items()}}
# Column title -> where a detector's number stands on its card.
FINDS = {
    "mAP@.5": ("boxes", "map50"),
    "mAP@.75": ("boxes", "map75"),
    "mAP@.5:.95": ("boxes", "map50_95"),
    "energy in box": ("heat_maps", "energy_in_box"),
    "if even": ("heat_maps", "energy_uniform"),
    "if all in its cells": ("heat_maps", "energy_of_box"),
}


# Measure of `evaluate --boxed` -> its heading.
ANALYSIS = {
    "target_probability": "P(class)",
    "pointing_game": "pointing game",
    "energy_in_box": "energy in box",
    "box_iou": "IoU above 15 %",
    "box_iou_30": "30 %",
    "box_iou_50": "50 %",
    "box_iou_70": "70 %",
}


# What was done to the gates -> its heading.
HELD = {"mean": "at their mean", "number": "at one number", "open": "open"}


# Column title -> where the number stands on a card, and how it is written.
TRUST = {
    "temperature": ("calibration", "temperature", ".2f"),
    "calibration error before": ("calibration", "before", ".1%"),
    "after": ("calibration", "after", ".1%"),
    "by chance": ("calibration", "by_chance", ".1%"),
    "up to": ("calibration", "by_chance_up_to", ".1%"),
    "AUC, own photos against others": ("none_of_these", "auc", ".2f"),
    "own photos flagged": ("none_of_these", "own_flagged", ".1%"),
    "others flagged": ("none_of_these", "others_flagged", ".1%"),
}


def measured(cards: Mapping[str, Card]) -> Table:
    """All models by family with their measured results, and a baseline that sees no photo."""
    rows: list[list[str]] = []
    for names in by_family(cards).values():
        members = [cards[name] for name in names]
        for card in members:
            classes = str(len(card.labels))
            rows.append([card.name, card.attention, classes, *_measured(card.metrics)])
        blind = {"boxed": members[0].metrics.get("boxed_baseline", {})}  # on the same boxes
        rows.append(["centre, uniform map, whole view", "", "", *_measured(blind, "")])
    return ["model", "attention", "classes", *MEASURES], rows


def differences(cards: Mapping[str, Card]) -> Table:
    """How much members of a family differ in accuracy from others, photo by photo."""
    rows = [
        [card.name, key.removeprefix(AGAINST), *(change(values.get(name)) for name in COMPARED)]
        for card in cards.values()
        for key, values in card.metrics.items()
        if key.startswith(AGAINST) and "top1" in values
    ]
    return ["model", "against", *COMPARED.values()], rows


ON_PHOTOS = ("model", "data", "photos")


@dataclass(frozen=True)
class _OnPhotos:
    """A card's numbers of one measure on one set of photos."""

    card: Card
    data: str  # the set's name; empty: the validation photos
    values: Mapping[str, Any]

    @property
    def cells(self) -> list[str]:
        """A row's beginning, under ON_PHOTOS."""
        return [self.card.name, self.data or "validation", f"{self.values['photos']:,}"]

    def beside(self, measure: str) -> Mapping[str, Any]:
        """Another measure's numbers on the same photos; empty: there are none."""
        name = f"{measure}_{self.data}" if self.data else measure
        found: Mapping[str, Any] = self.card.metrics.get(name, {})
        return found


def _on_photos(cards: Mapping[str, Card], measure: str) -> Iterator[_OnPhotos]:
    """Every card's numbers under this name and, on other photos, with theirs behind it."""
    for card in cards.values():
        for key, values in card.metrics.items():
            if key.startswith(measure) and "photos" in values:
                yield _OnPhotos(card, key.removeprefix(measure).strip("_"), values)


def boxes(cards: Mapping[str, Card]) -> Table:
    """Where heat maps point, and by how much that is better than a baseline that sees no photo."""
    rows: list[list[str]] = []
    for found in _on_photos(cards, BOXED):
        if against := found.beside(f"{BOXED}_against_baseline"):
            values = found.values
            cells = [f"{values[name]:.1%}: {change(against[name])}" for name in LOCATED]
            rows.append([*found.cells, *cells])
    return [*ON_PHOTOS, *LOCATED.values()], rows


def analysis(cards: Mapping[str, Card]) -> Table:
    """Grad-CAM against boxes, and how much each member of a family differs from the plain one."""
    rows: list[list[str]] = []
    for found in _on_photos(cards, BOXED):
        if "target_probability" not in found.values:
            continue
        plain = found.beside("against_none")
        cells = [
            f"{found.values[name]:.1%}" + (f": {change(plain[name])}" if name in plain else "")
            for name in ANALYSIS
        ]
        rows.append([*found.cells, *cells])
    return [*ON_PHOTOS, *ANALYSIS.values()], rows


def faithfulness(cards: Mapping[str, Card]) -> Table:
    """Whether answers depend on what the maps show, beside random orders and the centre."""
    rows: list[list[str]] = []
    for found in _on_photos(cards, FAITHFULNESS):
        values = found.values
        if "steps" not in values:
            continue  # of another measure, or a comparison
        cells = found.cells
        for way in ("deletion", "insertion"):
            cells.append(f"{values[way]:.3f}")
            for other in ("random", "centre"):
                cells.append(change(found.beside(f"{FAITHFULNESS}_against_{other}")[way]))
        cells += [f"{values[name]:.1%}" for name in ("average_drop", "increase")]
        rows.append([*cells, f"{values['road']:+.3f}"])
    titles = [*ON_PHOTOS]
    for way in ("deletion", "insertion"):
        titles += [way, "against random", "against the centre"]
    return [*titles, "average drop", "increase", "ROAD"], rows


def trust(cards: Mapping[str, Card]) -> Table:
    """How far probabilities can be trusted, and how often photos of other things are noticed."""
    rows = [
        [
            card.name,
            *(
                NOT_MEASURED
                if (found := card.metrics.get(data, {}).get(name)) is None
                else format(found, style)
                for data, name, style in TRUST.values()
            ),
        ]
        for card in cards.values()
    ]
    return ["model", *TRUST], rows


def held_gates(cards: Mapping[str, Card]) -> Table:
    """A row for each kind of gates that was held."""
    rows: list[list[str]] = []
    for card in cards.values():
        measured = card.metrics.get("gates", {})
        for gates, values in measured.items():
            if isinstance(values, dict):
                changes = [change(values.get(way)) for way in HELD]
                photos = f"{measured['photos']:,}"
                rows.append([card.name, gates, photos, f"{measured['top1']:.1%}", *changes])
    return ["model", "gates", "photos", "as it is", *HELD.values()], rows


def single_gates(card: Card) -> Table:
    """A row for each gate of a model; without changes of accuracy if they were not measured."""
    rows: list[list[str]] = []
    held = card.metrics.get("gates_one_by_one", {})
    for gate, values in card.metrics.get("gate_values", {}).items():
        if not isinstance(values, dict):
            continue
        spread = [f"{values[key]:.3f}" for key in ("mean", "over_photos", "within_photo")]
        shares = [f"{values[key]:.0%}" for key in ("saturated", "dead")]
        box = [f"{values[key]:.2f}" if key in values else "" for key in ("inside_box", "centre")]
        changes = [change(held[gate].get(way)) for way in SINGLE_WAYS] if gate in held else []
        rows.append([gate, *spread, *shares, *box, *changes])
    titles = ["gate", "mean", "over photos", "within a photo", "saturated", "dead"]
    changes = ["at its mean", "open"] if held else []
    return [*titles, "inside boxes", "centre", *changes], rows


def found(cards: Sequence[DetectorCard]) -> Table:
    rows = [[card.name, card.title, *_measured(card.metrics, measures=FINDS)] for card in cards]
    return ["detector", "what it is", *FINDS], rows


def found_classes(cards: Sequence[DetectorCard]) -> Table:
    """Class by class, and by the objects' size."""
    measured = [card for card in cards if "boxes" in card.metrics]
    found = [card.metrics["boxes"] for card in measured]
    rows: list[list[str]] = []
    for key, measure in (("ap50", "AP@.5"), ("map_by_size", "mAP@.5:.95")):
        for name in dict.fromkeys(name for each in found for name in each[key]):
            values = (each[key].get(name) for each in found)
            count = found[0]["objects_by_size"][name] if key == "map_by_size" else ""
            shown = ["no object" if value is None else f"{value:.1%}" for value in values]
            rows.append([f"{name}, {count:,} objects" if count else name, measure, *shown])
    return ["of", "measure", *(card.name for card in measured)], rows


def found_differences(cards: Sequence[DetectorCard]) -> Table:
    """How much higher each one's mAP@.5 is than others', with 95 % bootstrap intervals."""
    rows = [
        [card.name, key.removeprefix(AGAINST), change(values["map50"])]
        for card in cards
        for key, values in card.metrics.items()
        if key.startswith(AGAINST)
    ]
    return ["detector", "against", "points of mAP@.5"], rows


DETECTOR_TABLES = {"all": found, "classes": found_classes, "differences": found_differences}


def change(triple: Sequence[float] | None) -> str:
    """A difference in points with its interval."""
    if triple is None:
        return NOT_MEASURED
    change, low, high = (f"{value * 100:+.1f}" for value in triple)
    return f"{change} ({low} to {high})"


def _measured(
    metrics: dict[str, dict[str, Any]],
    absent: str = NOT_MEASURED,
    measures: Mapping[str, tuple[str, str]] = MEASURES,
) -> list[str]:
    """A card's numbers in percent, in the order of `measures`."""
    values = (metrics.get(data, {}).get(name) for data, name in measures.values())
    return [absent if value is None else f"{value:.1%}" for value in values]


def said(explanations: Sequence[Explanation]) -> Table:
    """What each model says of a photo, and how sure it is of the class that all explain."""
    label, method = explanations[0].target.label, explanations[0].method
    titled = METHODS[method].title if method in METHODS else method
    rows: list[list[str]] = []
    for each in explanations:
        says = ", ".join(f"{p.label} {p.probability:.1%}" for p in each.words[:1])
        classes = ", ".join(f"{p.label} {p.probability:.1%}" for p in each.predictions[:3])
        says = classes if len(each.words[0].indices) == 1 else f"{says} ({classes})"
        peak = float(each.heatmap.max())
        shown = f"{peak:.3g}" if peak > 0 else "no positive evidence"
        rows.append([each.model, says, f"{each.target.probability:.1%}", shown])
    return ["model", "says", f"P({label})", f"{titled} peak"], rows


def found_in(every: Sequence[Detected]) -> Table:
    """What each detector found in a photo, and how many of the others did not."""
    rows: list[list[str]] = []
    for each in every:
        others = [counterparts(each, other) for other in every if other is not each]
        for number, item in enumerate(each.detections):
            place = " ".join(f"{side:.0f}" for side in item.box)
            missing = sum(link[number] is None for link in others)
            alone = f"not found by {missing} of {len(others)} others" if missing else ""
            rows.append([each.model, item.label, f"{item.score:.2f}", place, alone])
        if not each.detections:
            rows.append([each.model, "nothing found", "", "", ""])
    return ["detector", "found", "score", "x0 y0 x1 y1", ""], rows
