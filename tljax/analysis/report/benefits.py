"""The three benefits of transfer between runs and their from-scratch twins, in words."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from tljax.analysis import statistics
from tljax.analysis.report.figures import REFERENCE
from tljax.analysis.report.words import (
    comparative,
    count,
    percent,
    points,
    ratio,
    signed_interval,
    two_digits,
    verdict,
)
from tljax.analysis.statistics import Interval

if TYPE_CHECKING:
    from tljax.analysis.report.curves import MeanCurve

SHARE = f"{100 * statistics.THRESHOLD_SHARE:.0f}&#160;%"


class HasCurve(Protocol):
    """A run, as far as its benefits are concerned."""

    @property
    def curve(self) -> list[tuple[int, float]]:
        """(images seen, validation accuracy) at each evaluation; the first is before training."""


_Run = TypeVar("_Run", bound=HasCurve)

# A cell is the runs of one target at one size, by scenario, then by seed.
Cell = Mapping[str, Mapping[int, _Run]]


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> Interval:
    """The difference a - b over the seeds that both have."""
    seeds = sorted(a.keys() & b.keys())
    return statistics.paired_difference([a[s] for s in seeds], [b[s] for s in seeds])


def twins(cell: Cell[_Run], scenario: str) -> list[tuple[_Run, _Run]]:
    """(transfer run, from-scratch run) of each seed that has both."""
    scratch = cell[REFERENCE]
    return [(run, scratch[seed]) for seed, run in cell[scenario].items() if seed in scratch]


def benefit_sentences(
    cell: Cell[HasCurve], chosen: str, curves: Mapping[str, "MeanCurve"]
) -> tuple[str, str, str]:
    """Start, slope and asymptote in words that follow their sign, as html."""
    start, _, asymptote = benefits(cell, chosen)
    transfer, scratch = curves[chosen].means, curves[REFERENCE].means
    theta = statistics.threshold(scratch)
    first = statistics.first_evaluation(transfer, scratch)
    return (
        f"<b>{comparative(start.mean)} start</b>: {points(start)} after {first:,} images"
        f" ({verdict(start)})",
        _slope_sentence(
            statistics.examples_to_threshold(transfer, theta),
            statistics.examples_to_threshold(scratch, theta),
            percent(theta),
        ),
        f"<b>{comparative(asymptote.mean)} asymptote</b>: {points(asymptote)}"
        f" ({verdict(asymptote)})",
    )


def _slope_sentence(transfer: float | None, scratch: float | None, theta: str) -> str:
    """How the mean curves race to the threshold."""
    if not scratch:
        return f"<b>no slope to compare</b>: from scratch is at {theta} before it trains"
    if transfer is None:
        return (
            f"<b>lower slope</b>: it never reaches {theta}, from scratch after {scratch:,} images"
        )
    return (
        f"<b>{comparative(scratch - transfer)} slope</b>: {theta} on the mean curves after"
        f" {transfer:,} images, from scratch after {scratch:,}"
        f" ({ratio(scratch / transfer if transfer else math.inf)})"
    )


def benefits(cell: Cell[HasCurve], scenario: str) -> tuple[Interval, list[float | None], Interval]:
    """Start, speed-ups seed by seed, and asymptote of a scenario against from scratch."""
    curves = [(transfer.curve, scratch.curve) for transfer, scratch in twins(cell, scenario)]
    return (
        statistics.mean_interval([statistics.higher_start(*pair) for pair in curves]),
        [statistics.speedup(*pair) for pair in curves],
        statistics.mean_interval([statistics.higher_asymptote(*pair) for pair in curves]),
    )


def benefit_entries(cell: Cell[HasCurve], scenario: str) -> tuple[str, str, str]:
    """Start, slope and asymptote of a scenario against from scratch, as entries of a table."""
    if scenario == REFERENCE:
        return ("reference",) * 3
    start, speedups, asymptote = benefits(cell, scenario)
    return (
        signed_interval(start),
        speedup_interval(speedups),
        signed_interval(asymptote),
    )


def speedup_interval(speedups: Sequence[float | None]) -> str:
    """The geometric mean of ratios and its interval, or why there is none."""
    reached = [speedup for speedup in speedups if speedup is not None]
    if len(reached) < len(speedups):
        missing = len(speedups) - len(reached)
        return f"never reached in {missing} of {count(len(speedups), 'seed')}"
    if any(math.isnan(speedup) for speedup in reached):
        return "scratch learned nothing"
    if any(math.isinf(speedup) for speedup in reached):
        return ratio(math.inf)
    mean, half_width = statistics.mean_interval([math.log(speedup) for speedup in reached])
    if math.isnan(half_width):
        return ratio(math.exp(mean))
    low, high = math.exp(mean - half_width), math.exp(mean + half_width)
    return f"{ratio(math.exp(mean))} ({two_digits(low)} to {two_digits(high)})"
