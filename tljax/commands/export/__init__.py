"""`tljax export`."""

import argparse
from pathlib import Path

from tljax.commands.arguments import add_task, refuse_overrides
from tljax.commands.convert import add_init_key, print_written
from tljax.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "example: tljax export --workdir runs/pets --format timm --output pets.safetensors"
    )
    parser.add_argument(
        "--workdir", metavar="DIR", help="of a run of `tljax train`; its best weights are exported"
    )
    add_task(parser)
    parser.add_argument(
        "--init_from", metavar="SOURCE", help="weights of any other source, instead of --workdir"
    )
    parser.add_argument(
        "--model", metavar="NAME", help="the model of the weights in --init_from, e.g. resnet50"
    )
    add_init_key(parser)
    parser.add_argument(
        "--format", required=True, metavar="LIBRARY", help="whose names to use: timm or torchvision"
    )
    parser.add_argument(
        "--output",
        required=True,
        metavar="FILE.safetensors",
        help="the file to write; the model card is written next to it, as FILE.md",
    )


def run(args: argparse.Namespace, overrides: list[str]) -> None:
    """Write weights under timm's or torchvision's names, with a model card."""
    refuse_overrides(overrides)
    if (args.workdir is None) == (args.init_from is None):
        raise InputError("export takes either --workdir, or --init_from with --model; give one")
    if args.task is not None and args.workdir is None:
        raise InputError("--task names a task of a run; give the run with --workdir")
    if (args.model is None) != (args.init_from is None):
        raise InputError("--model names the model of the weights in --init_from; give both")
    if args.init_key is not None and args.init_from is None:
        raise InputError("--init_key chooses a network of the file in --init_from; give both")
    from tljax.commands.export.weights_and_card import export_run, export_source

    output = Path(args.output)
    if args.workdir is not None:
        written = export_run(Path(args.workdir), args.format, output, args.task)
    else:
        written = export_source(args.init_from, args.model, args.format, output, args.init_key)
    print_written(written)
