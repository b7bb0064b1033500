"""What `tljax folds` prints and keeps: each fold's scores, their mean, and all answers together."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Column, Table

from tljax.analysis.statistics import BOOTSTRAP_FROM, interval_name, mean_interval
from tljax.analysis.tables import score
from tljax.commands.folds.out_of_fold import DoneFold
from tljax.errors import printable
from tljax.experiment import Folds
from tljax.runs.answers import Answers, Outputs
from tljax.runs.baseline import compare, compare_scores
from tljax.runs.scores import WORDS, figure
from tljax.training.problems import MultiLabel, Regression, problem_of
from tljax.training.problems.intervals import bootstrap

_log = logging.getLogger("tljax")


def summarise(folds: Folds, done: Sequence[DoneFold]) -> dict[str, Any]:
    """Returns what `folds.json` says of the results.

    Returns:
      JSON: `done`, the folds; `scores`, for each metric of the runs' results its values, mean and
      95 % interval over folds; `out_of_fold`, how all answers together compare with the naive
      baseline; and `without_answer`, numbers of images.
    """
    scores = {}
    for name in _fields(done[0]):
        values = [fold.result[name] for fold in done]
        mean = mean_interval(values)
        ends = None if len(values) == 1 else [mean.low, mean.high]
        scores[name] = {"values": values, "mean": mean.mean, "interval": ends}
    numbers = [fold.number for fold in done]
    answered = sum(len(fold.answers) for fold in done)
    of_done = sum(folds.sizes[number] for number in numbers)
    is_classes = isinstance(done[0].answers, Answers)
    return {
        "done": numbers,
        "scores": scores,
        "out_of_fold": _pool_classes(done) if is_classes else _pool_outputs(done),
        "without_answer": {
            "unreadable": of_done - answered,
            "fold_not_done": sum(folds.sizes) - of_done,
        },
    }


def _fields(fold: DoneFold) -> list[str]:
    """The fields of `result.json` that the table shows: metrics, then the naive baseline's."""
    names = fold.problem.metrics
    fields = [f"{kind}_{name}" for kind in ("test", "naive") for name in names]
    return [name for name in fields if name in fold.result]


def _metric(field: str) -> str:
    """The metric of a field such as `test_accuracy`."""
    return field.partition("_")[2]


def _head(field: str) -> str:
    kind, _, name = field.partition("_")
    return WORDS[name] if kind == "test" else f"naive {WORDS[name]}"


def _pool_classes(done: Sequence[DoneFold]) -> dict[str, Any]:
    """The accuracy of all answers together, each of a network that did not train on the image."""
    answers = [fold.answers for fold in done if isinstance(fold.answers, Answers)]
    labels = np.concatenate([one.labels for one in answers])
    right = labels == np.concatenate([one.predicted for one in answers])
    naive = sum(fold.result["naive_accuracy"] * fold.result["test_size"] for fold in done)
    compared = compare(
        float(right.mean()), float(naive / len(labels)), len(labels), "cross-validation"
    )
    counts = np.bincount(labels)
    recalls = np.bincount(labels, right)[counts > 0] / counts[counts > 0]
    return compared | {"balanced_accuracy": float(recalls.mean())}


def _pool_outputs(done: Sequence[DoneFold]) -> dict[str, Any]:
    """The same of several labels an image, without thresholds, which the folds choose, or numbers.

    The naive baseline is the best constant answer on all these images.
    """
    problem = problem_of(done[0].problem.kind)
    assert isinstance(problem, MultiLabel | Regression)
    answers = [fold.answers for fold in done if isinstance(fold.answers, Outputs)]
    labels, outputs = (
        np.concatenate([getattr(one, name) for one in answers]) for name in ("labels", "outputs")
    )
    pooled = Outputs(np.arange(len(labels), dtype=np.int32), labels, outputs)
    intervals, scores = bootstrap(problem, pooled, labels), problem.scores(labels, outputs)
    first, *others = problem.metrics
    naive = problem.naive(labels, labels)[first]
    how = (intervals.of[first], intervals.gain, naive, len(labels))
    compared = compare_scores(first, scores[first], *how) | {"on": "cross-validation"}
    return compared | ({} if problem.kind == "multi_label" else {n: scores[n] for n in others})


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
    shown = list(summary["scores"])
    heads = [Column(_head(name), justify="right") for name in shown]
    table = Table("fold", Column("images", justify="right"), *heads)
    for fold in done:
        cells = [figure(fold.result[name], _metric(name)) for name in shown]
        table.add_row(str(fold.number), f"{len(fold.answers):,}", *cells)
    table.add_section()
    means = [
        score(mean_interval(summary["scores"][name]["values"]), _metric(name)) for name in shown
    ]
    table.add_row("mean", "", *means)
    console = Console(highlight=False, soft_wrap=True)
    (console if console.is_terminal else Console(highlight=False, width=10_000)).print(table)
    what = "half of its" if len(done) < BOOTSTRAP_FROM else "its"
    console.print(f"mean: over folds, with {what} 95 % {interval_name(len(done))}")
    found = summary["out_of_fold"]
    console.print(_pooled_line(found))
    if folds.grouped:
        console.print(
            "that interval takes the images as independent, so it is too narrow for images that"
            " come in groups"
        )
    if not found["verdict"]:
        console.print("[bold]the folds do not beat the naive baseline[/]")
    _warn_of_missing(folds, done, summary["without_answer"])
    console.print(f"every answer: {printable(answers)}", markup=False)


def _pooled_line(found: dict[str, Any]) -> str:
    """One line about all answers together."""
    low, high = found["interval"]
    interval = f"95 % interval {low:.4f} to {high:.4f}"
    if "score" not in found:
        return (
            f"[bold]out of fold: accuracy {found['accuracy']:.4f}[/] (balanced"
            f" {found['balanced_accuracy']:.4f}) on {found['images']:,} images, exact {interval};"
            f" naive baseline, always the commonest class: {found['naive_accuracy']:.4f}"
        )
    others = [
        f"{WORDS[name]} {figure(found[name], name)}" for name in ("rmse", "mae") if name in found
    ]
    more = f" ({', '.join(others)})" if others else ""
    return (
        f"[bold]out of fold: {WORDS[found['score']]} {found['value']:.4f}[/]"
        f"{more} on {found['images']:,} images, bootstrap"
        f" {interval}; naive baseline, always the same answer: {found['naive']:z.4f}"
    )


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
