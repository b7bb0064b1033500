"""Metrics by name: what they are called, which way is better, and which one decides a run."""

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
