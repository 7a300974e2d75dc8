"""Does the answer depend on what a heat map shows? Take it away, and ask the network again.

Deletion and insertion, Petsiuk et al. 2018 (RISE), https://arxiv.org/abs/1806.07421: the hottest
pixels are replaced first, or given back first, and the target's probability is noted. Where a map
is right, the first curve falls early and the second one rises early. An area alone says little: a
sure network has larger ones whatever the map. So every curve stands beside those of orders that
know nothing of the answer: random maps, as coarse and as smooth as the real one, and one that is
hottest in the centre, where photographers put things.

A photo with pixels replaced is like none that a network was trained on. The curves test a map; they
do not prove it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cbam.errors import BadOption, look_up
from cbam.evaluate.gate_values import closeness
from cbam.explain.explanation import Explanation, Floats
from cbam.explain.interventions import changes
from cbam.model import Model
from cbam.render import enlarged, scaled
from cbam.slices import Work

BATCH = 8  # images in one slice: a fraction of a second, so that other questions wait no longer
STEPS_MAX, ORDERS_MAX = 100, 100
BLUR = 1 / 16  # of the image's side, as a standard deviation: it hides things of middle size

Score = Callable[[Tensor], Tensor]  # images (N, 3, S, S) -> the target's probability (N,)
Ranks = NDArray[np.int64]  # (S, S): 0 for the pixel that comes first


def blurred(image: Tensor) -> Tensor:
    """The image (3, S, S) out of focus: colours stay about where they were, things are gone."""
    from scipy.ndimage import gaussian_filter  # comes with the grad-cam package

    sigma = BLUR * image.shape[-1]
    planes = [gaussian_filter(plane, sigma, mode="nearest") for plane in image.numpy()]
    return torch.from_numpy(np.stack(planes))


def mean_colour(image: Tensor) -> Tensor:
    """The image (3, S, S) with its own mean colour everywhere."""
    return image.mean(dim=(1, 2), keepdim=True).expand_as(image).clone()


FILLS: Mapping[str, Callable[[Tensor], Tensor]] = {"blur": blurred, "mean": mean_colour}


@dataclass(frozen=True)
class Trial:
    """How a map is tried. Raises BadOption for a value out of range, UnknownName for a fill."""

    steps: int = 10  # the photo is taken away in so many equal parts
    fill: str = "blur"  # what stands where pixels are taken away: a name in FILLS
    orders: int = 10  # random orders
    seed: int = 0  # of the random orders

    def __post_init__(self) -> None:
        for name, least, most in (
            ("steps", 2, STEPS_MAX),
            ("orders", 0, ORDERS_MAX),
            ("seed", 0, 2**32 - 1),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise BadOption.of(name, value, f"a whole number from {least} to {most}")
        look_up("fill", self.fill, FILLS)

    @property
    def shares(self) -> Floats:
        """Which shares of the pixels are taken away: (steps + 1,), from 0 to 1."""
        return np.linspace(0, 1, self.steps + 1, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Order:
    """The target's probability while pixels go, and while they come back, in one order.

    Both (steps + 1,): the first value of `deletion` is of the whole photo, the last one of nothing.
    """

    deletion: Floats
    insertion: Floats

    @property
    def deletion_area(self) -> float:
        """Mean height of the deletion curve, in [0, 1]: lower is better."""
        return area(self.deletion)

    @property
    def insertion_area(self) -> float:
        """Mean height of the insertion curve, in [0, 1]: higher is better."""
        return area(self.insertion)

    @property
    def overall(self) -> float:
        """Insertion area minus deletion area, in [-1, 1]: higher is better.

        Zhang et al. 2021 (Group-CAM), https://arxiv.org/abs/2103.13859.
        """
        return self.insertion_area - self.deletion_area


@dataclass(frozen=True, eq=False)
class Curves:
    """A map's curves, and those of orders that know nothing of the answer.

    A random order read backwards is a random order, too, and giving its pixels back shows the same
    images: so the insertion curve of each of `random` is its deletion curve from right to left.
    """

    trial: Trial
    map: Order
    centre: Order
    random: tuple[Order, ...]
    evidence: bool  # False: the map is zero everywhere, and its order is a random one

    @property
    def deletion_beats(self) -> int:
        """How many of the random orders have a larger deletion area than the map."""
        return sum(each.deletion_area > self.map.deletion_area for each in self.random)

    @property
    def insertion_beats(self) -> int:
        """How many of the random orders have a smaller insertion area than the map."""
        return sum(each.insertion_area < self.map.insertion_area for each in self.random)

    @property
    def random_overall(self) -> tuple[float, ...]:
        """`Order.overall` of orders that know nothing: of each of `random` with the next one.

        The insertion area is of the one, the deletion area of the other: of one alone they are the
        same. Their mean is 0. Empty for fewer than two orders.
        """
        if len(self.random) < 2:
            return ()
        others = (*self.random[1:], self.random[0])
        return tuple(
            each.insertion_area - other.deletion_area
            for each, other in zip(self.random, others, strict=True)
        )


def area(curve: Floats) -> float:
    """The area under a curve over equal steps from 0 to 1, by trapezoids."""
    return float(np.trapezoid(curve.astype(np.float64), dx=1 / (len(curve) - 1)))


def score_of(model: Model, explanation: Explanation) -> Score:
    """The probability of the explanation's target, by the model that gave it, changed gates too."""
    gates = changes([model], dict(explanation.changed))[0].gates
    cut = model.cut(explanation.layer.split(","), gates)
    target = explanation.target
    indices = list(target.indices or (target.index,))

    def score(images: Tensor) -> Tensor:
        activation, _ = cut.run_trunk(images.contiguous(memory_format=torch.channels_last))
        with torch.inference_mode():
            logits, _ = cut.run_head(activation)
            return model.card.probabilities(logits)[:, indices].sum(dim=1)

    return score


def curves(score: Score, image: Tensor, heat: Floats, trial: Trial | None = None) -> Work[Curves]:
    """Try a map (h, w) of an image (3, S, S): one slice for every BATCH images."""
    trial = trial or Trial()
    side = image.shape[-1]
    random = np.random.default_rng(trial.seed)
    ties, *maps = (random.random(heat.shape) for _ in range(trial.orders + 1))
    first = ranks(heat, side, ties)
    centre = ranks(closeness(side), side, ties)
    others = [ranks(each, side, ties) for each in maps]
    asked = [(first, False), (first, True), (centre, False), (centre, True)]
    asked += [(each, False) for each in others]
    filled = FILLS[trial.fill](image)
    inner = trial.shares[1:-1]

    def images() -> Iterator[Tensor]:
        yield image
        yield filled
        for order, backwards in asked:
            for share in inner:
                here, there = (filled, image) if backwards else (image, filled)
                yield replaced(here, there, order, float(share))

    total = 2 + len(asked) * len(inner)
    found: list[float] = []
    stream = images()
    while batch := list(islice(stream, BATCH)):
        found += score(torch.stack(batch)).tolist()
        if len(found) < total:
            yield len(found) / total
    (whole, nothing), rows = found[:2], np.array(found[2:]).reshape(len(asked), -1)
    lines = [
        np.array([nothing, *row, whole] if backwards else [whole, *row, nothing], dtype=np.float32)
        for (_, backwards), row in zip(asked, rows, strict=True)
    ]
    return Curves(
        trial,
        Order(*lines[:2]),
        Order(*lines[2:4]),
        tuple(Order(each, each[::-1].copy()) for each in lines[4:]),
        bool(heat.max() > 0),
    )


def ranks(heat: NDArray[np.floating], side: int, ties: NDArray[np.floating]) -> Ranks:
    """The place of each pixel (side, side) in a map's order, the hottest one 0.

    Pixels of equal heat, such as all where a map is zero, are in the order of a second map.
    """
    large, second = (enlarged(each.astype(np.float32), side, side).ravel() for each in (heat, ties))
    found = np.empty(side * side, dtype=np.int64)
    found[np.lexsort((-second, -large))] = np.arange(side * side)
    return found.reshape(side, side)


def replaced(image: Tensor, other: Tensor, order: Ranks, share: float) -> Tensor:
    """The image (3, S, S), its first `share` of the pixels taken from another image."""
    gone = torch.from_numpy(order < round(share * order.size))
    return torch.where(gone, other, image)


@dataclass(frozen=True)
class Confidence:
    """How sure a network stays if it is shown only where a map is hot."""

    whole: float  # the target's probability for the whole photo
    masked: float  # the same for the photo multiplied by the map

    @property
    def drop(self) -> float:
        """The share of the probability that is lost, in [0, 1]: lower is better."""
        return max(0.0, self.whole - self.masked) / self.whole if self.whole > 0 else 0.0

    @property
    def increase(self) -> bool:
        """Whether the network is surer without the rest of the photo."""
        return self.masked > self.whole


def confidence(score: Score, image: Tensor, heat: Floats) -> Confidence:
    """Average drop and increase in confidence, for one image (3, S, S) and its map (h, w).

    Chattopadhay et al. 2018, https://arxiv.org/abs/1710.11063, section 4. The normalised image is
    multiplied by the map, scaled to [0, 1], so that the data's mean colour stands where it is zero.
    """
    mask = torch.from_numpy(scaled(enlarged(heat, image.shape[-1], image.shape[-1])))
    whole, masked = score(torch.stack([image, image * mask])).tolist()
    return Confidence(whole, masked)


SHARES = (
    20,
    50,
    80,
)  # percent of the pixels; Rong et al. take nine shares, at three times the cost


def road(
    score: Score,
    image: Tensor,
    heat: Floats,
    shares: Sequence[int] = SHARES,
    noise: float = 0.01,
    seed: int = 0,
) -> float:
    """ROAD: how much more is lost without the hottest pixels than without the coldest, halved.

    Pixels are replaced by a weighted mean of their neighbours plus noise, so that the form of what
    is missing does not show. For an image (3, S, S) and a map (h, w), a difference of
    probabilities, averaged over shares: more than 0 is better than chance.
    Rong et al. 2022, https://arxiv.org/abs/2202.00449; equations and weights are those of the
    grad-cam package, of which this is `ROADCombined`. Raises NotAvailable without the package.
    """
    side = image.shape[-1]
    large = scaled(enlarged(heat, side, side))
    random = torch.Generator().manual_seed(seed)
    images: list[Tensor] = []
    for each in (large, 1 - large):  # the hottest first, the coldest first
        for share in shares:
            kept = each < np.percentile(each, share)
            images.append(_imputed(image, kept, noise, random))
    found = torch.cat([score(torch.stack(images[at : at + BATCH])) for at in _starts(images)])
    hottest, coldest = found.view(2, -1).mean(dim=1).tolist()
    return float(coldest - hottest) / 2


def _starts(images: Sequence[Tensor]) -> range:
    return range(0, len(images), BATCH)


def _imputed(
    image: Tensor, kept: NDArray[np.bool_], noise: float, random: torch.Generator
) -> Tensor:
    """The image (3, S, S), its other pixels filled in from those that are `kept` (S, S)."""
    from scipy.sparse import csc_matrix  # comes with the grad-cam package
    from scipy.sparse.linalg import spsolve

    from cbam.explain.grad_cam_package import package

    metric = package().metrics.road
    if kept.all():
        return image.clone()
    # Not its __call__: that draws from the process's own random numbers.
    left, right = metric.NoisyLinearImputer.setup_sparse_system(
        kept.astype(np.float32), image.numpy(), metric.neighbors_weights
    )
    found = torch.from_numpy(spsolve(csc_matrix(left), right)).float().T  # (3, pixels)
    filled = image.flatten(1).clone()
    gone = torch.from_numpy(~kept.ravel())
    filled[:, gone] = found + noise * torch.randn(found.shape, generator=random)
    return filled.view_as(image)
