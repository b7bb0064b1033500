"""Measures how transferable features of each depth are, on two halves of the glyphs.

    python experiments/yosinski2014/run.py               # all: pilot, sources, study, tables
    python experiments/yosinski2014/run.py --shard 0/2   # every other division; 1/2: the rest
    python experiments/yosinski2014/run.py --tables      # only the table and the figure

The networks are AnB, BnB, AnB+ and BnB+. Run it from the repository's root. The runs are in
runs/yosinski2014/small; the same command resumes them. pilot.csv holds the pilot's numbers, and
results.csv the study's once all runs are done. table.md and results.png are made from results.csv.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import config as settings  # the config file in this folder
import matplotlib
import numpy as np

from tljax import experiment
from tljax.analysis import tables
from tljax.analysis.comparison import Comparison, compare, pack_right, unpack_right
from tljax.analysis.results import best_value, read_runs
from tljax.analysis.statistics import Interval, mean_interval
from tljax.commands.sweep import parse_shard
from tljax.commands.sweep.listing import list_runs
from tljax.commands.sweep.runs import run_sweep
from tljax.devices.compilation_cache import use_compilation_cache
from tljax.models import create
from tljax.runs import record
from tljax.runs.answers import read_answers
from tljax.runs.workdir import write_atomically

matplotlib.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
CONFIG_FILE = f"{HERE / 'config.py'}:small"
ROOT = Path("runs/yosinski2014/small")
DIVISIONS = settings.DIVISIONS["small"]
DEPTHS = range(1, settings.GROUPS["small"])
SOURCES = ("source A", "source B")  # in results.csv's column `treatment`
COLUMNS = ("treatment", "n", "division", "seed", "lr", "steps", "train_size", "val_accuracy")
COLUMNS += ("test_accuracy", "naive_accuracy", "best_step", "trainable_parameters", "wall_seconds")
COLUMNS += ("right",)


class Arm(NamedTuple):
    """A treatment and the number of groups it copies; a source copies none."""

    treatment: str
    n: int


class Study:
    """The test accuracies of all networks, by arm and division, and which images they got right."""

    def __init__(self, results: Path):
        self.test: dict[Arm, dict[int, float]] = {}
        self.right: dict[Arm, dict[int, np.ndarray]] = {}
        for row in tables.read_csv(results):
            arm = Arm(row["treatment"], int(row["n"]))
            self.test.setdefault(arm, {})[int(row["division"])] = float(row["test_accuracy"])
            if row.get("right"):
                self.right.setdefault(arm, {})[int(row["division"])] = unpack_right(row["right"])

    def values(self, arm: Arm) -> list[float]:
        return [self.test[arm][division] for division in DIVISIONS]

    def score(self, arm: Arm) -> Interval:
        return mean_interval(self.values(arm))

    def over_base(self, arm: Arm) -> Comparison:
        """The gain over the base network, paired by division.

        The two have the same images and, where weights are random, the same weights.
        """
        base = Arm(settings.BASE, 0)
        return compare(self.test[arm], self.test[base], self.right.get(arm), self.right.get(base))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", action="store_true", help="run nothing; use results.csv")
    parser.add_argument(
        "--shard", type=parse_shard, default="0/1", help="the share of the divisions to run"
    )
    args = parser.parse_args()
    if not args.tables:
        use_compilation_cache()
        share, shares = args.shard
        if share == 0:
            _pilot()
        for division in DIVISIONS[share::shares]:
            for part in ("source", "study"):
                run_sweep(f"{CONFIG_FILE}/{part}/{division}", [], ROOT / part)
        if not _collect():
            print("the tables need all divisions; run the other shards first")
            return
    study = Study(HERE / "results.csv")
    write_atomically(HERE / "table.md", table(study))
    figure(study).savefig(HERE / "results.png", dpi=110, bbox_inches="tight")
    print((HERE / "table.md").read_text())


# ----------------------------------------------------------------------------------- the runs


def _pilot() -> None:
    """Tries the learning rates with base networks; the config file has the one that was best."""
    run_sweep(f"{CONFIG_FILE}/pilot", [], ROOT / "pilot")
    runs = read_runs(ROOT / "pilot" / "runs")
    rows = [
        {name: (run.summary | run.overrides)[name] for name in ("lr", "seed", "val_accuracy")}
        for run in runs
    ]
    tables.write_csv(HERE / "pilot.csv", rows)
    best, used = best_value(runs, "lr"), settings.SCALES["small"]["lr"]
    if best != used:
        print(f"this pilot would choose {best}; the study uses {used}")


def _folders() -> Iterator[tuple[Arm, int, Path]]:
    """Yields every network's arm, division and folder."""
    arms = {
        "source": [Arm(name, 0) for name in SOURCES],
        "study": [Arm(*arm) for arm in settings.arms("small")],
    }
    for division in DIVISIONS:
        for part, part_arms in arms.items():
            runs = list_runs(f"{CONFIG_FILE}/{part}/{division}", [])
            for arm, run in zip(part_arms, runs, strict=True):
                yield arm, division, ROOT / part / "runs" / run.name


def _collect() -> bool:
    """Copies the networks' numbers into this folder. Returns False if a run is missing."""
    rows = []
    for arm, division, folder in _folders():
        summary = record.read_result(folder)
        if summary is None:
            return False
        config = experiment.read_config(folder)
        row = {"lr": config.lr, **summary, **arm._asdict(), "division": division}
        row["right"] = pack_right(read_answers(folder))
        rows.append({name: row[name] for name in COLUMNS})
    tables.write_csv(HERE / "results.csv", rows)
    return True


# ------------------------------------------------------------------------ the table, the figure


def table(study: Study) -> str:
    """Test accuracy by n and treatment, and its difference to the base network's."""
    groups = create(settings.SCALES["small"]["model"], 1).groups.names
    rows = []
    for arm in (Arm(name, 0) for name in (*SOURCES, settings.BASE)):
        rows.append(["0", "", arm.treatment, tables.score(study.score(arm)), ""])
    for n in DEPTHS:
        for treatment in settings.TREATMENTS:
            arm = Arm(treatment, n)
            numbers = (tables.score(study.score(arm)), _gain(study, arm))
            rows.append([str(n), groups[n - 1], treatment, *numbers])
    return tables.markdown(
        ["n", "last group copied", "network", "test accuracy", "above base"], rows
    )


def _gain(study: Study, arm: Arm) -> str:
    return tables.compared(study.over_base(arm), "divisions")


COLOURS = {"BnB": "#08306b", "BnB+": "#6baed6", "AnB": "#99000d", "AnB+": "#fb6a4a"}


def figure(study: Study) -> plt.Figure:
    """Like the paper's figure 2: every network above, the means with their intervals below."""
    chart, (above, below) = plt.subplots(2, 1, figsize=(8, 8), layout="constrained", sharex=True)
    base = Arm(settings.BASE, 0)
    for division in DIVISIONS:
        above.plot(0, study.test[base][division], "o", mfc="white", mec="black", markersize=5)
    for place, (treatment, colour) in enumerate(COLOURS.items()):
        shift = 0.12 * (place - 1.5)  # side by side
        mark = "D" if treatment.startswith("A") else "o"
        for n in DEPTHS:
            values = study.values(Arm(treatment, n))
            above.plot([n + shift] * len(values), values, mark, color=colour, markersize=4)
        scores = [study.score(Arm(treatment, n)) for n in DEPTHS]
        below.errorbar(
            [n + shift for n in DEPTHS],
            [score.mean for score in scores],
            [score.half_width for score in scores],
            marker=mark,
            markersize=4,
            capsize=2,
            color=colour,
            label=treatment,
        )
    mean = study.score(base)
    below.errorbar(0, mean.mean, mean.half_width, fmt="o", mfc="white", color="black", capsize=2)
    below.axhline(mean.mean, color="black", linewidth=0.8, linestyle=":", label="base B")
    groups = create(settings.SCALES["small"]["model"], 1).groups.names
    names = ["0\nnone", *(f"{n}\nto {groups[n - 1]}" for n in DEPTHS)]
    below.set_xticks(range(settings.GROUPS["small"]), names)
    below.set_xlabel("n: groups copied")
    above.set_ylabel("test accuracy, each network")
    below.set_ylabel("mean and 95 % interval")
    chart.legend(*below.get_legend_handles_labels(), loc="outside upper center", ncols=5)
    return chart


if __name__ == "__main__":
    main()
