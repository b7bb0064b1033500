"""`tljax demo`."""

import argparse
from pathlib import Path

from tljax.commands.arguments import refuse_overrides


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workdir", default="runs/demo", metavar="DIR", help="for the report; default: runs/demo"
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=3,
        metavar="N",
        help="runs of each scenario on each target; default: 3",
    )


def run(args: argparse.Namespace, overrides: list[str]) -> None:
    """Run the four scenarios on embedded data, offline, and write a report."""
    refuse_overrides(overrides)
    from tljax.commands.demo.four_scenarios import run_demo

    run_demo(Path(args.workdir), seeds=args.seeds)
