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
        " --config.data=folder:PETS; of a ViT, the class tokens of the last block or the last 4 are"
        " tried, with and without the mean over patches; with optimizer=lbfgs, which the page's"
        " rule chooses, also that mean alone, each head is solved and cross-validation chooses;"
        " with other optimizers 13 learning rates are tried, as for DINOv2, and validation chooses"
    )
    add_config(
        parser, "; its scenario is feature_extraction; lr, schedule and weight_decay are not used"
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
        help="weight decays of the grid of learning rates; default: 0, as DINOv2",
    )


def run(args: argparse.Namespace, overrides: list[str]) -> None:
    """Solve linear heads on several frozen features, or train a grid of them, and choose one."""
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
    if "l2" in chosen:
        console.print(
            f"chosen on {chosen['images']:,} training images out of fold, among"
            f" {len(probe['choices'])} kinds of features and {len(probe['grid'])} heads: l2"
            f" {chosen['l2']:.3g}, {features}, accuracy {chosen['accuracy']:.4f} (commonest class:"
            f" {chosen['naive_accuracy']:.4f})"
        )
    else:
        console.print(
            f"chosen on validation among {len(probe['grid'])} heads: learning rate"
            f" {chosen['lr']:.3g}, weight decay {chosen['weight_decay']:g}, {features}"
        )
    where = printable(workdir)
    console.print(
        f"`tljax evaluate` and `predict` take {where}"
        if probe["own_features"]
        else f"these are not the features the model's own head sees, so `tljax evaluate` and"
        f" `predict` do not take {where}; head.safetensors holds the head",
        markup=False,
    )
