"""What a person reads at the end of a command."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from tljax.commands.publishing import Written
from tljax.errors import printable
from tljax.experiment import Evaluated


def print_result(summary: dict[str, Any]) -> None:
    """The end of a run: test accuracy beside the naive one, what moved, how long it took."""
    console = Console(highlight=False)
    trained, total = summary["trainable_parameters"], summary["total_parameters"]
    if summary.get("test_accuracy") is not None:
        console.print(
            f"[bold]test accuracy {summary['test_accuracy']:.4f}[/] on {summary['test_size']:,}"
            f" images (naive baseline, always the commonest class:"
            f" {summary['naive_accuracy']:.4f})",
            soft_wrap=True,
        )
    for name, task in summary.get("tasks", {}).items():
        if task.get("test_accuracy") is not None:
            console.print(
                f"  {escape(printable(name))}: test accuracy {task['test_accuracy']:.4f} on"
                f" {task['test_size']:,} images (naive {task['naive_accuracy']:.4f})",
                soft_wrap=True,
            )
    stages = summary.get("stages", [])
    for number, stage in enumerate(stages[:-1], 1):
        accuracy = stage["val_accuracy"]
        told = "" if accuracy is None else f": best validation accuracy {accuracy:.4f}"
        console.print(f"stage {number} of {len(stages)}, {stage['steps']} steps{told}")
    if summary["val_accuracy"] is not None:
        last = f"{stages[-1]['steps']} of the last stage" if stages else summary["steps"]
        console.print(
            f"best validation accuracy {summary['val_accuracy']:.4f} on {summary['val_size']:,}"
            f" images, at step {summary['best_step']} of {last}"
            + (" (stopped early)" if summary.get("stopped_early") else ""),
            soft_wrap=True,
        )
    console.print(
        f"trained {trained:,} of {total:,} parameters on {summary['train_size']:,} images"
        f" ({summary['examples_seen']:,} seen) in {summary['wall_seconds']:.1f} s",
        soft_wrap=True,
    )


def print_evaluation(evaluated: Evaluated) -> None:
    """One line: accuracies, loss, and the naive accuracy on the same images."""
    evaluation = evaluated.evaluation
    Console(highlight=False).print(
        f"[bold]accuracy {evaluation.accuracy:.4f}[/] (balanced"
        f" {evaluation.balanced_accuracy:.4f}), loss {evaluation.loss:.4f} on"
        f" {evaluation.count:,} images of {escape(printable(evaluated.data))} ({evaluated.split});"
        f" naive baseline {evaluated.naive:.4f}",
        soft_wrap=True,
    )


def print_written(written: Written) -> None:
    """What `tljax convert` or `tljax export` wrote, and where."""
    card = f" and {written.card}" if written.card else ""
    paths = printable(f"{written.path}{card}")
    Console(highlight=False).print(
        f"wrote {paths}: {written.tensors:,} tensors ({written.family} names)",
        soft_wrap=True,
        markup=False,
    )


def print_predictions(rows: Sequence[tuple[Path, str, float]]) -> None:
    """A table of file, predicted class and its probability."""
    table = Table("file", "prediction", Column("probability", justify="right"), box=None)
    for file, name, probability in rows:
        table.add_row(Text(printable(file)), Text(printable(name)), f"{probability:.4f}")
    width = None if Console().is_terminal else 10_000  # a pipe has no width of its own
    Console(highlight=False, width=width).print(table)
