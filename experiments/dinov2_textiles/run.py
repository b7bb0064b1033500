"""Measures what DINOv2-small's weights gain on simulated textiles and on photographed textures.

    pip install -c constraints.txt '.[experiments]'
    python experiments/dinov2_textiles/run.py [--init_from FILE]

Every finished run is appended to results.csv and is not repeated. At the end table.md and
results.png are made from that file.
"""

import argparse
import csv
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np

from tljax import experiment
from tljax.analysis import tables
from tljax.analysis.statistics import mean_interval, paired_difference
from tljax.config import load as load_config
from tljax.data import folder
from tljax.devices.compilation_cache import use_compilation_cache

matplotlib.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
CONFIGS = HERE / "configs"
SEEDS = {"feature_extraction": 5, "freeze_first": 3, "fine_tune": 3, "from_scratch": 3}
CONTROL = "from_scratch"
TEXTILES = ("conformal_clip_data", "data/textile_images/simulated")
# Few images need small batches. Textures are 32 pixels wide, so 98 pixels gain nothing.
SIZES = {100: {"batch_size": 16}, 1000: {"batch_size": 32}}
IMAGE_SIZES = {"textiles": 98, "textures": 42}
COLUMNS = (
    *("data", "train_size", "scenario", "seed", "test_balanced_accuracy", "test_accuracy"),
    *("val_accuracy", "naive_accuracy", "best_step", "steps", "examples_seen", "wall_seconds"),
)


class Run(NamedTuple):
    data: str
    train_size: int
    scenario: str
    seed: int


def runs() -> Iterator[Run]:
    for size, data in itertools.product(SIZES, IMAGE_SIZES):
        for scenario, seeds in SEEDS.items():
            for seed in range(seeds):
                yield Run(data, size, scenario, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--init_from", help="DINOv2-small's weights; default: from the hub")
    init_from = parser.parse_args().init_from
    use_compilation_cache()
    results = HERE / "results.csv"
    rows = _read(results)
    for run in runs():
        if run not in rows:
            rows[run] = _train(run, init_from)
            _append(results, rows[run])
            print(*run, f"balanced {rows[run]['test_balanced_accuracy']:.3f}", flush=True)
    (HERE / "table.md").write_text(table(rows))
    figure(rows).savefig(HERE / "results.png", dpi=120, bbox_inches="tight")
    print(table(rows))


def _train(run: Run, init_from: str | None) -> dict:
    """Trains with the settings of the study, in memory."""
    config = load_config(str(CONFIGS / f"{run.scenario}.py"))
    config.data = (
        folder.packaged_folder_spec(*TEXTILES) if run.data == "textiles" else f"embedded:{run.data}"
    )
    config.image_size = IMAGE_SIZES[run.data]
    config.train_size = run.train_size
    config.seed = run.seed
    config.update(SIZES[run.train_size])
    if init_from is not None and run.scenario != CONTROL:
        config.init_from = init_from
    summary = experiment.fit_config(config, progress=True).summary
    return {**summary, **run._asdict()}


def _read(path: Path) -> dict[Run, dict]:
    if not path.exists():
        return {}
    rows = [
        {
            name: value if name in ("data", "scenario") else float(value)
            for name, value in row.items()
        }
        for row in tables.read_csv(path)
    ]
    return {
        Run(row["data"], int(row["train_size"]), row["scenario"], int(row["seed"])): row
        for row in rows
    }


def _append(path: Path, row: dict) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def scores(rows: dict[Run, dict], data: str, size: int, scenario: str) -> list[float]:
    """Balanced test accuracies of the runs of a cell, in the order of the seeds."""
    return [
        row["test_balanced_accuracy"]
        for run, row in sorted(rows.items())
        if run[:3] == (data, size, scenario)
    ]


def table(rows: dict[Run, dict]) -> str:
    """Mean balanced accuracies with 95 % t intervals, and seed-paired gains over the control."""
    head = ["data", "images", "scenario", "seeds", "balanced accuracy"]
    head += ["gain over random weights (over seeds only)"]
    lines = []
    for data in IMAGE_SIZES:
        for size in SIZES:
            control = scores(rows, data, size, CONTROL)
            for scenario in SEEDS:
                values = scores(rows, data, size, scenario)
                gain = ""
                if scenario != CONTROL:
                    paired = min(len(values), len(control))
                    gain = tables.difference(paired_difference(values[:paired], control[:paired]))
                text = tables.score(mean_interval(values))
                lines.append([data, f"{size:,}", scenario, str(len(values)), text, gain])
    return tables.markdown(head, lines)


def figure(rows: dict[Run, dict]) -> plt.Figure:
    """Every seed as a dot, next to it the mean with its interval, chance as a line."""
    chart, axes = plt.subplots(1, len(IMAGE_SIZES), figsize=(10, 3.6), sharey=True)
    for axis, data in zip(axes, IMAGE_SIZES, strict=True):
        for at, scenario in enumerate(SEEDS):
            for size, offset, colour in zip(
                SIZES, (-0.15, 0.15), ("#7aa6c2", "#1f4e79"), strict=True
            ):
                values = scores(rows, data, size, scenario)
                score = mean_interval(values)
                axis.scatter(np.full(len(values), at + offset - 0.06), values, s=9, color=colour)
                axis.errorbar(
                    at + offset + 0.06,
                    score.mean,
                    score.half_width,
                    fmt="o",
                    color=colour,
                    capsize=3,
                    label=f"{size:,} training images" if at == 0 else None,
                )
        classes = {"textiles": 3, "textures": 10}[data]
        axis.axhline(1 / classes, color="grey", linewidth=0.8, linestyle=":")
        axis.set_xticks(range(len(SEEDS)), [name.replace("_", "\n") for name in SEEDS], fontsize=9)
        axis.set_title(f"{data}, {IMAGE_SIZES[data]} px")
        axis.set_ylim(0, 1.02)
    axes[0].set_ylabel("balanced test accuracy")
    axes[0].legend(frameon=False, loc="upper right", fontsize=8)
    return chart


if __name__ == "__main__":
    main()
