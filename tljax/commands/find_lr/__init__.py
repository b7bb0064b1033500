"""`tljax find_lr`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from tljax.commands.arguments import add_config, load_config
from tljax.errors import printable
from tljax.files import writable_file

if TYPE_CHECKING:
    from tljax.commands.find_lr.range_test import Curve


_LOWEST, _HIGHEST, _STEPS = 1e-6, 10.0, 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "example: tljax find_lr --config configs/fine_tune.py --config.init_from=runs/source"
        " --output lr.png; it trains a copy of the weights, writes no workdir and reads only"
        " training images"
    )
    add_config(parser)
    parser.add_argument(
        "--lowest",
        type=float,
        default=_LOWEST,
        metavar="LR",
        help=f"the first rate; default: {_LOWEST:g}",
    )
    parser.add_argument(
        "--highest",
        type=float,
        default=_HIGHEST,
        metavar="LR",
        help=f"the last rate; default: {_HIGHEST:g}",
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=_STEPS,
        metavar="N",
        help=f"number of steps; default: {_STEPS}",
    )
    parser.add_argument(
        "--output", metavar="FILE.png", help="also draw the loss against the learning rate"
    )


def run(args: argparse.Namespace, overrides: list[str]) -> None:
    """Suggest a learning rate for a config, from a few training steps at growing rates."""
    config = load_config(args.config, overrides)
    from tljax.commands.find_lr.range_test import draw, run_range_test

    output = writable_file(Path(args.output), ".png") if args.output is not None else None
    curve = run_range_test(config, args.lowest, args.highest, args.steps, progress=True)
    _print_curve(curve)
    if output is not None:
        draw(curve, output)
        Console(highlight=False, soft_wrap=True).print(f"drew {printable(output)}", markup=False)


def _print_curve(curve: Curve) -> None:
    """Prints the suggestion, and what it follows from."""
    console = Console(highlight=False, soft_wrap=True)
    done, smoothed = len(curve.rates), curve.smoothed
    if curve.suggestion is None or curve.steepest is None:
        console.print(
            f"[bold]no suggestion[/]: the smoothed loss never fell below its start,"
            f" {smoothed[0]:.4f}, from {curve.rates[0]:.2g} to {curve.rates[-1]:.2g}"
        )
    else:
        at_least = "at least " if curve.ends_at_minimum else ""
        console.print(
            f"[bold]suggested lr {at_least}{curve.suggestion:.2g}[/]: a tenth of"
            f" {curve.at_minimum:.2g}, where the smoothed training loss is lowest"
            f" ({smoothed.min():.4f}, from {smoothed[0]:.4f})"
        )
        if curve.ends_at_minimum:
            console.print("that is the last rate, and the loss may fall further: raise --highest")
        console.print(f"(it falls fastest at {curve.steepest:.2g}, the other rule of thumb)")
    console.print(
        f"the loss diverged at {curve.rates[-1]:.2g}, after {done} of {curve.steps} steps"
        if done < curve.steps
        else f"the loss did not diverge in {done} steps up to {curve.rates[-1]:.2g}"
    )
