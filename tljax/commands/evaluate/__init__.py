"""`tljax evaluate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from tljax.commands.arguments import add_task, refuse_overrides
from tljax.errors import InputError, printable
from tljax.runs.scores import WORDS, figure

if TYPE_CHECKING:
    from tljax.experiment import Evaluated


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "example: tljax evaluate --workdir runs/pets --data folder:PETS_AT_NIGHT --refit_head"
    )
    parser.add_argument(
        "--workdir",
        required=True,
        nargs="+",
        metavar="DIR",
        help="of runs of `tljax train`; with --data, runs that differ only in seed are averaged;"
        " or of `tljax folds`, whose folds answer together",
    )
    parser.add_argument(
        "--data",
        metavar="DATA",
        help="other data with the same classes, in any form that --config.data takes, to measure"
        " how much accuracy drops on it; default: the data the run was trained on",
    )
    parser.add_argument(
        "--data_dir",
        metavar="DIR",
        help="where the files of tfds: data are; default: as in training",
    )
    parser.add_argument(
        "--refit_head",
        action="store_true",
        help="with --data: also fit a new head on its training images, with all other weights"
        " frozen, to measure how much accuracy that recovers",
    )
    add_task(parser)
    parser.add_argument(
        "--split", choices=("test", "val", "train"), default="test", help="default: test"
    )


def run(args: argparse.Namespace, overrides: list[str]) -> None:
    """Evaluate the best weights of workdirs on their test data, or on shifted data."""
    refuse_overrides(overrides)
    if args.refit_head and args.data is None:
        raise InputError("--refit_head fits a head to shifted data; name the data with --data")
    from tljax import experiment

    given = [Path(workdir) for workdir in args.workdir]
    of_folds = [workdir for workdir in given if experiment.is_folds(workdir)]
    workdirs = [workdir for workdir in given if workdir not in of_folds]
    if of_folds and args.refit_head:
        raise InputError(
            f"--refit_head fits a head to one network, and '{of_folds[0]}' holds several folds;"
            f" give one of them, e.g. '{of_folds[0] / 'fold_0'}'"
        )
    for workdir in of_folds:
        print_evaluation(
            experiment.evaluate_folds(workdir, args.data, args.split, args.task, args.data_dir)
        )
    if not workdirs:
        return
    if args.data is None:
        for workdir in workdirs:
            for evaluated in experiment.evaluate_workdir(
                workdir, args.split, args.task, args.data_dir
            ):
                print_evaluation(evaluated)
        return
    from tljax.commands.evaluate import drift
    from tljax.commands.evaluate.drift_table import print_drift

    drifts = drift.measure(
        workdirs, args.data, args.split, args.task, args.refit_head, args.data_dir
    )
    if any(one.run.problem.kind != "classes" for one in drifts):  # a drop is one of accuracy
        for one in drifts:
            print_evaluation(one.shifted)
        return
    if len(drifts) == 1:
        print_evaluation(drifts[0].shifted)
    print_drift(drifts)


def print_evaluation(evaluated: Evaluated) -> None:
    """Prints one line: metrics, loss, and the naive baseline on the same images."""
    evaluation = evaluated.evaluation
    (first, value), *others = evaluation.metrics.items()
    more = ", ".join(f"{WORDS[name]} {figure(number, name)}" for name, number in others)
    Console(highlight=False, soft_wrap=True).print(
        f"[bold]{WORDS[first]} {figure(value, first)}[/] ({more}), loss {evaluation.loss:.4f} on"
        f" {evaluation.count:,} images of {escape(printable(evaluated.data))} ({evaluated.split});"
        f" naive baseline {figure(evaluated.naive[first], first)}"
    )
