"""`tljax train`."""

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from tljax.commands.arguments import add_config, load_config
from tljax.errors import printable
from tljax.runs.scores import BY_NO_IMAGES, WORDS, figure, score, score_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "example: tljax train --config configs/fine_tune.py --workdir runs/pets"
        " --config.data=folder:PETS --config.init_from=runs/source"
    )
    add_config(parser)
    parser.add_argument(
        "--workdir", required=True, metavar="DIR", help="for checkpoints, metrics and the result"
    )
    parser.add_argument(
        "--accept_changes",
        action="store_true",
        help="resume a run although versions, code or devices have changed since it began; its"
        " result lists the changes",
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="write a trace of a few steps to DIR/profile, for TensorBoard or ui.perfetto.dev",
    )
    processes = parser.add_argument_group(
        "several processes",
        "Run the same command on every machine, each with its own --process_id. Not needed on TPU"
        " VMs, which find each other.",
    )
    processes.add_argument(
        "--coordinator_address", metavar="HOST:PORT", help="a free port on process 0's machine"
    )
    processes.add_argument("--num_processes", type=int, metavar="N", help="number of processes")
    processes.add_argument(
        "--process_id", type=int, metavar="I", help="of this process: 0 to N - 1"
    )


def run(args: argparse.Namespace, overrides: list[str]) -> None:
    """Train a model from a config; run the same command again to resume an interrupted run."""
    config = load_config(args.config, overrides)
    from tljax import experiment
    from tljax.devices import processes

    processes.join(args.coordinator_address, args.num_processes, args.process_id)
    with processes.detect_lost_process():
        result = experiment.run(
            config,
            Path(args.workdir),
            accept_changes=args.accept_changes,
            profile=args.profile,
        )
    if processes.is_first():
        print_result(result.summary)


def print_result(summary: dict[str, Any]) -> None:
    """Prints the end of a run: accuracies, stages, parameters trained, images seen, seconds.

    Args:
      summary: the content of `result.json`.
    """
    console = Console(highlight=False, soft_wrap=True)
    _print_test(summary, console)
    _print_outputs(summary, console)
    _print_if_not_better(summary, console)
    stages = summary.get("stages", [])
    for number, stage in enumerate(stages[:-1], 1):
        reached = score(stage | {"score": score_of(summary)}, "val")
        name = score_of(summary)
        best = "" if reached is None else f": best validation {WORDS[name]} {figure(reached, name)}"
        console.print(f"stage {number} of {len(stages)}, {stage['steps']} steps{best}")
    name, validated = WORDS[score_of(summary)], score(summary, "val")
    shown = "" if validated is None else figure(validated, score_of(summary))
    if "validated_by" in summary and validated is not None:
        console.print(
            f"{name} {shown} on {summary['train_size']:,} training images"
            f" out of fold (there are no validation images)"
        )
    elif validated is not None:
        last = f"{stages[-1]['steps']} of the last stage" if stages else summary["steps"]
        where = f"at step {summary['best_step']} of {last}"
        if "wise_ft" in summary:
            where = f"at {summary['wise_ft']['alpha']:g} on the line from step 0 to step {last}"
        console.print(
            f"best validation {name} {shown} on {summary['val_size']:,}"
            f" images, {where}" + (" (stopped early)" if summary.get("stopped_early") else "")
        )
    console.print(
        f"trained {summary['trainable_parameters']:,} of {summary['total_parameters']:,} parameters"
        f" on {summary['train_size']:,} images ({summary['examples_seen']:,} seen) in"
        f" {summary['wall_seconds']:.1f} s"
    )


def _print_if_not_better(summary: dict[str, Any], console: Console) -> None:
    """Prints a sentence if the run, or a task, is not known to beat the naive baseline."""
    from tljax.runs.baseline import compared, describe

    tasks = {f" on {name}": task for name, task in summary.get("tasks", {}).items()}
    for where, result in {"": summary, **tasks}.items():
        found = compared(result)
        if found is None:
            why = "no test or validation image tells whether the run beats the naive baseline"
            console.print(why + escape(printable(where)))
        elif not found["verdict"]:
            console.print(
                f"[bold]the run does not beat the naive baseline[/]{escape(printable(where))}:"
                f" {describe(found)}"
            )


def _print_outputs(summary: dict[str, Any], console: Console) -> None:
    """Prints the test metrics of several labels an image, or of numbers, with their intervals."""
    if "test_intervals" not in summary:
        return
    for name, ends in summary["test_intervals"].items():
        value = summary[f"test_{name}"]
        low, high = (figure(end, name, value) for end in ends)
        console.print(
            f"[bold]test {WORDS[name]} {figure(value, name)}[/] (95 % interval {low} to"
            f" {high}; always the same answer: {figure(summary[f'naive_{name}'], name)})"
        )
    console.print(f"on {summary['test_size']:,} images")
    if "thresholds" in summary:
        which = summary["thresholds_chosen_on"]
        chosen = (
            "are 0.5: no images could choose them"
            if which == BY_NO_IMAGES
            else f"chosen on {which}"
        )
        console.print(f"thresholds of F1 {chosen}")


def _print_test(summary: dict[str, Any], console: Console) -> None:
    if summary.get("test_accuracy") is not None:
        console.print(
            f"[bold]test accuracy {summary['test_accuracy']:.4f}[/] on {summary['test_size']:,}"
            f" images (naive baseline, always the commonest class:"
            f" {summary['naive_accuracy']:.4f})"
        )
    for name, task in summary.get("tasks", {}).items():
        if task.get("test_accuracy") is not None:
            console.print(
                f"  {escape(printable(name))}: test accuracy {task['test_accuracy']:.4f} on"
                f" {task['test_size']:,} images (naive {task['naive_accuracy']:.4f})"
            )
