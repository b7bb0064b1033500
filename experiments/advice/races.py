"""Runs the races of `tljax advise` on the targets of experiments/defaults.

    python experiments/advice/races.py sets --weights FILE --source runs/defaults/glyphs

Every strategy races at both lengths, whatever a budget would allow, so that advice with any prior
and any budget can be judged on the rows. `sets` is the folder that
experiments/defaults/image_sets.py made; a target that is done is not run again.
"""

import itertools
import time
from typing import Any

import targets

from tljax import experiment
from tljax.advice import depths, evidence, races
from tljax.advice.strategies import FINE_TUNE, PROBE, build_all

COLUMNS = (
    *("strategy", "length", "gain", "images", "accuracy"),
    *("race_cost", "cost", "seconds"),
)


def main() -> None:
    args = targets.read_arguments(__doc__, "races.csv", (100, 400))
    for target in targets.missing(args):
        rows = race(target)
        targets.append(args.rows, COLUMNS, [target.columns | row for row in rows])
        print(*target.columns.values(), rows, flush=True)


def race(target: targets.Target) -> list[dict[str, Any]]:
    """Rows of all strategies on one target."""
    strategies = build_all(target.overrides)
    probe = strategies[PROBE].experiment
    pretrained, dataset = probe.read_pretrained(), experiment.load_data(probe.config)
    assert pretrained is not None
    left_out = races.left_out(dataset)
    variables = evidence.variables_of(probe, pretrained)
    x = depths.compute(probe.model, variables, probe.preprocessing, dataset.train, "features")
    right = races.probe_right(x[max(x)], dataset.train, dataset.num_classes, left_out)
    full = strategies[FINE_TUNE].cost
    rows = []
    for name, length in itertools.product(races.races_first(list(strategies)), races.LENGTHS):
        if target.network == "dinov2" and name == "from_scratch":
            continue  # the record holds no such run, so nothing could be judged
        strategy, began = strategies[name], time.monotonic()
        measured = races.run(strategy, length, dataset, pretrained, left_out, right)
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


if __name__ == "__main__":
    main()
