"""Words and numbers of a report, as ready html: text that comes with the data is escaped."""

import math
from collections.abc import Iterable
from html import escape

from tljax.analysis.statistics import Interval


def words(scenario: str) -> str:
    return escape(scenario.replace("_", " "))


def listing(names: Iterable[str]) -> str:
    *init, last = names
    return f"{', '.join(init)} and {last}" if init else last


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def comparative(difference: float) -> str:
    if difference == 0:
        return "equal"
    return "higher" if difference > 0 else "lower"


# The entities below: no-break space, minus, plus-minus, infinity, times.


def percent(accuracy: float) -> str:
    return f"{100 * accuracy:.1f}&#160;%"


def percent_interval(interval: Interval) -> str:
    return f"{100 * interval.mean:.1f}{_half_width(interval)}"


def signed_interval(interval: Interval) -> str:
    mean = f"{100 * interval.mean:+.1f}".replace("-", "&#8722;")
    return f"{mean}{_half_width(interval)}"


def points(difference: Interval) -> str:
    return f"{signed_interval(difference)} points"


def _half_width(interval: Interval) -> str:
    if math.isnan(interval.half_width):
        return ""
    return f"&#160;&#177;&#160;{100 * interval.half_width:.1f}"


def ratio(value: float) -> str:
    return "&#8734;" if math.isinf(value) else f"{two_digits(value)}&#215;"


def two_digits(value: float) -> str:
    """About two significant digits, never an exponent."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def verdict(difference: Interval) -> str:
    if math.isnan(difference.half_width):
        return "one seed"
    return "clear" if difference.excludes_zero else "within noise"
