"""What a person reads after `tljax train` and `tljax evaluate`."""

from typing import Any

from rich.console import Console

from tljax.training.evaluation import Evaluation


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
    if summary["val_accuracy"] is not None:
        console.print(
            f"best validation accuracy {summary['val_accuracy']:.4f} on {summary['val_size']:,}"
            f" images, at step {summary['best_step']} of {summary['steps']}",
            soft_wrap=True,
        )
    console.print(
        f"trained {trained:,} of {total:,} parameters on {summary['train_size']:,} images"
        f" ({summary['examples_seen']:,} seen) in {summary['wall_seconds']:.1f} s",
        soft_wrap=True,
    )


def print_evaluation(evaluation: Evaluation, naive: float, data: str, split: str) -> None:
    """One line: accuracy, loss, and the naive accuracy on the same images."""
    Console(highlight=False).print(
        f"[bold]accuracy {evaluation.accuracy:.4f}[/], loss {evaluation.loss:.4f} on"
        f" {evaluation.count:,} images of {data} ({split}); naive baseline {naive:.4f}",
        soft_wrap=True,
    )
