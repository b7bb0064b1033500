"""Cells: the runs of one target by scenario and seed, and what is computed from them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from tljax.analysis.report.figures import REFERENCE


class ReportedRun(Protocol):
    """What a report needs of a run; `FinishedRun` and `DemoRun` have it."""

    @property
    def summary(self) -> Mapping[str, Any]:
        """The fields of `result.json`."""

    @property
    def curve(self) -> list[tuple[int, float]]:
        """(images seen, validation score) of each evaluation; see `validation_curve`."""


Run = TypeVar("Run", bound=ReportedRun)

# Runs by scenario, then by seed. All of them have the same data and the same training images.
Cell = Mapping[str, Mapping[int, Run]]


@dataclass(frozen=True)
class MeanCurve:
    """Validation score of one scenario over its seeds, at the evaluations all seeds share.

    Attributes:
      means: (images seen, mean score) of each evaluation.
      lowest, highest: the lowest and the highest score of a seed there.
    """

    means: list[tuple[int, float]]
    lowest: list[float]
    highest: list[float]


def mean_curve(runs: Iterable[ReportedRun]) -> MeanCurve:
    """Averages the curves of at least one run."""
    curves = [dict(run.curve) for run in runs]
    examples = sorted(set.intersection(*(set(curve) for curve in curves)))
    scores = np.array([[curve[x] for x in examples] for curve in curves])
    return MeanCurve(
        means=list(zip(examples, scores.mean(axis=0).tolist(), strict=True)),
        lowest=scores.min(axis=0).tolist(),
        highest=scores.max(axis=0).tolist(),
    )


def validation_curve(
    history: Iterable[Mapping[str, Any]], score: str = "accuracy"
) -> list[tuple[int, float]]:
    """(images seen, validation score) of each evaluation among the rows of `metrics.jsonl`.

    With `wise_ft` the curve ends with the trained weights. Those that are chosen on the line have
    seen no further image: they are the result, and no point of the curve.
    """
    rows = [row for row in history if row["event"] == "val" and not row.get("chosen")]
    return [(row["examples"], row[score]) for row in rows]


def values_by_seed(runs: Mapping[int, ReportedRun], field: str) -> dict[int, float]:
    """A field of `result.json` for each seed."""
    return {seed: run.summary[field] for seed, run in runs.items()}


def mean_seconds(runs: Mapping[int, ReportedRun]) -> str:
    """Wall time of a run in seconds, the mean over seeds, as text."""
    return f"{float(np.mean(list(values_by_seed(runs, 'wall_seconds').values()))):,.1f}"


def pair_with_scratch(cell: Cell[Run], scenario: str) -> list[tuple[Run, Run]]:
    """Pairs the scenario's runs with the from-scratch runs of the same seeds.

    Returns:
      (transfer run, from-scratch run) for each seed that has both.
    """
    scratch = cell[REFERENCE]
    return [(run, scratch[seed]) for seed, run in cell[scenario].items() if seed in scratch]
