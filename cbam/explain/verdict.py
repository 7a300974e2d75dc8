"""What several models' answers come to: they agree, they disagree, none is sure, or none fits."""

from collections.abc import Sequence
from dataclasses import dataclass

from cbam.explain.explanation import Explanation, Prediction

SURE = 0.5  # a model that gives its answer less is not sure
NUMBERS = (
    *("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve"),
)


@dataclass(frozen=True)
class Verdict:
    """Several models' answers about one photo, in one sentence."""

    models: int
    words: tuple[str, ...]  # their most probable everyday words, each once
    sure: bool  # at least one model gives its word SURE or more
    none_of_these: bool  # most of the models say that the photo may show none of their classes

    @property
    def agree(self) -> bool:
        """Whether all models say the same word."""
        return len(self.words) == 1

    @property
    def headline(self) -> str:
        """ "All three say cat", "They disagree: cat or dog?", "They are not sure: perhaps cat"."""
        alone = self.models == 1
        if not self.sure:
            who = "It is" if alone else "They are"
            return f"{who} not sure: " + (
                f"perhaps {self.words[0]}" if self.agree else f"{either(self.words)}?"
            )
        if not self.agree:
            return f"They disagree: {either(self.words)}?"
        if alone:
            return f"It says {self.words[0]}"
        return (
            f"{'Both' if self.models == 2 else f'All {counted(self.models)}'} say {self.words[0]}"
        )

    def warning(self, classes: int) -> str:
        """What to add if the photo may show none of so many classes; else nothing."""
        if not self.none_of_these:
            return ""
        known = "it knows" if self.models == 1 else "they know"
        return f"This may be none of the {counted(classes)} classes that {known}."


def verdict(explanations: Sequence[Explanation]) -> Verdict:
    """What these models' explanations of one photo come to."""
    return verdict_on(
        [each.words[0] for each in explanations], [each.none_of_these for each in explanations]
    )


def verdict_on(tops: Sequence[Prediction], none_of_these: Sequence[bool]) -> Verdict:
    """The verdict on each model's most probable word, and on whether it flags the photo."""
    return Verdict(
        models=len(tops),
        words=tuple(dict.fromkeys(top.label for top in tops)),
        sure=max(top.probability for top in tops) >= SURE,
        none_of_these=sum(none_of_these) > len(none_of_these) / 2,
    )


def counted(number: int) -> str:
    """A number as a sentence has it: "three", "1,000"."""
    return NUMBERS[number] if number < len(NUMBERS) else f"{number:,}"


def either(names: Sequence[str]) -> str:
    """ "a, b or c"."""
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
