"""Questions in one line: tests that are not about resolving need no more."""

from collections.abc import Sequence

from PIL import Image

from cbam.explain.explainer import answer, answer_many
from cbam.explain.explanation import Explanation
from cbam.explain.question import DEFAULTS, Options, resolve
from cbam.model import Model


def explain(
    models: Sequence[Model], photo: Image.Image, options: Options = DEFAULTS
) -> list[Explanation]:
    return answer(resolve(models, options), photo)


def explain_many(
    models: Sequence[Model], questions: Sequence[tuple[Image.Image, Options]]
) -> list[list[Explanation] | Exception]:
    return answer_many([(resolve(models, options), photo) for photo, options in questions])
