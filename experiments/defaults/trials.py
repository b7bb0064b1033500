"""Compares what trials say of the solved head and of fine-tuning with what both are worth.

    python experiments/defaults/trials.py sets --source SOURCE [--shard 0/2]

Of every target of 100 images the small network is fine-tuned as by default, which tries both on
three folds; then it is taken to the end, and left at its start. A row of trials.csv holds, of start
and end: the accuracy, the loss and the loss after calibration out of fold, and the test accuracy;
and `apart`, on how many images one of the two was right and the other was not.
Rows that are there are not run again. --report prints what each way of choosing would have got.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np
import run

from tljax import experiment
from tljax.commands.sweep import parse_shard
from tljax.devices.compilation_cache import use_compilation_cache
from tljax.training import trial

HERE = Path(__file__).parent
NETWORK, IMAGES, SEEDS = "resnet10_32", 100, (0, 1, 2, 3)
FIGURES = ("accuracy", "loss", "calibrated", "test")
NUMBERS = (*(f"{figure}_{at}" for at in ("start", "end") for figure in FIGURES), "apart")
COLUMNS = ("set", "seed", *NUMBERS)
ALPHAS = {"start": 0.0, "end": 1.0}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", type=Path, help="folder that image_sets.py made")
    parser.add_argument("--source", type=Path, default=Path("runs/defaults/glyphs"))
    parser.add_argument("--shard", default="0/1", metavar="i/n", help="every n-th target")
    parser.add_argument("--rows", type=Path, default=HERE / "trials.csv")
    parser.add_argument("--report", action="store_true", help="run nothing")
    args = parser.parse_args()
    if args.report:
        print(report(run.read_rows(args.rows)))
        return
    use_compilation_cache()
    run.train_source(args.source)
    done = {(row["set"], int(row["seed"])) for row in run.read_rows(args.rows)}
    shard, shards = parse_shard(args.shard)
    targets = list(itertools.product((*run.SETS, *run.EMBEDDED), SEEDS))
    for images, seed in targets[shard::shards]:
        if (images, seed) not in done:
            row = {"set": images, "seed": seed, **both(images, seed, args.sets, args.source)}
            run.append(args.rows, row, COLUMNS)
            print(row, flush=True)


def both(images: str, seed: int, sets: Path, source: Path) -> dict[str, float]:
    """The figures of a target's start and end."""
    target = run.Run(NETWORK, images, IMAGES, seed, "fine_tune", run.DEFAULT)
    page, fields = f"{run.CONFIGS / 'fine_tune.py'}", run.fields_of(target, sets, str(source))
    config = experiment.resolve(run.config_of(page, fields))
    built = experiment.build(config)
    (setup,) = built.setups(experiment.load_data(config))
    tried = trial.try_all(setup, built.read_pretrained, config.trial_lr)
    found, right = {}, []
    for at, alpha in ALPHAS.items():
        folds = tried[trial.Candidate(config.trial_lr[0], alpha)]
        right.append(np.concatenate([fold.goodness for fold in folds]))
        parts = [fold.evaluation for fold in folds]
        images_of = [part.count for part in parts]
        found[f"accuracy_{at}"] = np.average([one.accuracy for one in parts], weights=images_of)
        found[f"loss_{at}"] = np.average([one.loss for one in parts], weights=images_of)
        found[f"calibrated_{at}"] = setup.problem.comparable_loss(parts, setup.decides)
        taken = config.copy_and_resolve_references()
        taken.update({"trial_lr": (), "wise_ft_alpha": alpha})
        found[f"test_{at}"] = experiment.fit_config(taken).summary["test_accuracy"]
    return {**found, "apart": int(np.sum(right[0] != right[1]))}


def report(rows: list[dict[str, str]]) -> str:
    """Mean test accuracy of each way of choosing between start and end."""
    ways = {
        "the start": lambda row: False,
        "the end": lambda row: True,
        "more right answers": lambda row: row["accuracy_end"] > row["accuracy_start"],
        "the lower loss": lambda row: row["loss_end"] < row["loss_start"],
        "the same, unless clearly fewer are right": lambda row: of_equals(row, "loss"),
        "after calibration, unless clearly fewer are right": lambda row: of_equals(
            row, "calibrated"
        ),
        "the better one": lambda row: row["test_end"] > row["test_start"],
    }
    numbers = [{name: float(row[name]) for name in NUMBERS} for row in rows]
    lines = [f"{len(rows)} targets"]
    for name, takes_end in ways.items():
        got = [row["test_end" if takes_end(row) else "test_start"] for row in numbers]
        lines.append(f"{name}: {np.mean(got):.3f}")
    return "\n".join(lines)


def of_equals(row: dict[str, float], loss: str) -> bool:
    """Whether the end is taken by the rule of `tljax.training.trial`, with one of the losses."""
    ahead = IMAGES * (row["accuracy_end"] - row["accuracy_start"])
    if abs(ahead) > trial.ERRORS * row["apart"] ** 0.5:
        return ahead > 0
    return row[f"{loss}_end"] < row[f"{loss}_start"]


if __name__ == "__main__":
    main()
