"""`tljax plan`."""

import argparse

from tljax.commands.arguments import add_config, load_config
from tljax.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example: tljax plan --config configs/fine_tune.py --target v5e:2x4"
    add_config(parser)
    parser.add_argument(
        "--compile",
        action="store_true",
        help="also compile the training step and print its peak memory (slow)",
    )
    parser.add_argument(
        "--target",
        metavar="SLICE",
        help="also compile the step for a TPU slice, e.g. v5e:2x4 or v4:2x2x1, and print memory,"
        " collectives and a lower bound of its time; needs no TPU, but the extra `tpu`, and takes"
        " about a minute",
    )
    parser.add_argument(
        "--max_batch",
        action="store_true",
        help="also search for the largest batch that fits --target",
    )


def run(args: argparse.Namespace, overrides: list[str]) -> None:
    """Print what a config trains, freezes and costs; trains nothing and needs no weights."""
    config = load_config(args.config, overrides)
    if args.max_batch and args.target is None:
        raise InputError("--max_batch is for a TPU slice; name one with --target")
    if args.target is not None:
        import jax

        from tljax.commands.plan.target import check_target, print_target

        check_target(args.target)
        # Where libtpu is installed, JAX would look for a TPU in this process.
        jax.config.update("jax_platforms", "cpu")
    from tljax.commands.plan.table import print_plan

    print_plan(config, args.compile)
    if args.target is not None:
        print_target(config, args.target, args.max_batch)
