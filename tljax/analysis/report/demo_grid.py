"""What the runs of `tljax demo` show: the winner on each target, and whether its lead is clear."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tljax.analysis import statistics
from tljax.analysis.comparison import Comparison, compare
from tljax.analysis.report.cells import Cell, validation_curve, values_by_seed
from tljax.analysis.report.formatting import plural, verdict
from tljax.analysis.statistics import Interval
from tljax.transfer.scenarios import SCENARIOS


@dataclass(frozen=True)
class DemoRun:
    """A run of the demo: its place in the grid, its `result.json`, and its `metrics.jsonl`."""

    target: str
    size: str
    scenario: str
    seed: int
    summary: dict[str, Any]
    history: list[dict[str, Any]]

    @property
    def curve(self) -> list[tuple[int, float]]:
        """(images seen, validation accuracy) of each evaluation; the first is before training."""
        return validation_curve(self.history)


DemoCell = Cell[DemoRun]


@dataclass(frozen=True)
class CellRow:
    """One target at one size, over all seeds.

    Attributes:
      target, size: names of the target and of its size.
      train_size: number of training images.
      seeds: runs of each scenario.
      scores: test accuracy of each scenario, in the order of `SCENARIOS`.
      naive: test accuracy of always answering the commonest training class.
      prescribed: the textbook's scenario.
      winner, runner_up: the two highest mean test accuracies; at a tie, the order of `SCENARIOS`.
      margin: winner - runner-up, over seeds only: the demo keeps no predictions.
      shortfall: winner - prescribed, likewise.
    """

    target: str
    size: str
    train_size: int
    seeds: int
    scores: dict[str, Interval]
    naive: float
    prescribed: str
    winner: str
    runner_up: str
    margin: Comparison
    shortfall: Comparison

    @property
    def best(self) -> list[str]:
        """The winner, and the scenarios with the same mean."""
        top = self.scores[self.winner].mean
        return [s for s, score in self.scores.items() if math.isclose(score.mean, top)]

    @property
    def verdict(self) -> str:
        """Of the winner against the runner-up; see `formatting.verdict`."""
        return verdict(self.margin)


def group_cells(runs: Iterable[DemoRun]) -> dict[tuple[str, str], DemoCell]:
    """Groups runs by (target, size), then by scenario in the order of `SCENARIOS`, then by seed."""
    grouped: dict[tuple[str, str], dict[str, dict[int, DemoRun]]] = {}
    for run in runs:
        cell = grouped.setdefault((run.target, run.size), {})
        cell.setdefault(run.scenario, {})[run.seed] = run
    return {
        place: {scenario: cell[scenario] for scenario in sorted(cell, key=SCENARIOS.index)}
        for place, cell in grouped.items()
    }


def cell_table(runs: Sequence[DemoRun], prescribed: Mapping[tuple[str, str], str]) -> list[CellRow]:
    """Summarises each (target, size), in the order of `runs`.

    Args:
      runs: of any targets, sizes and seeds; each (target, size) has two scenarios or more.
      prescribed: the textbook's scenario for each (target, size).
    """
    return [_cell_row(cell, prescribed[place]) for place, cell in group_cells(runs).items()]


def _cell_row(cell: DemoCell, prescribed: str) -> CellRow:
    accuracies = {
        scenario: values_by_seed(by_seed, "test_accuracy") for scenario, by_seed in cell.items()
    }
    scores = {
        scenario: statistics.mean_interval(list(by_seed.values()))
        for scenario, by_seed in accuracies.items()
    }
    # Rounded, so that the last bit of a sum does not decide between equal means.
    winner, runner_up, *_ = sorted(scores, key=lambda s: -round(scores[s].mean, 12))
    every_run = [run for by_seed in cell.values() for run in by_seed.values()]
    first = every_run[0]
    return CellRow(
        target=first.target,
        size=first.size,
        train_size=first.summary["train_size"],
        seeds=max(len(by_seed) for by_seed in cell.values()),
        scores=scores,
        naive=float(np.mean([run.summary["naive_accuracy"] for run in every_run])),
        prescribed=prescribed,
        winner=winner,
        runner_up=runner_up,
        margin=compare(accuracies[winner], accuracies[runner_up]),
        shortfall=compare(accuracies[winner], accuracies[prescribed]),
    )


def finding(rows: Sequence[CellRow]) -> str:
    """States in one sentence how often the textbook's scenario was the best."""
    total, seeds = len(rows), max(row.seeds for row in rows)
    highest = sum(row.prescribed in row.best for row in rows)
    sentence = (
        "The textbook's scenario had the highest mean test accuracy in"
        f" {highest} of {plural(total, 'target')}"
    )
    if seeds == 1:
        return f"{sentence}; with one seed there is no telling a difference from noise."
    behind = sum(row.prescribed not in row.best and row.shortfall.is_clear for row in rows)
    noisy = sum(not row.margin.is_clear for row in rows)
    return (
        f"{sentence} and was clearly behind the best in {behind}; in {noisy} of {total} the"
        f" difference between the best and the runner-up is within the noise of {seeds} seeds."
        " These intervals are over seeds only; with other test images accuracies vary, too."
    )
