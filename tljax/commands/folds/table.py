"""What `tljax folds` prints and keeps: each fold's scores, their mean, and all answers together."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Column, Table

from tljax.analysis.statistics import mean_interval
from tljax.analysis.tables import score
from tljax.commands.folds.out_of_fold import DoneFold
from tljax.errors import printable
from tljax.experiment import Folds
from tljax.runs.baseline import compare

_log = logging.getLogger("tljax")


@dataclass(frozen=True)
class Score:
    """A number of `result.json` that each fold has: the head of its column, and its field."""

    head: str
    field: str


SCORES = (
    Score("accuracy", "test_accuracy"),
    Score("balanced accuracy", "test_balanced_accuracy"),
    Score("naive baseline", "naive_accuracy"),
)


def summarise(folds: Folds, done: Sequence[DoneFold]) -> dict[str, Any]:
    """Returns what `folds.json` says of the results.

    Returns:
      JSON: `done`, the folds; `scores`, for each of `SCORES` its values, mean and 95 % interval
      over folds; `out_of_fold`, the scores of all answers together; and `without_answer`, numbers
      of images.
    """
    scores = {}
    for kind in SCORES:
        values = [fold.result[kind.field] for fold in done]
        mean = mean_interval(values)
        ends = None if len(values) == 1 else [mean.low, mean.high]
        scores[kind.field] = {"values": values, "mean": mean.mean, "interval": ends}
    numbers = [fold.number for fold in done]
    answered = sum(len(fold.answers) for fold in done)
    of_done = sum(folds.sizes[number] for number in numbers)
    return {
        "done": numbers,
        "scores": scores,
        "out_of_fold": _out_of_fold(done),
        "without_answer": {
            "unreadable": of_done - answered,
            "fold_not_done": sum(folds.sizes) - of_done,
        },
    }


def _out_of_fold(done: Sequence[DoneFold]) -> dict[str, Any]:
    """The scores of all answers together, each of a network that did not train on the image."""
    labels = np.concatenate([fold.answers.labels for fold in done])
    right = labels == np.concatenate([fold.answers.predicted for fold in done])
    naive = sum(fold.result["naive_accuracy"] * fold.result["test_size"] for fold in done)
    compared = compare(
        float(right.mean()), float(naive / len(labels)), len(labels), "cross-validation"
    )
    counts = np.bincount(labels)
    recalls = np.bincount(labels, right)[counts > 0] / counts[counts > 0]
    return compared | {"balanced_accuracy": float(recalls.mean())}


def print_folds(
    folds: Folds, done: Sequence[DoneFold], summary: dict[str, Any], answers: Path
) -> None:
    """Prints a row for each fold that is done, their mean, and a line of all answers together.

    Args:
      folds: all of them.
      done: those that are done.
      summary: of `summarise`.
      answers: the file with the answers.
    """
    heads = [Column(kind.head, justify="right") for kind in SCORES]
    table = Table("fold", Column("images", justify="right"), *heads)
    for fold in done:
        cells = [f"{fold.result[kind.field]:.4f}" for kind in SCORES]
        table.add_row(str(fold.number), f"{len(fold.answers):,}", *cells)
    table.add_section()
    means = [score(mean_interval(summary["scores"][kind.field]["values"])) for kind in SCORES]
    table.add_row("mean", "", *means)
    console = Console(highlight=False, soft_wrap=True)
    (console if console.is_terminal else Console(highlight=False, width=10_000)).print(table)
    console.print("mean: over folds, with half of its 95 % t interval")
    found = summary["out_of_fold"]
    low, high = found["interval"]
    console.print(
        f"[bold]out of fold: accuracy {found['accuracy']:.4f}[/] (balanced"
        f" {found['balanced_accuracy']:.4f}) on {found['images']:,} images, exact 95 % interval"
        f" {low:.4f} to {high:.4f}; naive baseline, always the commonest class:"
        f" {found['naive_accuracy']:.4f}"
    )
    if folds.grouped:
        console.print(
            "the exact interval takes the images as independent, so it is too narrow for images"
            " that come in groups"
        )
    if not found["verdict"]:
        console.print("[bold]the folds do not beat the naive baseline[/]")
    _warn_of_missing(folds, done, summary["without_answer"])
    console.print(f"every answer: {printable(answers)}", markup=False)


def _warn_of_missing(folds: Folds, done: Sequence[DoneFold], missing: dict[str, int]) -> None:
    """Warns of images without an answer, with their number and the reasons."""
    total = sum(missing.values())
    if not total:
        return
    reasons = []
    if missing["unreadable"]:
        reasons.append(f"{missing['unreadable']:,} could not be read")
    if missing["fold_not_done"]:
        there = {fold.number for fold in done}
        left = [name for number, name in enumerate(folds.names) if number not in there]
        reasons.append(f"{missing['fold_not_done']:,} are in {', '.join(left)}, not done yet")
    _log.warning(
        "%s of %s images have no answer: %s",
        *(f"{total:,}", f"{sum(folds.sizes):,}", "; ".join(reasons)),
    )
