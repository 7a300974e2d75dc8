"""Can this heat map be trusted? One model's map of one photo, tried in several ways, in a sentence.

None of it is proof. A map may fail a test because the test is unlike any photo, and pass it for a
reason that has nothing to do with how the network decided.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cbam.errors import OptionClash
from cbam.evaluate.faithfulness import Curves, Trial, curves, score_of
from cbam.evaluate.localisation import InBox, in_box
from cbam.evaluate.randomisation import Strip, strip
from cbam.explain.explanation import Explanation
from cbam.explain.methods import METHODS
from cbam.model import Model
from cbam.said import Said, said
from cbam.slices import Work, part

PIXELS = tuple[float, float, float, float]  # a box: x0, y0, x1, y1 in pixels of the upright photo
NOT_PROOF = "These are tests, not proof: a map can pass them and still mislead."
ALIKE = 0.7  # a rank correlation from which two maps are called alike
UNSURE = 0.1  # below this probability there is hardly an answer that could fall
MOSTLY = 0.8  # of the random orders


@dataclass(frozen=True)
class Exam:
    """What to try. Nothing asked: the curves alone."""

    trial: Trial | None = None  # deletion and insertion
    randomisation: bool = False
    box: PIXELS | None = None
    time_limit_s: float | None = None  # of each map of a random network

    @property
    def long(self) -> bool:
        """Whether it takes many passes."""
        return self.trial is not None or self.randomisation


@dataclass(frozen=True, eq=False)
class Examined:
    """What came out, for one model; what was not asked is None."""

    explanation: Explanation
    curves: Curves | None
    strip: Strip | None
    box: InBox | None

    @property
    def said(self) -> list[Said]:
        """What it comes to, a sentence for each test."""
        found = []
        if self.curves is not None:
            found.append(_on_curves(self.curves))
        if self.strip is not None:
            found.append(_on_strip(self.strip))
        if self.box is not None:
            found.append(_on_box(self.box))
        return found

    @property
    def verdict(self) -> str:
        """The same as one text."""
        return " ".join(each.text for each in self.said)


def check_exam(exam: Exam, method: str) -> None:
    """Raises OptionClash: a method of very many passes, once for each random network."""
    if exam.randomisation and METHODS[method].cost_class == "high":
        cheap = [name for name, each in METHODS.items() if each.cost_class != "high"]
        raise OptionClash(
            f"Method '{method}' takes hundreds of passes, and randomisation asks for a map for "
            f"every stage. Choose another one: {', '.join(cheap)}."
        )


def examine(model: Model, explanation: Explanation, exam: Exam) -> Work[Examined]:
    """Try the map that a model gave, in slices. `explanation` is that model's own.

    Raises OptionClash, BadOption, TooSlow.
    """
    check_exam(exam, explanation.method)
    box = None
    if exam.box is not None:  # first: it may be wrong, and costs nothing
        width, height = explanation.photo.size
        x0, y0, x1, y1 = exam.box
        region = (x0 / width, y0 / height, x1 / width, y1 / height)
        box = in_box(explanation.heatmap, region, explanation.view, width, height)
    tried, stages = None, None
    middle = 0.7 if exam.randomisation else 1.0  # about how the time is shared
    if exam.trial is not None:
        image = model.card.preprocess(explanation.photo)
        score = score_of(model, explanation)
        work = curves(score, image, explanation.heatmap, exam.trial)
        tried = yield from part(work, 0, middle)
    if exam.randomisation:
        if tried is not None:
            yield middle
        seed = 0 if exam.trial is None else exam.trial.seed
        again = strip(model, explanation, seed, exam.time_limit_s)
        stages = yield from part(again, middle if tried else 0, 1)
    return Examined(explanation, tried, stages, box)


def examine_all(
    models: Sequence[Model], explanations: Sequence[Explanation], exam: Exam
) -> Work[list[Examined]]:
    """`examine` for several models, one after the other."""
    found: list[Examined] = []
    for number, (model, each) in enumerate(zip(models, explanations, strict=True)):
        if number:
            yield number / len(models)
        start, end = number / len(models), (number + 1) / len(models)
        found.append((yield from part(examine(model, each, exam), start, end)))
    return found


def _on_curves(found: Curves) -> Said:
    sure = float(found.map.deletion[0])
    if not found.evidence:
        return said(
            "no-evidence", "The map shows no evidence, so its curves are those of a random order."
        )
    if sure < UNSURE:
        return said(
            "unsure",
            "The model gives this class only {sure}, so there is little that could fall.",
            sure=f"{sure:.1%}",
        )
    falls, rises, count = found.deletion_beats, found.insertion_beats, len(found.random)
    centre = sum(
        (
            found.map.deletion_area < found.centre.deletion_area,
            found.map.insertion_area > found.centre.insertion_area,
        )
    )
    if not count:
        text = "The map beats the photo's centre in {centre} of the two tests."
        return said("centre-only", text, centre=f"{centre}")
    if falls == rises == count:
        case, text = "depends", "The answer depends on what the map shows: it beats all {count}"
    elif min(falls, rises) >= MOSTLY * count:
        case = "mostly"
        text = (
            "The answer mostly depends on what the map shows: it beats {falls} and {rises} of "
            "{count}"
        )
    else:
        case = "chance"
        text = (
            "Here the map is not clearly better than chance: it beats {falls} and {rises} of "
            "{count}"
        )
    beside = (
        "but the photo's centre in neither",
        "but the photo's centre in only one",
        "and the photo's centre in both",
    )[centre]
    return said(
        case,
        f"{text} random orders in the two tests, {beside}.",
        falls=f"{falls}",
        rises=f"{rises}",
        count=f"{count}",
        centre=f"{centre}",
    )


def _on_strip(found: Strip) -> Said:
    known = [each.similarity.rank_correlation for each in found.stages]
    most = max((each for each in known if each is not None), default=None)
    if most is None:
        return said(
            "nothing-left",
            "With random weights no evidence is left, so the map depends on what was learned.",
        )
    if most >= ALIKE:
        return said(
            "stays",
            "With random weights the map can stay much the same (rank correlation {most}), so it "
            "hardly depends on what was learned.",
            most=f"{most:.2f}",
        )
    return said(
        "changes",
        "With random weights the map changes (rank correlation at most {most}), so it depends on "
        "what was learned.",
        most=f"{most:.2f}",
    )


def _on_box(found: InBox) -> Said:
    where = "inside" if found.hit else "outside"
    return said(
        "in-box" if found.hit else "out-of-box",
        "{energy} of the map lies in the box ({uniform} if it were the same everywhere), and its "
        f"hottest point is {where}.",
        energy=f"{found.energy:.0%}",
        uniform=f"{found.uniform_energy:.0%}",
    )
