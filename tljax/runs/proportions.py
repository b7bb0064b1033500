"""Intervals of accuracies over test images, for a single run.

They show how much the accuracy varies with the sample of test images, not with the training run.
"""

import math
from typing import NamedTuple

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
