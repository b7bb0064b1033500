"""The targets of experiments/defaults, as the other files here go through them."""

import argparse
import csv
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tljax.devices.compilation_cache import use_compilation_cache

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "defaults"))
import run as defaults  # noqa: E402

OF_A_TARGET = ("network", "set", "n", "seed")  # the first columns of every file of rows


class Target(NamedTuple):
    """A target, and the overrides that name it and its source."""

    network: str
    set: str
    n: int
    seed: int
    overrides: list[str]

    @property
    def columns(self) -> dict[str, Any]:
        return dict(zip(OF_A_TARGET, self, strict=False))


def read_arguments(description: str, rows: str, sizes: tuple[int, ...]) -> argparse.Namespace:
    """Reads the command line: which targets, and the file of their rows."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", type=Path)
    parser.add_argument("--weights", required=True, help="of DINOv2-small")
    parser.add_argument("--source", type=Path, default=Path("runs/defaults/glyphs"))
    parser.add_argument("--networks", nargs="+", default=tuple(defaults.NETWORKS))
    parser.add_argument("--sizes", nargs="+", type=int, default=sizes)
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2, 3))
    parser.add_argument("--rows", type=Path, default=HERE / rows)
    use_compilation_cache()
    return parser.parse_args()


def missing(args: argparse.Namespace) -> Iterator[Target]:
    """The targets that are asked for and have no row yet."""
    done = {tuple(row[name] for name in OF_A_TARGET) for row in read(args.rows)}
    starts = {"dinov2": args.weights, "resnet10_32": str(args.source)}
    for name in args.networks:
        network = defaults.NETWORKS[name]
        for n, seed, images in itertools.product(network.sizes, network.seeds, network.sets):
            folder = args.sets / images / f"n{n}_s{seed}"
            asked = n in args.sizes and seed in args.seeds and folder.is_dir()
            if asked and (name, images, str(n), str(seed)) not in done:
                fields = {**network.fields, "data": f"folder:{folder}", "init_from": starts[name]}
                words = [f"--config.{field}={value}" for field, value in fields.items()]
                yield Target(name, images, n, seed, words)


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a file; none if it does not exist."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def key_of(row: dict[str, str]) -> tuple[str, str, int, int]:
    """The target of a row: network, set, number of images, seed."""
    return row["network"], row["set"], int(row["n"]), int(row["seed"])


def append(
    path: Path,
    columns: tuple[str, ...],
    rows: list[dict[str, Any]],
    of_a_target: tuple[str, ...] = OF_A_TARGET,
) -> None:
    """Appends rows to a file, which gets a heading of all columns if it is new."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, (*of_a_target, *columns), lineterminator="\n")
        if new:
            writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()})
