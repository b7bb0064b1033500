"""The three benefits of transfer over from-scratch training, as sentences and table entries."""

import math
from collections.abc import Mapping

from tljax.analysis import benefits as measures
from tljax.analysis.benefits import Benefits, Bound, Curve, RatioInterval
from tljax.analysis.comparison import Comparison
from tljax.analysis.report.cells import Cell, MeanCurve, ReportedRun, pair_with_scratch
from tljax.analysis.report.figures import REFERENCE
from tljax.analysis.report.formatting import (
    comparative,
    plural,
    ratio,
    scenario_name,
    two_digits,
    verdict,
)
from tljax.analysis.report.measures import ACCURACY, Measure

THRESHOLD_PERCENT = f"{100 * measures.THRESHOLD_SHARE:.0f}&#160;%"

# The columns of `benefit_row`.
BENEFIT_COLUMNS = (
    "scenario",
    "start, points",
    f"images to {THRESHOLD_PERCENT} of scratch, ratio",
    "asymptote, points",
)

HOW_BENEFITS_ARE_PAIRED = """\
<p>Mean &#177; half of the 95&#160;% interval over seeds, each seed compared with the from-scratch
run of the same seed; predictions for validation images are not kept, so these intervals are over
seeds only. A ratio above 1 means fewer images than from scratch; its mean is geometric, its
interval in brackets. At least, at most: the curves determine no more than a bound.</p>"""

# What "asymptote" and "threshold" mean, as sentences in HTML.
END_OF_CURVE = f"""\
Asymptote: difference of the means over the evaluations in the last
{100 * measures.WINDOW:.0f}&#160;% of the images, at least the last evaluation. The threshold is
{THRESHOLD_PERCENT} of the from-scratch asymptote."""


def compute_benefits(cell: Cell[ReportedRun], scenario: str) -> Benefits:
    """Computes the benefits of a scenario over from scratch, each run paired by seed."""
    pairs = pair_with_scratch(cell, scenario)
    transfer, scratch = ({n: pair[side].curve for n, pair in enumerate(pairs)} for side in (0, 1))
    return measures.benefits(transfer, scratch)


def benefit_sentences(
    cell: Cell[ReportedRun],
    scenario: str,
    curves: Mapping[str, MeanCurve],
    measure: Measure = ACCURACY,
) -> tuple[str, str, str]:
    """Start, slope and asymptote of a scenario as sentences in HTML.

    Args:
      cell: the runs.
      scenario: the one that is compared with from scratch.
      curves: the mean curve of each scenario of the cell.
      measure: of the curves; more of it is better.
    """
    benefits = compute_benefits(cell, scenario)
    start, asymptote = benefits.higher_start, benefits.higher_asymptote
    transfer, scratch = curves[scenario].means, curves[REFERENCE].means
    first = measures.first_evaluation(transfer, scratch)
    return (
        f"<b>{comparative(start.mean)} start</b>: {measure.difference(start)} after {first:,}"
        f" images ({verdict(Comparison(start))})",
        _slope_sentence(transfer, scratch, measure),
        f"<b>{comparative(asymptote.mean)} asymptote</b>: {measure.difference(asymptote)}"
        f" ({verdict(Comparison(asymptote))})",
    )


def _slope_sentence(transfer: Curve, scratch: Curve, measure: Measure) -> str:
    """Compares the images that the two mean curves take to reach the threshold."""
    theta = measures.threshold(scratch)
    level = measure.value(theta)
    if theta < 0:  # R2 of a network that is worse than the mean
        end = measure.value(measures.asymptote(scratch))
        return f"<b>no slope to compare</b>: from scratch ends at {end}"
    early, late = (measures.examples_to_threshold(curve, theta) for curve in (transfer, scratch))
    if not late:
        return f"<b>no slope to compare</b>: from scratch is at {level} before it trains"
    if early is None:
        return f"<b>lower slope</b>: it never reaches {level}, from scratch after {late:,} images"
    found = measures.time_ratio(transfer, scratch, theta)
    if math.isnan(found.value):
        return f"<b>no slope to compare</b>: both jump to {level} from where they begin"
    # A time before which nothing was seen may be shorter.
    within = {"exact": ("", ""), "at least": ("at most ", ""), "at most": ("", "at most ")}
    early_bound, late_bound = within[found.bound]
    when = f"after {early_bound}{early:,} images" if early else "before it trains"
    return (
        f"<b>{comparative(late - early)} slope</b>: {level} on the mean curves {when}, from scratch"
        f" after {late_bound}{late:,} ({_BOUNDS[found.bound]}{ratio(found.value)})"
    )


def benefit_row(
    cell: Cell[ReportedRun], scenario: str, target: str, measure: Measure = ACCURACY
) -> list[str]:
    """Start, slope and asymptote of a scenario over from scratch, as a row of `BENEFIT_COLUMNS`.

    Args:
      cell: the runs.
      scenario: the one that is compared with from scratch.
      target: the name of the cell's target, in HTML.
      measure: of the curves; more of it is better.
    """
    name = f"{scenario_name(scenario)}<small>{target}</small>"
    if scenario == REFERENCE:
        return [name, *["reference"] * 3]
    benefits = compute_benefits(cell, scenario)
    return [
        name,
        measure.signed(benefits.higher_start),
        _ratio_interval(benefits.time_ratio),
        measure.signed(benefits.higher_asymptote),
    ]


_BOUNDS: dict[Bound, str] = {"exact": "", "at least": "at least ", "at most": "at most "}


def _ratio_interval(over_seeds: RatioInterval) -> str:
    """The geometric mean of a ratio and its interval, or the bound that is known."""
    mean, ends = over_seeds.interval.mean, over_seeds.interval
    if math.isnan(mean):
        unknown = over_seeds.undetermined or over_seeds.censored
        return f"undetermined in {unknown} of {plural(over_seeds.seeds, 'seed')}"
    text = f"{_BOUNDS[over_seeds.bound]}{ratio(mean)}"
    if over_seeds.censored:
        return f"{text} (a bound in {over_seeds.censored} of {plural(over_seeds.seeds, 'seed')})"
    if math.isnan(ends.low):
        return text
    return f"{text} ({two_digits(ends.low)} to {two_digits(ends.high)})"
