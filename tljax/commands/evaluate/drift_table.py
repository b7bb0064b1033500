"""What `tljax evaluate --data` prints: the drop in accuracy, and how much a new head recovers."""

import json
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tljax.analysis import statistics
from tljax.analysis.repetitions import comparable_config
from tljax.analysis.statistics import Interval
from tljax.commands.evaluate.drift import Drift
from tljax.errors import printable
from tljax.runs.proportions import Bounds, newcombe, newcombe_paired, wilson


def print_drift(drifts: Sequence[Drift]) -> None:
    """Prints one run with intervals over images, or several runs with an interval over seeds."""
    console = Console(highlight=False, soft_wrap=True)
    if len(drifts) == 1:
        _print_one(drifts[0], console)
    else:
        _print_several(drifts, console)
    if drifts[0].refit is not None:
        refits = [drift.refit for drift in drifts if drift.refit is not None]
        strengths = ", ".join(f"{l2:.3g}" for l2 in sorted({refit.l2 for refit in refits}))
        before = drifts[0].run.result.get("train_size")
        console.print(
            f"new heads: fitted on {refits[0].train_size:,} training images"
            + (f" (the run: {before:,} of its own)" if before else "")
            + f", trunk frozen, L2 strength {strengths} chosen by cross-validation"
        )


def _print_one(drift: Drift, console: Console) -> None:
    shifted = drift.shifted
    count = shifted.evaluation.count
    accuracy = shifted.evaluation.accuracy
    console.print(f"95 % Wilson interval over images: {_range(wilson(accuracy, count))}")
    if drift.own is not None and shifted.split == "test":
        bounds = newcombe(*drift.own, accuracy, count)
        console.print(
            f"[bold]drop {_points(drift.own[0] - accuracy)}[/] from its own test accuracy"
            f" {drift.own[0]:.4f} on {drift.own[1]:,} images"
            f" ({escape(printable(drift.run.config.data))}); 95 % Newcombe interval over images:"
            f" {_range(bounds, 100)}"
        )
    if drift.refit is not None:
        new = drift.refit
        bounds = newcombe_paired(new.right, new.right_before)
        console.print(
            f"[bold]a new head recovers {_points(new.accuracy - accuracy)}[/]: accuracy"
            f" {new.accuracy:.4f}; 95 % Newcombe interval, paired by image: {_range(bounds, 100)}"
        )


def _print_several(drifts: Sequence[Drift], console: Console) -> None:
    first = drifts[0].shifted
    own = first.split == "test" and all(drift.own is not None for drift in drifts)
    columns: dict[str, list[float]] = {}
    if own:
        columns["own test"] = [drift.own[0] for drift in drifts if drift.own is not None]
    columns["shifted"] = [drift.shifted.evaluation.accuracy for drift in drifts]
    if own:
        columns["drop"] = _minus(columns["own test"], columns["shifted"])
    refits = [drift.refit for drift in drifts if drift.refit is not None]
    if refits:
        columns["new head"] = [refit.accuracy for refit in refits]
        columns["recovered"] = _minus(columns["new head"], columns["shifted"])
    table = Table(
        title=f"accuracy on {first.evaluation.count:,} images of"
        f" {escape(printable(first.data))} ({first.split})",
        title_justify="left",
    )
    table.add_column("workdir")
    table.add_column("seed", justify="right")
    for name in columns:
        table.add_column(name, justify="right")
    for row, drift in enumerate(drifts):
        numbers = [f"{values[row]:.4f}" for values in columns.values()]
        name = escape(printable(drift.run.workdir))
        table.add_row(name, str(drift.run.config.seed), *numbers)
    why = _no_interval(drifts)
    if why is None:
        intervals = [statistics.mean_interval(values) for values in columns.values()]
        name = statistics.interval_name(len(drifts))
        table.add_section()
        table.add_row(f"[bold]mean, 95 % {name} over seeds only[/]", "", *map(_mean, intervals))
    width = None if console.is_terminal else 200
    Console(highlight=False, width=width).print(table)
    if why is not None:
        console.print(f"no interval over seeds: {escape(why)}")


def _no_interval(drifts: Sequence[Drift]) -> str | None:
    """Returns why the runs are not repetitions of one another; None if they are."""
    free = {"seed", "init_from"}  # each seed may have a source of its own
    configs = [comparable_config(json.loads(drift.run.config.to_json()), free) for drift in drifts]
    for name, value in configs[0].items():
        if any(config[name] != value for config in configs):
            return f"the runs differ in {name}"
    seeds = [drift.run.config.seed for drift in drifts]
    return "runs share a seed" if len(set(seeds)) < len(seeds) else None


def _mean(interval: Interval) -> str:
    if interval.is_symmetric:
        return f"{interval.mean:.4f} ±{interval.half_width:.4f}"
    return f"{interval.mean:.4f} ({interval.low:.4f} to {interval.high:.4f})"


def _minus(a: Sequence[float], b: Sequence[float]) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]


def _points(difference: float) -> str:
    return f"{100 * difference:.1f} points"


def _range(bounds: Bounds, scale: float = 1) -> str:
    digits = 4 if scale == 1 else 1
    return f"{scale * bounds.low:.{digits}f} to {scale * bounds.high:.{digits}f}"
