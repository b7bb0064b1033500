"""Gathers what `tljax advise` looks at, of the targets of experiments/defaults.

    python experiments/advice/evidence.py sets --weights FILE --source runs/defaults/glyphs

`sets` is the folder that experiments/defaults/image_sets.py made. Every target that is done is a
row of evidence.csv, and is not looked at again.
"""

import argparse
import csv
import itertools
import sys
import time
from pathlib import Path

from tljax import experiment
from tljax.advice import evidence
from tljax.advice.strategies import PROBE, config_of
from tljax.devices.compilation_cache import use_compilation_cache

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "defaults"))
import run as defaults  # noqa: E402

COLUMNS = (
    *("network", "set", "n", "seed", "images", "classes", "naive", "parameters", "probe"),
    *("similarity", "best_depth", "neighbours", "seconds"),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", type=Path)
    parser.add_argument("--weights", required=True, help="of DINOv2-small")
    parser.add_argument("--source", type=Path, default=Path("runs/defaults/glyphs"))
    parser.add_argument("--networks", nargs="+", default=tuple(defaults.NETWORKS))
    parser.add_argument("--sizes", nargs="+", type=int, default=(100, 400, 2000))
    parser.add_argument("--rows", type=Path, default=HERE / "evidence.csv")
    args = parser.parse_args()
    use_compilation_cache()
    starts = {"dinov2": args.weights, "resnet10_32": str(args.source)}
    done = read(args.rows)
    for name in args.networks:
        network = defaults.NETWORKS[name]
        for n, seed, images in itertools.product(network.sizes, network.seeds, defaults.SETS):
            folder = args.sets / images / f"n{n}_s{seed}"
            if n in args.sizes and folder.is_dir() and (name, images, n, seed) not in done:
                row = look_at(name, folder, starts[name])
                append(args.rows, {"network": name, "set": images, "n": n, "seed": seed, **row})
                print(name, images, n, seed, row, flush=True)


def look_at(network: str, folder: Path, start: str) -> dict[str, object]:
    """The evidence about one target, in a row."""
    began = time.monotonic()
    fields = {**defaults.NETWORKS[network].fields, "data": f"folder:{folder}", "init_from": start}
    config = config_of(PROBE, [f"--config.{name}={value}" for name, value in fields.items()])
    built = experiment.build(config)
    pretrained = built.read_pretrained()
    assert pretrained is not None
    found, _ = evidence.gather(built, experiment.load_data(built.config), pretrained)
    return {
        "images": found.images,
        "classes": found.classes,
        "naive": found.naive_accuracy,
        "parameters": found.parameters,
        "probe": found.probe,
        "similarity": found.similarity,
        "best_depth": max(found.pretrained, key=lambda depth: depth.probe).group,
        "neighbours": found.pretrained[-1].neighbours,
        "seconds": round(time.monotonic() - began, 1),
    }


def read(path: Path) -> dict[tuple[str, str, int, int], dict[str, str]]:
    """The rows of evidence.csv by their target."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {(row["network"], row["set"], int(row["n"]), int(row["seed"])): row for row in rows}


def append(path: Path, row: dict[str, object]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        short = {k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()}
        writer.writerow(short)


if __name__ == "__main__":
    main()
