"""`tljax report`."""

import argparse
from pathlib import Path

from tljax.commands.arguments import refuse_overrides
from tljax.errors import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example: tljax report runs/pets runs/sweep --output pets.html"
    parser.add_argument(
        "folders", nargs="+", metavar="DIR", help="workdirs, and folders that contain workdirs"
    )
    parser.add_argument(
        "--output", required=True, metavar="FILE.html", help="the page, which needs no other file"
    )
    parser.add_argument(
        "--png",
        metavar="DIR",
        help="for the figures as PNG files; default: FILE_figures next to the page",
    )


def run(args: argparse.Namespace, overrides: list[str]) -> None:
    """Write one page about finished runs: scores, curves, mistakes, calibration, plans, cost."""
    refuse_overrides(overrides)
    from tljax.analysis.report.run_report import write_report

    png = Path(args.png) if args.png is not None else None
    runs = write_report([Path(folder) for folder in args.folders], Path(args.output), png)
    print(f"wrote {printable(args.output)}: {runs:,} runs")
