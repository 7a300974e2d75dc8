"""How far a model's probabilities can be trusted, and whether it notices what it does not know."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cbam.errors import BadData

BINS = 15  # of equal width, as in Guo et al.
LOWEST, HIGHEST = 0.05, 20.0  # where a temperature is looked for
DRAWS = 1000  # of answers of a model whose probabilities are exact
OWN_FLAGGED = 0.05  # the share of photos of its own classes that a model may take for other things


@dataclass(frozen=True)
class Calibration:
    """A temperature, and what it is worth on photos that it was not fitted on."""

    photos: int
    temperature: float  # fitted on all of them
    before: float  # expected calibration error of the softmax of the logits
    after: float  # the same with the temperature that was fitted on the other half of the photos
    by_chance: float  # what exact probabilities would show on so few photos, on average
    by_chance_up_to: float  # and what they would exceed once in twenty times


@dataclass(frozen=True)
class Strangers:
    """How a model's largest logit tells photos of its classes from photos of other things."""

    photos: int  # of its classes
    other_photos: int
    known_from: float  # a largest logit below this flags a photo; fitted on all own photos
    own_flagged: float  # share of own photos, each by the threshold of the other half
    others_flagged: float  # share of the photos of other things
    auc: float  # chance that an own photo has a larger largest logit than one of another thing


def calibration_error(scores: Tensor, targets: Tensor) -> float:
    """Expected calibration error of logits (photos, classes) for true classes (photos,).

    The mean gap between being sure and being right, over bins of the top class's probability.
    Guo et al. 2017, https://arxiv.org/abs/1706.04599, eq. 3.
    """
    confidence, top = scores.softmax(dim=1).max(dim=1)
    right = (top == targets).float()
    return float(_mean_gap(confidence, right[None])[0])


def chance_error(scores: Tensor) -> tuple[float, float]:
    """What `calibration_error` would be if each top class were right as often as it says.

    The error is a sum of distances, so it is above zero for exact probabilities, too, and the more
    so the fewer photos there are. Logits (photos, classes) -> mean and 95th percentile over DRAWS
    draws of which photos are right, with a fixed seed.
    """
    confidence = scores.softmax(dim=1).amax(dim=1)
    generator = torch.Generator().manual_seed(0)
    right = torch.rand(DRAWS, len(confidence), generator=generator) < confidence
    errors = _mean_gap(confidence, right.float())
    return float(errors.mean()), float(errors.quantile(0.95))


def _mean_gap(confidence: Tensor, right: Tensor) -> Tensor:
    """Confidence (photos,), who is right in each draw (draws, photos) -> errors (draws,)."""
    bins = (confidence * BINS).long().clamp(max=BINS - 1)
    gaps = torch.zeros(len(right), BINS).index_add_(1, bins, right - confidence)  # count x mean gap
    return gaps.abs().sum(dim=1) / len(confidence)


def temperature(scores: Tensor, targets: Tensor) -> float:
    """The temperature that makes the true classes likeliest: softmax(logits / temperature).

    Guo et al. 2017, section 4.2. Logits (photos, classes), true classes (photos,).
    """
    from scipy.optimize import minimize_scalar  # comes with the grad-cam package

    def loss(log_temperature: float) -> float:
        scaled = scores.double() / float(np.exp(log_temperature))
        return float(torch.nn.functional.cross_entropy(scaled, targets))

    found = minimize_scalar(loss, bounds=(np.log(LOWEST), np.log(HIGHEST)), method="bounded")
    return float(np.exp(found.x))


def calibrate(scores: Tensor, targets: Tensor) -> Calibration:
    """Fit a temperature, and judge it crosswise: each half of the photos by the other's.

    Logits (photos, classes), true classes (photos,). Raises BadData for fewer than two photos.
    """
    first, second = _halves(len(targets))
    judged = scores.clone()
    for here, there in ((first, second), (second, first)):
        judged[here] /= temperature(scores[there], targets[there])
    by_chance, by_chance_up_to = chance_error(judged)
    return Calibration(
        photos=len(targets),
        temperature=temperature(scores, targets),
        before=calibration_error(scores, targets),
        after=calibration_error(judged, targets),
        by_chance=by_chance,
        by_chance_up_to=by_chance_up_to,
    )


def tell_strangers(scores: Tensor, other_scores: Tensor) -> Strangers:
    """Fit the threshold below which a largest logit means "none of these", and judge it.

    Logits (photos, classes) of photos of the model's classes, and of other things. The threshold
    flags a share of OWN_FLAGGED of the former. Maximum logit: Hendrycks et al. 2022,
    https://arxiv.org/abs/1911.11132. Raises BadData for fewer than two photos.
    """
    own, other = scores.amax(dim=1).double(), other_scores.amax(dim=1).double()
    first, second = _halves(len(own))
    flagged = 0
    for here, there in ((first, second), (second, first)):
        flagged += int((own[here] < own[there].quantile(OWN_FLAGGED)).sum())
    known_from = round(float(own.quantile(OWN_FLAGGED)), 3)  # as the card has it
    return Strangers(
        photos=len(own),
        other_photos=len(other),
        known_from=known_from,
        own_flagged=flagged / len(own),
        others_flagged=float((other < known_from).double().mean()),
        auc=_auc(own, other),
    )


def _auc(larger: Tensor, smaller: Tensor) -> float:
    """The chance that one of `larger` exceeds one of `smaller`; ties count half. Each (N,)."""
    ordered = smaller.sort().values
    below = torch.searchsorted(ordered, larger, right=False)
    up_to = torch.searchsorted(ordered, larger, right=True)
    return float((below + up_to).double().mean() / 2 / len(smaller))


def _halves(count: int) -> tuple[Tensor, Tensor]:
    """Two halves of so many photos, drawn with a fixed seed: their positions."""
    if count < 2:
        raise BadData("One photo cannot be split in halves to fit and to judge: give more photos.")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return order[: count // 2], order[count // 2 :]
