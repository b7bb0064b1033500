"""The benefits of transfer: a learning curve compared with that of its from-scratch twin.

Twins share data, budget, tuning effort and seed; one starts from the source's weights, the other
from random ones. A curve is a list of (images seen, validation accuracy in 0..1) with one pair for
each evaluation: two or more, the first one before training. In place of accuracy it may hold
another score of which more is better. `benefits` compares the twins of every seed. The other
functions are its parts: first of one curve, then of a pair, then over seeds.

Let a_T(t) and a_S(t) be the accuracies of the transfer and of the scratch curve after t images.

Curves need not be evaluated at equal intervals: with `eval_dense` half of the evaluations fall in
the first tenth of a short run. So the end of a curve is the last tenth of its images, and not a
number of evaluations.

Sources: L. Torrey and J. Shavlik, "Transfer learning", 2009 (higher start, higher slope, higher
asymptote); M. Taylor and P. Stone, "Transfer learning for reinforcement learning domains: a
survey", 2009 (jumpstart, asymptotic performance, total reward, transfer ratio, time to threshold);
Z. Wang et al., "Characterizing and avoiding negative transfer", 2019 (negative transfer gap).
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from scipy import optimize

from tljax.analysis.statistics import Interval, mean_interval

Curve = Sequence[tuple[float, float]]
Bound = Literal["exact", "at least", "at most"]
THRESHOLD_SHARE = 0.9  # of the scratch curve's asymptote
WINDOW = 0.1  # the asymptote is the mean of the evaluations in this last share of a curve's images


class Ratio(NamedTuple):
    """A ratio of one pair of curves; above 1 transfer is faster.

    Attributes:
      value: the ratio; nan if the curves do not determine it.
      bound: "exact", or which bound the value is if the curves determine no more than a bound.
    """

    value: float
    bound: Bound = "exact"


@dataclass(frozen=True)
class RatioInterval:
    """The geometric mean of a ratio over seeds.

    Attributes:
      interval: exp of the `mean_interval` of the logarithms. Its ends are nan if the mean is a
        bound. All is nan if some seed does not determine its ratio, or if there are bounds of
        both kinds.
      bound: of the mean; "at least" if that holds for some seeds and the others are exact.
      seeds: number of seeds.
      censored: number of seeds that give only a bound.
      undetermined: number of seeds that do not determine the ratio.
    """

    interval: Interval
    bound: Bound
    seeds: int
    censored: int
    undetermined: int


@dataclass(frozen=True)
class Benefits:
    """The benefits of transfer over all seeds, each paired by seed.

    Differences are transfer - scratch, in accuracy. A difference is significant at the level of
    its interval if `excludes_zero` is true; this is not corrected for several comparisons.

    Attributes:
      seeds: number of seeds that both sides have.
      jumpstart: at step 0; about 0 where the head is new, whatever the features are worth.
      higher_start: at the first evaluation after step 0.
      rate_ratio: of the rates of approach to the asymptote, T / S.
      time_ratio: of the images to the threshold, S / T.
      higher_asymptote: of the evaluations in the last tenth of the images.
      total_reward: of the mean accuracy over the budget, which is the area under the curve divided
        by its length.
      transfer_ratio: of the areas, (A_T - A_S) / A_S.
      negative_transfer_gap: error_T - error_S.
    """

    seeds: int
    jumpstart: Interval
    higher_start: Interval
    rate_ratio: RatioInterval
    time_ratio: RatioInterval
    higher_asymptote: Interval
    total_reward: Interval
    transfer_ratio: Interval
    negative_transfer_gap: Interval

    @property
    def is_negative_transfer(self) -> bool:
        """Whether transfer did harm: the whole interval of `negative_transfer_gap` is above 0."""
        return self.negative_transfer_gap.low > 0


def benefits(
    transfer: Mapping[int, Curve],
    scratch: Mapping[int, Curve],
    transfer_accuracy: Mapping[int, float] | None = None,
    scratch_accuracy: Mapping[int, float] | None = None,
    *,
    theta: float | None = None,
    window: float = WINDOW,
) -> Benefits:
    """Computes all benefits over the seeds that both sides have.

        benefits({0: curve_of_transfer}, {0: curve_from_scratch}).higher_start

    Args:
      transfer, scratch: curves by seed.
      transfer_accuracy, scratch_accuracy: test accuracies by seed, for the negative transfer gap;
        None: the gap is computed from the curves' asymptotes.
      theta: threshold of accuracy for the time ratio; None: `threshold` of each seed's scratch
        curve.
      window: see `asymptote`.

    Raises:
      ValueError: if no seed has both curves, and both accuracies where they are given.
    """
    sides = (transfer, scratch, transfer_accuracy, scratch_accuracy)
    seeds = sorted(set.intersection(*(set(side) for side in sides if side is not None)))
    if not seeds:
        raise ValueError("no seed has both curves; give transfer and scratch of the same seeds")

    def over(measure: Callable[[Curve, Curve], float]) -> Interval:
        return mean_interval([measure(transfer[seed], scratch[seed]) for seed in seeds])

    def ratio_over(measure: Callable[[Curve, Curve], Ratio]) -> RatioInterval:
        return geometric_mean([measure(transfer[seed], scratch[seed]) for seed in seeds])

    if transfer_accuracy is None or scratch_accuracy is None:
        gap = over(lambda t, s: -higher_asymptote(t, s, window))
    else:
        gap = mean_interval([scratch_accuracy[seed] - transfer_accuracy[seed] for seed in seeds])
    return Benefits(
        seeds=len(seeds),
        jumpstart=over(jumpstart),
        higher_start=over(higher_start),
        rate_ratio=ratio_over(rate_ratio),
        time_ratio=ratio_over(lambda t, s: time_ratio(t, s, theta)),
        higher_asymptote=over(lambda t, s: higher_asymptote(t, s, window)),
        total_reward=over(total_reward),
        transfer_ratio=over(transfer_ratio),
        negative_transfer_gap=gap,
    )


# --------------------------------------------------------------------------------- of one curve


def accuracy_at(curve: Curve, examples: float) -> float:
    """The curve's accuracy after so many images, linear between two evaluations."""
    return float(np.interp(examples, [x for x, _ in curve], [accuracy for _, accuracy in curve]))


def asymptote(curve: Curve, window: float = WINDOW) -> float:
    """The asymptote: mean accuracy of the evaluations at the end of the curve.

    Args:
      curve: the curve.
      window: share of the curve's images that counts as its end, 0 <= window < 1. At least the last
        evaluation counts, and never that of step 0 if there is another one.
    """
    end = curve[-1][0]
    # A little more than the window, so that rounding cannot leave out an evaluation at its border.
    start = end - window * end * (1 + 1e-9)
    trained = curve[1:] or curve
    return float(np.mean([accuracy for examples, accuracy in trained if examples >= start]))


def examples_to_threshold(curve: Curve, theta: float) -> float | None:
    """Time to threshold: min{t : a(t) >= theta} in images seen, or None if theta is not reached.

    Only evaluations count, so the resolution is the interval between evaluations.
    """
    return next((examples for examples, accuracy in curve if accuracy >= theta), None)


def area(curve: Curve, until: float) -> float:
    """Total reward: the integral of a(t) from 0 to `until`, in images; linear between evaluations.

    A curve that ends earlier is continued at its last accuracy.
    """
    examples = sorted({0.0, until, *(x for x, _ in curve if x < until)})
    return float(np.trapezoid([accuracy_at(curve, x) for x in examples], examples))


class Approach(NamedTuple):
    """a(t) = asymptote - (asymptote - start) exp(-t / tau), tau in images.

    `bound` says whether tau is exact, or only a bound ("at most" or "at least").
    """

    start: float
    asymptote: float
    tau: float
    bound: Bound


def exponential_approach(curve: Curve) -> Approach | None:
    """Fits an exponential approach to an asymptote by least squares.

    For a given tau, the other two parameters follow from a linear regression, so the fit searches
    over tau alone, between two ends. Below t_1 / 3, 95 % of the rise is over at the first
    evaluation after step 0, so tau is "at most" that. Above the last t, less than 63 % of the rise
    is observed, so tau is "at least" that.

    Returns:
      The fit, or None if the curve does not determine a rate: it has fewer than four points, or
      rises by less than twice the standard deviation of the residuals.
    """
    examples, accuracy = (np.array(column, float) for column in zip(*curve, strict=True))
    if len(examples) < 4:
        return None
    ends = (math.log(examples[1] / 3), math.log(examples[-1]))

    def regression(log_tau: float) -> tuple[np.ndarray, float]:
        decay = np.exp(-examples / math.exp(log_tau))
        design = np.stack([1 - decay, decay], axis=1)  # coefficients: asymptote, start
        found, *_ = np.linalg.lstsq(design, accuracy)
        return found, float(np.sum((design @ found - accuracy) ** 2))

    grid = np.linspace(*ends, 64)  # there may be several local minima
    best = int(np.argmin([regression(x)[1] for x in grid]))
    around = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    log_tau = float(
        optimize.minimize_scalar(
            lambda x: regression(x)[1], bounds=around, method="bounded", options={"xatol": 1e-9}
        ).x
    )
    (end, start), residual = regression(log_tau)
    if end - start <= 2 * math.sqrt(residual / (len(examples) - 3)) + 1e-9:
        return None
    bound: Bound = "exact"
    if log_tau - ends[0] < 1e-3:
        bound = "at most"
    elif ends[1] - log_tau < 1e-3:
        bound = "at least"
    return Approach(float(start), float(end), math.exp(log_tau), bound)


# ----------------------------------------------------------------------------------- of a pair


def jumpstart(transfer: Curve, scratch: Curve) -> float:
    """Jumpstart: a_T(0) - a_S(0), in accuracy (Taylor & Stone).

    A new head is at chance there, so `higher_start` is more informative.
    """
    return transfer[0][1] - scratch[0][1]


def first_evaluation(transfer: Curve, scratch: Curve) -> float:
    """Images seen when both curves have been evaluated at least once after step 0."""
    return max(curve[min(1, len(curve) - 1)][0] for curve in (transfer, scratch))


def higher_start(transfer: Curve, scratch: Curve) -> float:
    """Higher start: a_T(t1) - a_S(t1), in accuracy, at the first evaluation t1 after step 0.

    With `eval_dense`, t1 is after one step. A head of zeros gives the backbone a zero gradient in
    that step, so only the head is fitted, and the difference shows the quality of the features.
    """
    start = first_evaluation(transfer, scratch)
    return accuracy_at(transfer, start) - accuracy_at(scratch, start)


def higher_asymptote(transfer: Curve, scratch: Curve, window: float = WINDOW) -> float:
    """Asymptotic performance: asymptote(a_T) - asymptote(a_S), in accuracy."""
    return asymptote(transfer, window) - asymptote(scratch, window)


def threshold(scratch: Curve) -> float:
    """The accuracy theta of the time to threshold: 90 % of scratch's asymptote, its curve's end.

    Scratch reaches it by construction. At the asymptote itself noise would decide the time.
    """
    return THRESHOLD_SHARE * asymptote(scratch)


def time_ratio(transfer: Curve, scratch: Curve, theta: float | None = None) -> Ratio:
    """Higher slope, by time to threshold: t_S / t_T, both `examples_to_threshold`.

    A time is only a bound in two cases, and then so is the ratio. A curve that does not reach theta
    would need longer than its length: the ratio is "at least" that if it is scratch, "at most" if
    it is transfer. A curve that is at theta at its first evaluation after step 0 may have reached
    it long before: the ratio is "at least" that if it is transfer, "at most" if it is scratch. If
    transfer is at theta before training, its time is at most that of the first evaluation.

    Any other time is that of an evaluation; the curve was below theta at the one before.

    Args:
      transfer, scratch: the curves.
      theta: the threshold; None: `threshold(scratch)`.

    Returns:
      The ratio; undetermined if neither curve reaches theta, if both are there at their first
      evaluation, if scratch is at theta before training, or ends below 0, as R2 may: a share of
      that is no threshold.
    """
    if theta is None:
        theta = threshold(scratch)
        if theta < 0:
            return Ratio(math.nan)
    early, late = (examples_to_threshold(curve, theta) for curve in (transfer, scratch))
    if late == 0 or (early is None and late is None):
        return Ratio(math.nan)
    bounds: set[Bound] = set()
    if late is None or (early is not None and _jumps_to(transfer, theta)):
        bounds.add("at least")
    if early is None or (late is not None and _jumps_to(scratch, theta)):
        bounds.add("at most")
    if len(bounds) == 2:
        return Ratio(math.nan)
    late = scratch[-1][0] if late is None else late
    early = transfer[-1][0] if early is None else early or transfer[1][0]
    return Ratio(late / early, next(iter(bounds), "exact"))


def _jumps_to(curve: Curve, theta: float) -> bool:
    """Whether the curve is at theta at its first evaluation after step 0, or at step 0.

    An evaluation that repeats the accuracy of step 0 does not count as the first: a warm-up begins
    at a rate of 0, so that one step changes nothing.
    """
    below = [accuracy for _, accuracy in itertools.takewhile(lambda at: at[1] < theta, curve)]
    return len(below) < 2 or (len(below) == 2 and below[0] == below[1])


def rate_ratio(transfer: Curve, scratch: Curve) -> Ratio:
    """Higher slope, by rate: (1 / tau_T) / (1 / tau_S) of their `exponential_approach`.

    If a tau is a bound, so is the ratio. Unlike the time to threshold, each rate is relative to
    the curve's own asymptote: a curve with a low asymptote may still approach it fast.
    """
    fits = exponential_approach(transfer), exponential_approach(scratch)
    if fits[0] is None or fits[1] is None:
        return Ratio(math.nan)
    quotient = fits[1].tau / fits[0].tau
    opposite: dict[Bound, Bound] = {"at least": "at most", "at most": "at least", "exact": "exact"}
    bounds = {opposite[fits[0].bound], fits[1].bound} - {"exact"}
    if len(bounds) == 2:
        return Ratio(math.nan)
    return Ratio(quotient, next(iter(bounds), "exact"))


def total_reward(transfer: Curve, scratch: Curve) -> float:
    """Total reward: (A_T - A_S) / t_end, the difference in mean accuracy over the budget.

    A is the `area` under a curve up to t_end, the end of the longer curve.
    """
    until = _budget(transfer, scratch)
    return (area(transfer, until) - area(scratch, until)) / until


def transfer_ratio(transfer: Curve, scratch: Curve) -> float:
    """Transfer ratio: (A_T - A_S) / A_S, of the areas under the curves (Taylor & Stone).

    It is nan if scratch has no area.
    """
    until = _budget(transfer, scratch)
    reference = area(scratch, until)
    return area(transfer, until) / reference - 1 if reference else math.nan


def _budget(transfer: Curve, scratch: Curve) -> float:
    return max(transfer[-1][0], scratch[-1][0])


# ---------------------------------------------------------------------------------- over seeds


def geometric_mean(ratios: Sequence[Ratio]) -> RatioInterval:
    """The mean of ratios over seeds: exp of the mean of their logarithms.

    If some are "at least", so is the mean, and it has no interval; the same for "at most".

    Raises:
      ValueError: if there are none.
    """
    undetermined = sum(math.isnan(ratio.value) for ratio in ratios)
    bounds = {ratio.bound for ratio in ratios} - {"exact"}
    censored = sum(ratio.bound != "exact" for ratio in ratios)
    counts = (len(ratios), censored, undetermined)
    if undetermined or len(bounds) > 1:
        return RatioInterval(Interval(math.nan, math.nan, math.nan), "exact", *counts)
    logs = mean_interval([math.log(ratio.value) for ratio in ratios])
    if bounds:
        nothing = Interval(math.exp(logs.mean), math.nan, math.nan)
        return RatioInterval(nothing, next(iter(bounds)), *counts)
    ends = (math.exp(x) for x in (logs.mean, logs.low, logs.high))
    return RatioInterval(Interval(*ends), "exact", *counts)
