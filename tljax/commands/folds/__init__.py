"""`tljax folds`."""

import argparse
from pathlib import Path

from tljax.commands.arguments import add_config, load_config
from tljax.commands.sweep import add_run_options, parse_shard


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "example: tljax folds --config configs/fine_tune.py --workdir runs/folds"
        " --config.data=csv:cells.csv --config.init_from=runs/source; run the same command again to"
        " skip finished folds and resume interrupted ones; `tljax predict` and `tljax evaluate"
        " --workdir runs/folds` then use the ensemble of the folds"
    )
    add_config(parser)
    parser.add_argument(
        "--workdir",
        required=True,
        metavar="DIR",
        help="gets fold_0, fold_1, ..., a workdir for each fold, out_of_fold.csv and folds.json",
    )
    parser.add_argument(
        "--folds",
        type=int,
        metavar="K",
        help="number of folds; default: config.folds, else 5",
    )
    add_run_options(parser, "fold", "out_of_fold.csv and the table are of all folds that are done")


def run(args: argparse.Namespace, overrides: list[str]) -> None:
    """Cross-validate a config: a run for each fold, a table, out-of-fold predictions."""
    shard = parse_shard(args.shard)
    config = load_config(args.config, overrides)
    from tljax.commands.folds.runs import run_folds

    run_folds(
        config,
        Path(args.workdir),
        args.folds,
        shard=shard,
        accept_changes=args.accept_changes,
        stop_at_errors=args.debug,
    )
