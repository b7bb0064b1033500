"""`tljax convert`."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from tljax.commands.arguments import refuse_overrides
from tljax.errors import printable
from tljax.files import writable_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "example: tljax convert resnet50.pth --model resnet50 --output resnet50.safetensors"
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="the weights: a name that `tljax models` lists, a file, an address, a folder that"
        " save_pretrained wrote, or a workdir",
    )
    add_init_key(parser)
    parser.add_argument(
        "--model", required=True, metavar="NAME", help="the model of these weights, e.g. resnet50"
    )
    parser.add_argument(
        "--output", required=True, metavar="FILE.safetensors", help="the file to write"
    )


def add_init_key(parser: argparse.ArgumentParser) -> None:
    """Adds --init_key, which chooses a network of a weights file."""
    parser.add_argument(
        "--init_key",
        metavar="KEY",
        help="of a file that holds several networks the one to read: what its names begin with,"
        " e.g. student or model_ema; default: the one that fits the model best and, of several,"
        " the averaged weights",
    )


def run(args: argparse.Namespace, overrides: list[str]) -> None:
    """Convert weights from any source to a safetensors file with tljax's names, for init_from."""
    refuse_overrides(overrides)
    from tljax import experiment
    from tljax.models import registry
    from tljax.weights.export import save_converted

    output = Path(args.output)
    spec = registry.spec(args.model)
    writable_file(output, ".safetensors")
    weights = experiment.read_source_in_units(args.source, args.model, args.init_key)
    preprocessing = experiment.source_preprocessing(args.source) or spec.preprocessing
    save_converted(weights, args.model, preprocessing, output)
    print_written(Written(output, len(weights.arrays), weights.family.name))


@dataclass(frozen=True)
class Written:
    """A file of weights that `convert` or `export` wrote.

    Attributes:
      path: of the file.
      tensors: their number.
      family: whose names they have.
      card: path of the model card, which only `export` writes.
    """

    path: Path
    tensors: int
    family: str
    card: Path | None = None


def print_written(written: Written) -> None:
    """Prints what was written, and where."""
    card = f" and {written.card}" if written.card else ""
    paths = printable(f"{written.path}{card}")
    Console(highlight=False, soft_wrap=True).print(
        f"wrote {paths}: {written.tensors:,} tensors ({written.family} names)", markup=False
    )
