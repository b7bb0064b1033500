"""`tljax sweep`."""

import argparse
import re
from pathlib import Path

from tljax.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "example: tljax sweep --config configs/sweep_lr_k.py --workdir runs/sweep"
        " --config.init_from=runs/glyphs; run the same command again to skip finished runs and"
        " resume interrupted ones"
    )
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE",
        help="a config file with get_config() and sweep(), which yields a dict of fields for each"
        " run, or the name of one, e.g. sweep_lr_k; it is a Python program, which is run;"
        " --config.FIELD=VALUE overrides a field in every run, --config.FIELD=None unsets one",
    )
    parser.add_argument(
        "--workdir",
        required=True,
        metavar="DIR",
        help="gets runs/NAME, a workdir for each run, and results.csv, one row per run",
    )
    add_run_options(parser, "run", "results.csv lists all runs in DIR/runs")
    parser.add_argument(
        "--by",
        metavar="FIELD,...",
        help="choose a best configuration for each value of these fields, in addition to each data"
        " set and size",
    )


def add_run_options(parser: argparse.ArgumentParser, name: str, note: str) -> None:
    """Adds `--shard` and `--accept_changes`.

    Args:
      parser: of the command.
      name: what one of the runs is called.
      note: what becomes of the runs of other shards.
    """
    parser.add_argument(
        "--shard",
        default="0/1",
        metavar="I/N",
        help=f"do every N-th {name}, beginning with {name} I, e.g. 0/2 here and 1/2 on another"
        f" machine; {note}",
    )
    parser.add_argument(
        "--accept_changes",
        action="store_true",
        help=f"as in `tljax train`: resume {name}s although versions, code or devices have changed",
    )


def run(args: argparse.Namespace, overrides: list[str]) -> None:
    """Run every run that a config file's sweep() yields; choose on validation images."""
    shard = parse_shard(args.shard)
    from tljax.commands.sweep.runs import run_sweep

    run_sweep(
        args.config,
        overrides,
        Path(args.workdir),
        shard=shard,
        by=args.by.split(",") if args.by else (),
        accept_changes=args.accept_changes,
        stop_at_errors=args.debug,
    )


def parse_shard(text: str) -> tuple[int, int]:
    """Returns (i, n) of a text such as `0/2`.

    Raises:
      InputError: unless 0 <= i < n.
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
    shard = (int(match[1]), int(match[2])) if match else (0, 0)
    if not shard[0] < shard[1]:
        raise InputError(f"--shard is '{text}'; give i/n with i from 0 to n - 1, e.g. 0/2 and 1/2")
    return shard
