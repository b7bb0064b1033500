"""Runs every recipe from DINOv2-small on 100 photographs of textiles, tuned with equal effort.

    pip install -c constraints.txt '.[experiments]'
    python experiments/recipes/run.py [--init_from FILE]    # all: pilots, study, tables
    python experiments/recipes/run.py --recipes lora bitfit           # some recipes
    python experiments/recipes/run.py --tables              # only the table and the figure

Run it from the repository's root. The runs are in runs/recipes; the same command resumes them.
pilot.csv and results.csv hold their numbers; table.md and results.png are made from these.
"""

import argparse
from pathlib import Path

import config as settings  # the config file in this folder
import matplotlib
import numpy as np

from tljax import experiment
from tljax.analysis import tables
from tljax.analysis.results import read_runs
from tljax.analysis.statistics import mean_interval, paired_difference
from tljax.commands.sweep.runs import run_tuned
from tljax.data import folder
from tljax.devices.compilation_cache import use_compilation_cache
from tljax.runs.workdir import write_atomically

matplotlib.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
ROOT = Path("runs/recipes")
TEXTILES = ("conformal_clip_data", "data/textile_images/simulated")
# Balanced, since half of the validation images are of one class, nominal.
CHOSEN_BY = "val_balanced_accuracy"
PILOT_COLUMNS = ("recipe", "lr", "seed", "val_balanced_accuracy", "val_accuracy", "best_step")
COLUMNS = (*PILOT_COLUMNS, "steps", "test_balanced_accuracy", "test_accuracy", "naive_accuracy")
COLUMNS += ("trainable_parameters", "wall_seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--init_from", help="DINOv2-small's weights; default: from the hub")
    parser.add_argument(
        "--recipes",
        nargs="+",
        choices=list(settings.RECIPES),
        default=list(settings.RECIPES),
        metavar="R",
    )
    parser.add_argument(
        "--tables", action="store_true", help="run nothing; use the numbers in *.csv"
    )
    args = parser.parse_args()
    if not args.tables:
        use_compilation_cache()
        for recipe in args.recipes:
            _run(recipe, args.init_from)
        _collect()
    rows = tables.read_csv(HERE / "results.csv")
    write_atomically(HERE / "table.md", table(rows))
    figure(rows).savefig(HERE / "results.png", dpi=110, bbox_inches="tight")
    print((HERE / "table.md").read_text())


# ----------------------------------------------------------------------------------- the runs


def _run(recipe: str, init_from: str | None) -> None:
    overrides = [f"--config.data={folder.packaged_folder_spec(*TEXTILES)}"]
    if init_from is not None and settings.RECIPES[recipe].get("scenario") != "from_scratch":
        overrides.append(f"--config.init_from={init_from}")
    run_tuned(f"{HERE / 'config.py'}:{recipe}", ROOT / recipe, overrides, CHOSEN_BY)


def _collect() -> None:
    """Copies the numbers of the finished recipes into this folder."""
    pilot, study = [], []
    for recipe in settings.RECIPES:
        runs = [run for run in read_runs(ROOT / recipe / "study" / "runs") if run.summary]
        if len(runs) < len(settings.SEEDS):
            continue
        for run in runs:
            row = {**run.overrides, **run.summary, "recipe": recipe}
            row["lr"] = experiment.read_config(ROOT / recipe / "study" / "runs" / run.name).lr
            study.append({name: row.get(name) for name in COLUMNS})
        for run in read_runs(ROOT / recipe / "pilot" / "runs"):
            row = {**run.overrides, **run.summary, "recipe": recipe}
            pilot.append({name: row.get(name) for name in PILOT_COLUMNS})
    tables.write_csv(HERE / "pilot.csv", pilot)
    tables.write_csv(HERE / "results.csv", study)


# --------------------------------------------------------------------------------- the tables


def recipes(rows: list[dict[str, str]]) -> list[str]:
    """The recipes that were run, in the config file's order."""
    return [recipe for recipe in settings.RECIPES if any(row["recipe"] == recipe for row in rows)]


def values(
    rows: list[dict[str, str]], recipe: str, column: str = "test_balanced_accuracy"
) -> list[float]:
    """A column of a recipe's runs, in the order of the seeds."""
    by_seed = {int(row["seed"]): float(row[column]) for row in rows if row["recipe"] == recipe}
    return [by_seed[seed] for seed in settings.SEEDS]


def table(rows: list[dict[str, str]]) -> str:
    """Balanced test accuracies; paired differences to fine-tuning, both over seeds only."""
    head = ["recipe", "rate", "parameters trained", "balanced accuracy"]
    head += ["over fine tune (over seeds only)"]
    head += ["seconds, median"]
    lines = []
    for recipe in recipes(rows):
        scores = values(rows, recipe)
        over = ""
        if recipe != settings.PLAIN and settings.PLAIN in recipes(rows):
            over = tables.difference(paired_difference(scores, values(rows, settings.PLAIN)))
        lines.append(
            [
                recipe.replace("_", " "),
                next(row["lr"] for row in rows if row["recipe"] == recipe),
                f"{values(rows, recipe, 'trainable_parameters')[0]:,.0f}",
                tables.score(mean_interval(scores)),
                over,
                f"{np.median(values(rows, recipe, 'wall_seconds')):.0f}",
            ]
        )
    return tables.markdown(head, lines)


# --------------------------------------------------------------------------------- the figure


def figure(rows: list[dict[str, str]]) -> plt.Figure:
    """One line a recipe: every seed as a dot, the mean with its interval, chance as a line."""
    drawn = recipes(rows)[::-1]
    chart, axis = plt.subplots(figsize=(8, 0.38 * len(drawn) + 1), layout="constrained")
    for at, recipe in enumerate(drawn):
        scores = values(rows, recipe)
        score = mean_interval(scores)
        colour = "#d55e00" if recipe == settings.PLAIN else "#1f4e79"
        axis.scatter(scores, np.full(len(scores), at + 0.15), s=9, color="#7aa6c2")
        axis.errorbar(score.mean, at - 0.1, xerr=score.half_width, fmt="o", color=colour, capsize=3)
    axis.axvline(1 / 3, color="grey", linewidth=0.8, linestyle=":")
    axis.set_yticks(range(len(drawn)), [recipe.replace("_", " ") for recipe in drawn])
    axis.set_xlim(0, 1)
    axis.set_xlabel("balanced test accuracy")
    return chart


if __name__ == "__main__":
    main()
