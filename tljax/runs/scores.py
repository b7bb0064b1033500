"""Metrics by name: what they are called, how they are written, which way is better."""

import math
from collections.abc import Mapping
from typing import Any

WORDS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "mean_average_precision": "mean average precision",
    "r2": "R2",
    "rmse": "root mean squared error",
    "mae": "mean absolute error",
    "loss": "loss",
}
LOWER_IS_BETTER = ("rmse", "mae", "loss")
BY_NO_IMAGES = "no images: 0.5"  # what `thresholds_chosen_on` of a result says then
_IN_UNITS = ("rmse", "mae")
_LONGEST = 8  # decimals, or zeros before the point, of a number without an exponent


def score_of(result: Mapping[str, Any]) -> str:
    """The name of the metric that decides a run, of its `result.json` or of a `val` row."""
    return str(result.get("score", "accuracy"))


def score(result: Mapping[str, Any], split: str) -> float | None:
    """The value of that metric in a result on a split, `val` or `test`; None if it has none."""
    value = result.get(f"{split}_{score_of(result)}")
    return None if value is None else float(value)


def rank(name: str, value: float) -> float:
    """A number of which more is better."""
    return -value if name in LOWER_IS_BETTER else value


def figure(value: float, metric: str, size: float | None = None, digits: int = 4) -> str:
    """A metric with four decimals or, if it is an error in units of its own, four digits.

        figure(0.84812, "r2"), figure(3.1234e-12, "rmse")  # 0.8481, 3.12e-12

    Args:
      value: of the metric.
      metric: its name.
      size: what has four digits, e.g. the metric, of the ends of its interval; None: the value.
      digits: decimals or digits, another number than four.
    """
    if metric not in _IN_UNITS:
        return f"{value:z.{digits}f}"
    return three_digits(value, abs(value if size is None else size) / 10 ** (digits - 3))


def three_digits(value: float, size: float, sign: str = "") -> str:
    """A number with three digits of what is as large as `size`, e.g. `1,234`, `0.0123`.

    Args:
      value: the number.
      size: e.g. of the larger numbers that stand beside it; not negative.
      sign: `+`: a sign stands before positive numbers, too.
    """
    decimals = 2 - math.floor(math.log10(size)) if size else 0
    if abs(decimals) > _LONGEST:
        return f"{value:{sign}.2e}"
    return f"{value:{sign}z,.{max(decimals, 0)}f}"
