"""Means over seeds with honest intervals, and the three benefits of transfer.

The benefits compare the learning curve of a transfer run with that of its scratch twin: the same
data, budget and seed, but random weights at the start. A curve is a list of (images seen, accuracy
in 0..1), one pair an evaluation, the first one before training.

Sources: L. Torrey and J. Shavlik, "Transfer learning", 2009 (higher start, higher slope, higher
asymptote); M. Taylor and P. Stone, "Transfer learning for reinforcement learning domains: a
survey", 2009 (jumpstart, time to threshold, asymptotic performance).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special  # not scipy.stats, which takes a second to import

Curve = Sequence[tuple[float, float]]
THRESHOLD_SHARE = 0.9  # of the scratch curve's asymptote


class Interval(NamedTuple):
    """A mean, and half the width of its confidence interval: nan if there was only one value."""

    mean: float
    half_width: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of 0; never true of one value."""
        return abs(self.mean) > self.half_width


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """The mean of n values and the half width t * s / sqrt(n) of its Student t interval.

    s is the sample standard deviation, t the (1 + confidence) / 2 quantile of Student's t
    distribution with n - 1 degrees of freedom. A bootstrap over a handful of seeds is far too
    narrow; this interval keeps its coverage for values that are about normal.

    Raises:
      ValueError: if there are no values.
    """
    count = len(values)
    if count == 0:
        raise ValueError("there is no mean of no values")
    mean = float(np.mean(values))
    if count == 1:
        return Interval(mean, math.nan)
    quantile = float(special.stdtrit(count - 1, (1 + confidence) / 2))
    return Interval(mean, quantile * float(np.std(values, ddof=1)) / math.sqrt(count))


def paired_difference(a: Sequence[float], b: Sequence[float]) -> Interval:
    """`mean_interval` of a - b, where a[i] and b[i] share a seed, hence its luck.

    Raises:
      ValueError: if a and b differ in length, or are empty.
    """
    return mean_interval([x - y for x, y in zip(a, b, strict=True)])


def accuracy_at(curve: Curve, examples: float) -> float:
    """The curve's accuracy after so many images, linear between two evaluations."""
    return float(np.interp(examples, [x for x, _ in curve], [accuracy for _, accuracy in curve]))


def first_evaluation(transfer: Curve, scratch: Curve) -> float:
    """Images seen when both curves have been evaluated once after step 0."""
    return max(curve[min(1, len(curve) - 1)][0] for curve in (transfer, scratch))


def higher_start(transfer: Curve, scratch: Curve) -> float:
    """Jumpstart: a_T(t1) - a_S(t1), in accuracy, at the first evaluation t1 after step 0.

    Torrey & Shavlik and Taylor & Stone take it at t = 0, but a classifier's new head is at chance
    there, whatever the features below it are worth.
    """
    start = first_evaluation(transfer, scratch)
    return accuracy_at(transfer, start) - accuracy_at(scratch, start)


def asymptote(curve: Curve, window: int = 3) -> float:
    """Where a curve ends: the mean accuracy of its last `window` evaluations after step 0."""
    trained = curve[1:] or curve
    return float(np.mean([accuracy for _, accuracy in trained[-window:]]))


def higher_asymptote(transfer: Curve, scratch: Curve, window: int = 3) -> float:
    """Asymptotic performance: asymptote(a_T) - asymptote(a_S), in accuracy."""
    return asymptote(transfer, window) - asymptote(scratch, window)


def threshold(scratch: Curve) -> float:
    """The accuracy theta that both curves of a pair race to: 90 % of scratch's asymptote.

    Scratch reaches it by construction; at the asymptote itself, noise would decide the race.
    """
    return THRESHOLD_SHARE * asymptote(scratch)


def examples_to_threshold(curve: Curve, theta: float) -> float | None:
    """Time to threshold: min{t : a(t) >= theta} in images seen, None if the curve never gets there.

    t is an evaluation, so the resolution is the interval between evaluations.
    """
    return next((examples for examples, accuracy in curve if accuracy >= theta), None)


def speedup(transfer: Curve, scratch: Curve) -> float | None:
    """Higher slope: t_S / t_T, a ratio of `examples_to_threshold`; above 1 transfer is faster.

    Returns:
      None if the transfer curve never reaches the threshold, nan if the scratch curve is there
      before it has seen an image (it learned nothing, so there is no race), inf if only the
      transfer curve is.
    """
    theta = threshold(scratch)
    transfer_examples = examples_to_threshold(transfer, theta)
    scratch_examples = examples_to_threshold(scratch, theta)
    if not scratch_examples:
        return math.nan
    if transfer_examples is None:
        return None
    return scratch_examples / transfer_examples if transfer_examples else math.inf
