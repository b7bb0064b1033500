"""`tljax probe`."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from tljax.commands.arguments import add_config, load_config
from tljax.commands.train import print_result
from tljax.errors import InputError, printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "example: tljax probe --config configs/dinov2_feature_extraction.py --workdir runs/probe"
        " --config.data=folder:PETS; the grid of a ViT is DINOv2's: 13 learning rates, the class"
        " tokens of the last block or the last 4, with and without the mean over patches; the grid"
        " of a ResNet is the 13 rates on its pooled features"
    )
    add_config(
        parser, "; its scenario is feature_extraction; the grid replaces lr, schedule, weight_decay"
    )
    parser.add_argument(
        "--workdir",
        required=True,
        metavar="DIR",
        help="for result.json, grid.csv, grid.png and the chosen head",
    )
    parser.add_argument(
        "--weight_decays",
        default="0",
        metavar="X,...",
        help="weight decays of the grid; default: 0, as DINOv2",
    )


def run(args: argparse.Namespace, overrides: list[str]) -> None:
    """Train a grid of linear heads on frozen features at once, and choose one on validation."""
    config = load_config(args.config, overrides)
    try:
        weight_decays = [float(word) for word in args.weight_decays.split(",")]
    except ValueError:
        raise InputError(
            f"--weight_decays is '{args.weight_decays}'; give numbers with commas between, e.g."
            " 0,1e-4"
        ) from None
    from tljax.commands.probe.grid_files import describe_features, write_grid
    from tljax.commands.probe.linear_probe import run_probe

    workdir = Path(args.workdir)
    result = run_probe(config, workdir, weight_decays)
    write_grid(result, workdir)
    print_result(result)
    probe = result["probe"]
    _print_choice(probe, describe_features(probe["chosen"]), workdir)


def _print_choice(probe: Mapping[str, Any], features: str, workdir: Path) -> None:
    """Prints the chosen setting, and which commands can use the workdir."""
    console = Console(highlight=False, soft_wrap=True)
    chosen = probe["chosen"]
    console.print(
        f"chosen on validation among {len(probe['grid'])} heads: learning rate {chosen['lr']:.3g},"
        f" weight decay {chosen['weight_decay']:g}, {features}"
    )
    where = printable(workdir)
    console.print(
        f"`tljax evaluate` and `predict` take {where}"
        if probe["own_features"]
        else f"these are not the features the model's own head sees, so `tljax evaluate` and"
        f" `predict` do not take {where}; head.safetensors holds the head",
        markup=False,
    )
