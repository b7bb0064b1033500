"""Runs the races of `tljax advise` on the targets of experiments/defaults.

    python experiments/advice/races.py sets --weights FILE --source runs/defaults/glyphs

Every strategy races at both lengths, whatever a budget would allow, so that advice with any prior
and any budget can be judged on the rows. `sets` is the folder that
experiments/defaults/image_sets.py made; a target that is done is not run again.
"""

import argparse
import csv
import itertools
import sys
import time
from pathlib import Path
from typing import Any

from tljax import experiment
from tljax.advice import depths, evidence, races
from tljax.advice.strategies import FINE_TUNE, PROBE, build_all
from tljax.devices.compilation_cache import use_compilation_cache

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "defaults"))
import run as defaults  # noqa: E402

COLUMNS = (
    *("network", "set", "n", "seed", "strategy", "length", "gain", "images", "accuracy"),
    *("race_cost", "cost", "seconds"),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", type=Path)
    parser.add_argument("--weights", required=True, help="of DINOv2-small")
    parser.add_argument("--source", type=Path, default=Path("runs/defaults/glyphs"))
    parser.add_argument("--networks", nargs="+", default=tuple(defaults.NETWORKS))
    parser.add_argument("--sizes", nargs="+", type=int, default=(100, 400))
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--rows", type=Path, default=HERE / "races.csv")
    args = parser.parse_args()
    use_compilation_cache()
    starts = {"dinov2": args.weights, "resnet10_32": str(args.source)}
    done = {tuple(row[name] for name in COLUMNS[:4]) for row in read(args.rows)}
    for name in args.networks:
        network = defaults.NETWORKS[name]
        for seed, n, images in itertools.product(network.seeds, network.sizes, defaults.SETS):
            folder = args.sets / images / f"n{n}_s{seed}"
            target = {"network": name, "set": images, "n": n, "seed": seed}
            if n not in args.sizes or seed not in args.seeds or not folder.is_dir():
                continue
            if tuple(map(str, target.values())) not in done:
                rows = race(name, folder, starts[name])
                append(args.rows, [target | row for row in rows])
                print(target, [(r["strategy"], r["length"], r["gain"]) for r in rows], flush=True)


def race(network: str, folder: Path, start: str) -> list[dict[str, Any]]:
    """Rows of all strategies on one target."""
    fields = {**defaults.NETWORKS[network].fields, "data": f"folder:{folder}", "init_from": start}
    strategies = build_all([f"--config.{name}={value}" for name, value in fields.items()])
    probe = strategies[PROBE].experiment
    pretrained, dataset = probe.read_pretrained(), experiment.load_data(probe.config)
    assert pretrained is not None
    left_out = races.left_out(dataset)
    variables = evidence.variables_of(probe, pretrained)
    x = depths.compute(probe.model, variables, probe.preprocessing, dataset.train, "features")
    right = races.probe_right(x[max(x)], dataset.train.labels, dataset.num_classes, left_out)
    rows = []
    for name, length in itertools.product(races.races_first(list(strategies)), races.LENGTHS):
        strategy, began = strategies[name], time.monotonic()
        if network == "dinov2" and name == "from_scratch":
            continue  # the record holds no such run, so nothing could be judged
        measured = races.run(strategy, length, dataset, pretrained, left_out, right)
        full = strategies[FINE_TUNE].cost
        rows.append(
            {
                "strategy": name,
                "length": length,
                "gain": measured.gain,
                "images": measured.images,
                "accuracy": measured.accuracy,
                "race_cost": races.race_cost(strategy, length) / full,
                "cost": strategy.cost / full,
                "seconds": round(time.monotonic() - began, 1),
            }
        )
    return rows


def read(path: Path) -> list[dict[str, str]]:
    """The rows of races.csv."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def append(path: Path, rows: list[dict[str, Any]]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()})


if __name__ == "__main__":
    main()
