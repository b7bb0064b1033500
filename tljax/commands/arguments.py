"""Arguments that several commands share, and how their values are read."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tljax.errors import InputError

if TYPE_CHECKING:
    import ml_collections

_CONFIG_HELP = (
    "a config file, e.g. configs/fine_tune.py, or the name of one that comes with tljax, e.g."
    " fine_tune or recipes/lora; it is a Python program, which is run, so use only files that you"
    " trust; --config.FIELD=VALUE overrides any of its fields, e.g. --config.lr=0.03"
    " --config.data=folder:PETS, and --config.FIELD=None unsets one; --config.data takes"
    " embedded:NAME, folder:PATH, a table (csv:FILE, parquet:FILE, hf:FOLDER,"
    " hf://datasets/OWNER/NAME or wds:SHARDS, with ?label=, ?labels= or ?numbers= for the columns),"
    " or tfds:NAME[/CONFIG][:VERSION] (TensorFlow Datasets), optionally with splits:"
    " '--config.data=tfds:cifar10?train=train[:80%%],val=train[80%%:]'"
)


def add_config(parser: argparse.ArgumentParser, note: str = "") -> None:
    """Adds `--config FILE`; `note` is appended to its help."""
    parser.add_argument("--config", required=True, metavar="FILE", help=_CONFIG_HELP + note)


def add_task(parser: argparse.ArgumentParser) -> None:
    """Adds `--task NAME`, for commands that read a run of several tasks."""
    parser.add_argument(
        "--task",
        metavar="NAME",
        help="which task, if the run has several; its name as written in config.data",
    )


def load_config(path: str, overrides: list[str]) -> ml_collections.ConfigDict:
    """Loads a config file and applies the `--config.FIELD=VALUE` overrides.

    Raises:
      InputError: if the file cannot be used, or an override names no field of it.
    """
    from tljax import config

    return config.load(path, overrides)


def check_image_size(pixels: int | None) -> None:
    """Raises InputError if `--image_size` is given and is below 1."""
    if pixels is not None and pixels < 1:
        raise InputError(f"--image_size is {pixels}; set it to 1 or more")


def refuse_overrides(overrides: list[str]) -> None:
    """Raises InputError if arguments are left over, in a command that takes no config."""
    if overrides:
        raise InputError(f"unknown argument '{overrides[0]}'; see tljax --help")
