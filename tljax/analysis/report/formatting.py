"""Numbers and names of a report as HTML: text from the data is escaped."""

import math
from collections.abc import Iterable
from html import escape

from tljax.analysis.comparison import Comparison
from tljax.analysis.report.measures import ACCURACY, Measure
from tljax.analysis.statistics import BOOTSTRAP_FROM, Interval, interval_name


def scenario_name(scenario: str) -> str:
    """`fine tune` for `fine_tune`."""
    return escape(scenario.replace("_", " "))


def join_names(names: Iterable[str]) -> str:
    """`a, b and c`."""
    *init, last = names
    return f"{', '.join(init)} and {last}" if init else last


def plural(number: int, noun: str) -> str:
    """`1 seed`, `2 seeds`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def comparative(difference: float) -> str:
    """`higher`, `lower` or `equal`, by the sign."""
    if difference == 0:
        return "equal"
    return "higher" if difference > 0 else "lower"


# The entities below are no-break space, infinity and times.


def percent(accuracy: float | None) -> str:
    """E.g. `91.2 %`; of what was not measured a dash."""
    return ACCURACY.value(accuracy)


def percent_interval(interval: Interval) -> str:
    """In per cent without the sign, e.g. `91.2 ± 1.3`; of one value the mean alone."""
    return ACCURACY.interval(interval)


def ratio(value: float) -> str:
    """A ratio to two digits with the times sign."""
    return "&#8734;" if math.isinf(value) else f"{two_digits(value)}&#215;"


def two_digits(value: float) -> str:
    """The value to about two significant digits, without an exponent."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def about_intervals(counts: Iterable[int]) -> str:
    """Which intervals over seeds a report gives, as a sentence in HTML.

    Args:
      counts: the numbers of seeds that they are over.
    """
    bootstrap = ""
    if max(counts, default=0) >= BOOTSTRAP_FROM:
        name = interval_name(BOOTSTRAP_FROM)
        bootstrap = f", from {BOOTSTRAP_FROM} seeds on {name}s, whose ends are in brackets"
    return (
        "Intervals are 95&#160;% Student t intervals over seeds, mean &#177; t s / &#8730;n"
        f"{bootstrap}; with one seed there is none."
    )


def verdict(difference: Comparison) -> str:
    """Whether a difference is clear: its intervals exclude 0.

    Returns:
      `clear`, `clear over seeds only` (predictions for the images are missing), `within noise`, or
      `one seed`.
    """
    if math.isnan(difference.over_seeds.half_width):
        return "one seed"
    if not difference.is_clear:
        return "within noise"
    return "clear over seeds only" if difference.over_both is None else "clear"


def with_images(difference: Comparison) -> str:
    """Half of the interval over seeds and images, e.g. `, ± 2.4 with images`; "" if not known."""
    both = difference.over_both
    if both is None or math.isnan(both.half_width):
        return ""
    return f",{ACCURACY.ends(both)} with images"


def lead_over(margin: Comparison, scenario: str, measure: Measure = ACCURACY) -> str:
    """How far the best scenario is ahead of another one, and whether that is clear."""
    lead = f"{measure.interval(margin.over_seeds)}{with_images(margin)}"
    return f"{lead} over {scenario_name(scenario)}: <b>{verdict(margin)}</b>"
