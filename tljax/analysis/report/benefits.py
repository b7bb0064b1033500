"""The three benefits of transfer between runs and their from-scratch twins, in words."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, TypeVar

from tljax.analysis import benefits as measures
from tljax.analysis import statistics
from tljax.analysis.benefits import Benefits, Bound, RatioInterval
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

SHARE = f"{100 * measures.THRESHOLD_SHARE:.0f}&#160;%"


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
    bought = benefits(cell, chosen)
    start, asymptote = bought.higher_start, bought.higher_asymptote
    transfer, scratch = curves[chosen].means, curves[REFERENCE].means
    theta = measures.threshold(scratch)
    first = measures.first_evaluation(transfer, scratch)
    return (
        f"<b>{comparative(start.mean)} start</b>: {points(start)} after {first:,} images"
        f" ({verdict(start)})",
        _slope_sentence(
            measures.examples_to_threshold(transfer, theta),
            measures.examples_to_threshold(scratch, theta),
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


def benefits(cell: Cell[HasCurve], scenario: str) -> Benefits:
    """Of a scenario, against from scratch."""
    pairs = twins(cell, scenario)
    transfer, scratch = ({n: pair[side].curve for n, pair in enumerate(pairs)} for side in (0, 1))
    return measures.benefits(transfer, scratch)


def benefit_entries(cell: Cell[HasCurve], scenario: str) -> tuple[str, str, str]:
    """Start, slope and asymptote of a scenario against from scratch, as entries of a table."""
    if scenario == REFERENCE:
        return ("reference",) * 3
    bought = benefits(cell, scenario)
    return (
        signed_interval(bought.higher_start),
        ratio_interval(bought.time_ratio),
        signed_interval(bought.higher_asymptote),
    )


_BOUNDS: dict[Bound, str] = {"exact": "", "at least": "at least ", "at most": "at most "}


def ratio_interval(over_seeds: RatioInterval) -> str:
    """The geometric mean of a ratio and its interval, or how far it is known."""
    mean, ends = over_seeds.interval.mean, over_seeds.interval
    if math.isnan(mean):
        unknown = over_seeds.undetermined or over_seeds.censored
        return f"undetermined in {unknown} of {count(over_seeds.seeds, 'seed')}"
    text = f"{_BOUNDS[over_seeds.bound]}{ratio(mean)}"
    if over_seeds.censored:
        return f"{text} (a bound in {over_seeds.censored} of {count(over_seeds.seeds, 'seed')})"
    if math.isnan(ends.low):
        return text
    return f"{text} ({two_digits(ends.low)} to {two_digits(ends.high)})"
