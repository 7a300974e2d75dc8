"""Two models on the same photos: is the difference more than chance?"""

import numpy as np
from numpy.typing import NDArray

ROUNDS = 10_000


def paired_difference(
    mine: NDArray[np.float32], other: NDArray[np.float32]
) -> tuple[float, float, float]:
    """Mean of `mine - other`, each (photos,) over the same photos, and its 95 % interval.

    Percentile bootstrap over photos, Efron and Tibshirani 1993; the pairs stay together, so what
    makes a photo hard for both does not widen the interval. Seeded: the same numbers every time.
    """
    from scipy.stats import bootstrap  # comes with the grad-cam package

    difference = mine.astype(np.float64) - other.astype(np.float64)
    mean = float(difference.mean())
    if len(difference) < 2 or np.ptp(difference) == 0:
        return mean, mean, mean  # nothing to resample
    found = bootstrap(
        (difference,), np.mean, n_resamples=ROUNDS, batch=100, method="percentile", rng=0
    ).confidence_interval
    return mean, float(found.low), float(found.high)
