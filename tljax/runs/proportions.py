"""Intervals of accuracies over test images, for a single run.

They show how much the accuracy varies with the sample of test images, not with the training run.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import special


class Bounds(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


def wilson(share: float, count: int, confidence: float = 0.95) -> Bounds:
    """Wilson's score interval for a share of `count` images.

    (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), z the normal quantile. E. B. Wilson,
    "Probable inference, the law of succession, and statistical inference", 1927.
    """
    z = float(special.ndtri((1 + confidence) / 2))
    centre = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return Bounds(max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale))


def clopper_pearson(correct: int, count: int, confidence: float = 0.95) -> Bounds:
    """The exact binomial interval for a share, from `correct` of `count` images.

    Both ends are quantiles of beta distributions: low of Beta(k, n - k + 1), high of
    Beta(k + 1, n - k). C. J. Clopper and E. S. Pearson, "The use of confidence or fiducial limits
    illustrated in the case of the binomial", 1934.
    """
    tail = (1 - confidence) / 2
    wrong = count - correct
    low = float(special.betaincinv(correct, wrong + 1, tail)) if correct else 0.0
    high = float(special.betaincinv(correct + 1, wrong, 1 - tail)) if wrong else 1.0
    return Bounds(low, high)


def newcombe(
    share_a: float, count_a: int, share_b: float, count_b: int, confidence: float = 0.95
) -> Bounds:
    """Newcombe's interval for a - b, two shares of different images.

    From the Wilson intervals (l, u) of both: d - sqrt((a - l_a)^2 + (u_b - b)^2) to
    d + sqrt((u_a - a)^2 + (b - l_b)^2). If both are of the same images, it is wider than needed.
    R. G. Newcombe, "Interval estimation for the difference between independent proportions", 1998,
    method 10.
    """
    a, b = wilson(share_a, count_a, confidence), wilson(share_b, count_b, confidence)
    difference = share_a - share_b
    return Bounds(
        difference - math.hypot(share_a - a.low, b.high - share_b),
        difference + math.hypot(a.high - share_a, share_b - b.low),
    )


def newcombe_paired(right_a: np.ndarray, right_b: np.ndarray, confidence: float = 0.95) -> Bounds:
    """Newcombe's interval for the difference of two shares of the same images, a - b.

    From the Wilson intervals of both, as `newcombe`, less what their correlation phi takes off:
    (a - l_a)^2 - 2 phi (a - l_a) (u_b - b) + (u_b - b)^2, and likewise above. R. G. Newcombe,
    "Improved confidence intervals for the difference between binomial proportions based on paired
    data", 1998, method 10.

    Args:
      right_a, right_b: bool (images,), of each image whether it counts in a, and in b.
      confidence: of the interval.
    """
    count = len(right_a)
    share_a, share_b = float(np.mean(right_a)), float(np.mean(right_b))
    a, b = wilson(share_a, count, confidence), wilson(share_b, count, confidence)
    phi, difference = _correlation(right_a, right_b), share_a - share_b

    def length(x: float, y: float) -> float:
        return math.sqrt(max(0.0, x * x - 2 * phi * x * y + y * y))

    return Bounds(
        difference - length(share_a - a.low, b.high - share_b),
        difference + length(a.high - share_a, share_b - b.low),
    )


def _correlation(right_a: np.ndarray, right_b: np.ndarray) -> float:
    """The phi of Newcombe's method 10: with a correction for continuity where it is positive."""
    both, neither = int(np.sum(right_a & right_b)), int(np.sum(~right_a & ~right_b))
    only_a, only_b = int(np.sum(right_a & ~right_b)), int(np.sum(~right_a & right_b))
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    if not margins:
        return 0.0
    excess: float = both * neither - only_a * only_b
    if excess > 0:
        excess = max(excess - len(right_a) / 2, 0.0)
    return excess / math.sqrt(margins)
