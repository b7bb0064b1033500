"""Measures: the metric that decides a run, and how a report shows its values."""

import math
from dataclasses import dataclass

from tljax.analysis.statistics import Interval
from tljax.runs.scores import LOWER_IS_BETTER, WORDS, three_digits


@dataclass(frozen=True)
class Measure:
    """A metric of runs, as a report shows it.

    Shares, such as accuracy, are shown in per cent; R2, errors and losses as plain numbers.

    Attributes:
      name: of `tljax.runs.scores.WORDS`.
    """

    name: str = "accuracy"

    @property
    def words(self) -> str:
        """What it is called, as plain text."""
        return WORDS[self.name].replace("R2", "R\N{SUPERSCRIPT TWO}")

    @property
    def is_share(self) -> bool:
        """Whether it lies between 0 and 1, and is shown in per cent."""
        return self.name not in ("r2", *LOWER_IS_BETTER)

    @property
    def more_is_better(self) -> bool:
        return self.name not in LOWER_IS_BETTER

    @property
    def best(self) -> str:
        """`highest` or `lowest`: which value is the best."""
        return "highest" if self.more_is_better else "lowest"

    def value(self, value: float | None) -> str:
        """E.g. `91.2 %`, or `0.842` of R2; of what was not measured a dash."""
        if value is None:
            return "&#8211;"
        return f"{self._number(value)}{'&#160;%' if self.is_share else ''}"

    def bare(self, value: float | None) -> str:
        """The same without the sign of per cent."""
        return "&#8211;" if value is None else self._number(value)

    def interval(self, interval: Interval) -> str:
        """Without a unit, e.g. `91.2 ± 1.3`; of one value the mean alone."""
        return f"{self._number(interval.mean, interval)}{self.ends(interval)}"

    def interval_with_unit(self, interval: Interval) -> str:
        """E.g. `91.2 ± 1.3 %`."""
        return f"{self.interval(interval)}{'&#160;%' if self.is_share else ''}"

    def signed(self, interval: Interval) -> str:
        """The same for a difference, e.g. `+2.1 ± 1.3`."""
        return f"{self._number(interval.mean, interval, '+')}{self.ends(interval, '+')}"

    def difference(self, interval: Interval) -> str:
        """A difference with its unit, e.g. `+2.1 ± 1.3 points`."""
        return f"{self.signed(interval)}{' points' if self.is_share else ''}"

    def ends(self, interval: Interval, sign: str = "") -> str:
        """E.g. ` ± 1.3`, or ` (89.5 to 92.1)` if one end is farther off; "" of one value."""
        if math.isnan(interval.half_width):
            return ""
        if not interval.is_symmetric:
            low, high = (self._number(end, interval, sign) for end in (interval.low, interval.high))
            return f" ({low} to {high})"
        return f"&#160;&#177;&#160;{self._number(interval.half_width, interval)}"

    def between(self, low: float, high: float) -> str:
        """The ends of an interval without a unit, e.g. `88.1 to 93.0`."""
        both = Interval(max(abs(low), abs(high)), low, high)
        return f"{self._number(low, both)} to {self._number(high, both)}"

    def _number(self, value: float, among: Interval | None = None, sign: str = "") -> str:
        """The value with as many decimals as the mean of `among` has."""
        if self.is_share:
            return _with_minus(f"{100 * value:{sign}.1f}")
        if self.name == "r2":
            return _with_minus(f"{value:{sign}.3f}")
        largest = abs(value)
        if among is not None:
            half = 0.0 if math.isnan(among.half_width) else among.half_width
            largest = max(abs(among.mean), half)
        return plain_number(value, largest, sign)


ACCURACY = Measure()


def plain_number(value: float, size: float, sign: str = "") -> str:
    """As `tljax.runs.scores.three_digits`, in HTML."""
    return _with_minus(three_digits(value, size, sign))


def _with_minus(text: str) -> str:
    """The text with a minus sign; what was rounded to 0 has none."""
    is_zero = not any(digit in text.partition("e")[0] for digit in "123456789")
    return text.removeprefix("-") if is_zero else text.replace("-", "&#8722;")
