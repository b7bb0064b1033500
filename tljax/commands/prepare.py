"""`tljax prepare`."""

import argparse

from tljax.commands.arguments import refuse_overrides
from tljax.errors import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "example: tljax prepare tfds:oxford_iiit_pet --data_dir ~/data; needs the extra `prepare`,"
        " i.e. TensorFlow, which training does not need"
    )
    parser.add_argument(
        "data",
        metavar="tfds:NAME[/CONFIG][:VERSION]",
        help="a data set of TFDS, or package.module.Builder for your own builder",
    )
    parser.add_argument(
        "--data_dir", metavar="DIR", help="default: TFDS_DATA_DIR, or ~/tensorflow_datasets"
    )


def run(args: argparse.Namespace, overrides: list[str]) -> None:
    """Download and prepare a data set of TensorFlow Datasets, as array_record files."""
    refuse_overrides(overrides)
    from tljax.data.tfds import prepare

    folder, made = prepare.prepare(args.data, args.data_dir)
    print(f"{'prepared' if made else 'there already:'} {printable(folder)}")
