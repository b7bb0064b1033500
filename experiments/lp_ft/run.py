"""Runs fine-tuning, a linear probe and LP-FT on handwritten digits; tests on shifted ones too.

    python experiments/lp_ft/run.py             # all: source, pilot, study, tables
    python experiments/lp_ft/run.py --tables    # only the table and the figure

Run it from the repository's root. The runs are in runs/lp_ft/digits; the same command resumes them.
pilot.csv and results.csv hold their numbers; table.md and results.png are made from these.
"""

import argparse
import functools
import json
from pathlib import Path
from typing import Any

import config as settings  # the config file in this folder
import jax
import matplotlib
import numpy as np

import tljax
from tljax import data, experiment
from tljax.analysis import tables
from tljax.analysis.comparison import compare, pack_right, unpack_right
from tljax.analysis.results import read_runs
from tljax.analysis.statistics import mean_interval
from tljax.commands.sweep.runs import run_tuned
from tljax.config import load as load_config
from tljax.devices.compilation_cache import use_compilation_cache
from tljax.files import parse_json
from tljax.runs import record
from tljax.runs.answers import read_answers
from tljax.runs.workdir import write_atomically

matplotlib.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
ROOT = Path("runs/lp_ft/digits")
SOURCE_CONFIG = HERE.parent / "four_scenarios" / "config.py"
SHIFTED = "embedded:digits_shifted"
NAMES = {"lp": "LP", "ft": "FT", "lp_ft": "LP-FT"}
PAIRS = (("ft", "lp"), ("lp_ft", "ft"), ("lp_ft", "lp"))
PILOT_COLUMNS = ("method", "lr", "seed", "val_accuracy")
COLUMNS = ("method", "lr", "seed", "steps", "best_step", "val_accuracy", "test_accuracy")
COLUMNS += ("shifted_accuracy", "test_change", "shifted_change", "naive_accuracy", "wall_seconds")
# Which test images were classified correctly; not kept for shifted ones.
COLUMNS += ("right",)
_BATCH = 250


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--tables", action="store_true", help="run nothing; use the numbers in *.csv"
    )
    args = parser.parse_args()
    if not args.tables:
        use_compilation_cache()
        _run()
    rows = tables.read_csv(HERE / "results.csv")
    write_atomically(HERE / "table.md", table(rows))
    figure(rows).savefig(HERE / "results.png", dpi=110, bbox_inches="tight")
    print((HERE / "table.md").read_text())


# ----------------------------------------------------------------------------------- the runs


def _run() -> None:
    """Runs each method at its pilot's rate, and LP-FT's probe at the linear probe's rate."""
    if record.read_result(Path(settings.SOURCE)) is None:
        experiment.run(
            load_config(f"{SOURCE_CONFIG}:resnet10_32/source"), Path(settings.SOURCE), progress=True
        )
    rates: dict[str, float] = {}
    for method in settings.METHODS:
        probe = [f"--config.probe_lr={rates['lp']}"] if method == "lp_ft" else []
        rates[method] = run_tuned(f"{HERE / 'config.py'}:digits/{method}", ROOT / method, probe)
    _collect(rates)


def _collect(rates: dict[str, float]) -> None:
    """Copies the runs' numbers into this folder."""
    pilot, study = [], []
    for method, rate in rates.items():
        for run in read_runs(ROOT / method / "pilot" / "runs"):
            row = {**run.overrides, **run.summary, "method": method}
            pilot.append({name: row.get(name) for name in PILOT_COLUMNS})
        for run in read_runs(ROOT / method / "study" / "runs"):
            folder = ROOT / method / "study" / "runs" / run.name
            row = {**run.overrides, **run.summary, **_out_of_distribution(folder)}
            row |= {"method": method, "lr": rate, "right": pack_right(read_answers(folder))}
            study.append({name: row.get(name) for name in COLUMNS})
    tables.write_csv(HERE / "pilot.csv", pilot)
    tables.write_csv(HERE / "results.csv", study)


def _out_of_distribution(workdir: Path) -> dict[str, float]:
    """A run's accuracy on shifted digits and change of features, with its best weights.

    They are computed once and kept in the run's `shifted.json`.
    """
    kept = workdir / "shifted.json"
    if kept.exists():
        return parse_json(kept.read_bytes())
    trained = experiment.read_workdir(workdir)
    found = {
        "shifted_accuracy": experiment.evaluate_trained(
            trained, SHIFTED, "test"
        ).evaluation.accuracy,
        "test_change": _feature_change(trained, trained.config.data),
        "shifted_change": _feature_change(trained, SHIFTED),
    }
    write_atomically(kept, json.dumps(found) + "\n")
    return found


def _feature_change(trained: experiment.Trained, name: str) -> float:
    """Mean distance that test images' features moved, over their mean length before training."""
    model, preprocessing = trained.experiment.model, trained.experiment.preprocessing
    before = _source_features(name)
    after = _features(model, trained.variables, name, preprocessing)
    moved = np.linalg.norm(after - before, axis=1)
    return float(moved.mean() / np.linalg.norm(before, axis=1).mean())


@functools.cache
def _source_features(name: str) -> np.ndarray:
    model, variables, preprocessing = tljax.load("resnet10_32", settings.SOURCE, num_classes=0)
    return _features(model, variables, name, preprocessing)


def _features(
    model: Any, variables: Any, name: str, preprocessing: data.Preprocessing
) -> np.ndarray:
    """Features of the test images of a data set, (n, d)."""
    compute_features = _features_step(model, preprocessing)
    batches = data.eval_batches(data.load(name).test, preprocessing, batch_size=_BATCH)
    parts = [
        np.asarray(compute_features(variables, batch["image"]))[batch["mask"] > 0]
        for batch in batches
    ]
    return np.concatenate(parts)


@functools.cache
def _features_step(model: Any, preprocessing: data.Preprocessing) -> Any:
    return jax.jit(
        lambda variables, images: tljax.features(
            model, variables, data.normalise(images, preprocessing)
        )
    )


# --------------------------------------------------------------------------------- the tables


def values(rows: list[dict[str, str]], method: str, column: str) -> list[float]:
    """A column of a method's runs, in the order of the seeds."""
    by_seed = values_by_seed(rows, method, column)
    return [by_seed[seed] for seed in settings.SEEDS]


def values_by_seed(rows: list[dict[str, str]], method: str, column: str) -> dict[int, float]:
    return {int(row["seed"]): float(row[column]) for row in rows if row["method"] == method}


def gain(rows: list[dict[str, str]], a: str, b: str, column: str) -> str:
    """The difference of two methods in an accuracy, as text."""
    right = [
        {
            int(row["seed"]): unpack_right(row["right"])
            for row in rows
            if row["method"] == method and row["right"]
        }
        for method in (a, b)
    ]
    accuracies = [values_by_seed(rows, method, column) for method in (a, b)]
    return tables.compared(compare(*accuracies, *(right if column == "test_accuracy" else ())))


def table(rows: list[dict[str, str]]) -> str:
    """Accuracies and feature changes with intervals over seeds; differences paired by seed."""
    head = ["method", "rate", "digits", "shifted digits"]
    head += ["change of features, digits", "change of features, shifted digits"]
    columns = ("test_accuracy", "shifted_accuracy", "test_change", "shifted_change")
    method_rows = []
    for method, name in NAMES.items():
        rate = next(row["lr"] for row in rows if row["method"] == method)
        scores = [tables.score(mean_interval(values(rows, method, column))) for column in columns]
        method_rows.append([name, rate, *scores])
    pair_rows = []
    for a, b in PAIRS:
        gains = [gain(rows, a, b, column) for column in columns[:2]]
        pair_rows.append([f"{NAMES[a]} over {NAMES[b]}", *gains])
    differences = tables.markdown(["difference", "digits", "shifted digits"], pair_rows)
    return f"{tables.markdown(head, method_rows)}\n{differences}"


# --------------------------------------------------------------------------------- the figure

COLOURS = {"lp": "#d55e00", "ft": "#0072b2", "lp_ft": "#009e73"}  # Okabe and Ito's


def figure(rows: list[dict[str, str]]) -> plt.Figure:
    """Accuracy out of distribution against accuracy in it, then feature changes; a dot a seed."""
    chart, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for axis, x, y in (
        (left, "test_accuracy", "shifted_accuracy"),
        (right, "test_change", "shifted_change"),
    ):
        for method, name in NAMES.items():
            xs, ys = values(rows, method, x), values(rows, method, y)
            axis.scatter(xs, ys, s=9, alpha=0.5, color=COLOURS[method])
            a, b = mean_interval(xs), mean_interval(ys)
            axis.errorbar(
                a.mean,
                b.mean,
                xerr=a.half_width,
                yerr=b.half_width,
                fmt="o",
                capsize=3,
                color=COLOURS[method],
                label=name,
            )
    left.set_xlabel("test accuracy on digits")
    left.set_ylabel("on shifted digits")
    right.set_xlabel("change of features, digits")
    right.set_ylabel("shifted digits")
    right.axline((0, 0), slope=1, color="grey", linewidth=0.8, linestyle=":")
    left.legend(frameon=False)
    return chart


if __name__ == "__main__":
    main()
