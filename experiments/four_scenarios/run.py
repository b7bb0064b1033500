"""Runs the four scenarios by size and similarity of the target, for a ResNet and a ViT.

    python experiments/four_scenarios/run.py             # all: sources, pilot, study, tables
    python experiments/four_scenarios/run.py --models resnet10_32    # one of the two networks
    python experiments/four_scenarios/run.py --tables    # only the tables and the figure

Run it from the repository's root. The runs are in runs/four_scenarios; the same command resumes
them. pilot.csv, results.csv and curves.csv hold their numbers; table.md, benefits.md and
results.png are made from these.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import config as settings  # the config file in this folder
import matplotlib
import numpy as np

from tljax import experiment
from tljax.analysis import tables
from tljax.analysis.benefits import Benefits, RatioInterval, benefits
from tljax.analysis.comparison import Comparison, compare, pack_right, unpack_right
from tljax.analysis.results import best_value, read_runs
from tljax.analysis.statistics import Interval, mean_interval
from tljax.commands.sweep.runs import run_sweep
from tljax.config import load as load_config
from tljax.devices.compilation_cache import use_compilation_cache
from tljax.runs import record
from tljax.runs.answers import read_answers
from tljax.runs.metrics import read_rows
from tljax.runs.workdir import write_atomically

matplotlib.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
ROOT = Path("runs/four_scenarios")
MODELS = list(settings.RATES)
SCENARIOS = list(settings.RATES[MODELS[0]])
COLUMNS = ("model", "target", "size", "scenario", "k", "lr", "seed", "steps", "val_accuracy")
COLUMNS += ("test_accuracy", "naive_accuracy", "trainable_parameters", "wall_seconds")


class Arm(NamedTuple):
    """A scenario with its k, for one model, target and size."""

    model: str
    target: str
    size: int
    scenario: str
    k: int | None


class Cell(NamedTuple):
    """A model, target and size, on which scenarios are compared."""

    model: str
    target: str
    size: int

    def arm(self, scenario: str, k: int | None = None) -> Arm:
        return Arm(*self, scenario, k)

    @property
    def prescribed(self) -> str:
        """The scenario that the textbook prescribes."""
        similar = settings.TARGETS[self.target] == "similar"
        if self.size in settings.SMALL:
            return "feature_extraction" if similar else "freeze_first"
        return "fine_tune" if similar else "from_scratch"


class Study:
    """The numbers of all runs, by arm and seed."""

    def __init__(self, results: Path, curves: Path):
        self.validation: dict[Arm, dict[int, float]] = {}
        self.test: dict[Arm, dict[int, float]] = {}
        self.right: dict[Arm, dict[int, np.ndarray]] = {}
        self.naive: dict[Cell, float] = {}
        self.curves: dict[Arm, dict[int, list[tuple[float, float]]]] = {}
        for row in tables.read_csv(results):
            arm, seed = _arm(row), int(row["seed"])
            self.validation.setdefault(arm, {})[seed] = float(row["val_accuracy"])
            self.test.setdefault(arm, {})[seed] = float(row["test_accuracy"])
            self.naive[Cell(*arm[:3])] = float(row["naive_accuracy"])
            if row["right"]:
                self.right.setdefault(arm, {})[seed] = unpack_right(row["right"])
        for row in tables.read_csv(curves):
            points = self.curves.setdefault(_arm(row), {}).setdefault(int(row["seed"]), [])
            points.append((float(row["examples"]), float(row["val_accuracy"])))

    @property
    def models(self) -> list[str]:
        """The networks that were run."""
        return [model for model in MODELS if any(cell.model == model for cell in self.naive)]

    @property
    def cells(self) -> list[Cell]:
        return [
            Cell(m, t, size)
            for m in self.models
            for t in settings.TARGETS
            for size in settings.STEPS
        ]

    def chosen(self, cell: Cell) -> dict[str, Arm]:
        """One arm for each scenario; freeze_first's k has the highest mean validation accuracy."""
        arms = {scenario: cell.arm(scenario) for scenario in SCENARIOS}
        arms_by_k = [cell.arm("freeze_first", k) for k in settings.K]
        arms["freeze_first"] = max(
            arms_by_k, key=lambda arm: np.mean(_values(self.validation[arm]))
        )
        return arms

    def score(self, arm: Arm) -> Interval:
        """Mean test accuracy with its interval over seeds."""
        return mean_interval(_values(self.test[arm]))

    def gain(self, a: Arm, b: Arm) -> Comparison:
        """The gain of a over b in test accuracy, paired by seed."""
        return compare(self.test[a], self.test[b], self.right.get(a), self.right.get(b))

    def benefits(self, arm: Arm) -> Benefits:
        """The benefits of transfer over the same runs from scratch."""
        return benefits(self.curves[arm], self.curves[self.twin(arm)])

    @staticmethod
    def twin(arm: Arm) -> Arm:
        """The arm that differs only in that it starts from random weights."""
        return arm._replace(scenario="from_scratch", k=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--tables", action="store_true", help="run nothing; use the numbers in *.csv"
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, help="default: both")
    args = parser.parse_args()
    if not args.tables:
        use_compilation_cache()
        for model in args.models:
            _run(model)
        _collect()
    study = Study(HERE / "results.csv", HERE / "curves.csv")
    write_atomically(HERE / "table.md", table(study))
    write_atomically(HERE / "benefits.md", benefits_table(study))
    figure(study).savefig(HERE / "results.png", dpi=110, bbox_inches="tight")
    print((HERE / "table.md").read_text())
    print((HERE / "benefits.md").read_text())


# ----------------------------------------------------------------------------------- the runs


def _run(model: str) -> None:
    name = f"{HERE / 'config.py'}:{model}"
    source = ROOT / model / "source"
    if record.read_result(source) is None:
        experiment.run(load_config(f"{name}/source"), source)
    for part in ("pilot", "study"):
        run_sweep(f"{name}/{part}", [], ROOT / model / part)
    for scenario, rate in settings.RATES[model].items():
        best = _best_rate(model, scenario)
        if rate != best:
            print(f"{model}, {scenario}: this pilot would choose {best}; the study uses {rate}")


def _best_rate(model: str, scenario: str) -> float:
    """The rate with the pilot's highest validation accuracy, averaged over the targets."""
    runs = read_runs(ROOT / model / "pilot" / "runs")
    return best_value([run for run in runs if run.overrides["scenario"] == scenario], "lr")


def _is_done(model: str) -> bool:
    """Whether every run of a network's study is done."""
    done = [run for run in read_runs(ROOT / model / "study" / "runs") if run.summary]
    return len(done) == sum(1 for _ in settings.sweep(f"{model}/study"))


def _collect() -> None:
    """Copies the numbers of the networks' runs into this folder."""
    for part in ("pilot", "study"):
        rows, points = [], []
        for model in filter(_is_done, MODELS):
            folder = ROOT / model / part / "runs"
            for run in read_runs(folder):
                target = run.overrides["data"].removeprefix("embedded:")
                row = {**run.overrides, **run.summary, "target": target, "model": model}
                row["size"] = run.overrides["train_size"]
                rows.append({name: row.get(name) for name in COLUMNS})
                if part == "study":
                    rows[-1]["right"] = pack_right(read_answers(folder / run.name))
                for evaluation in read_rows(folder / run.name / "metrics.jsonl"):
                    if evaluation["event"] == "val":
                        point = {name: row.get(name) for name in (*Arm._fields, "seed")}
                        point["examples"] = evaluation["examples"]
                        point["val_accuracy"] = round(evaluation["accuracy"], 6)
                        points.append(point)
        tables.write_csv(HERE / ("pilot.csv" if part == "pilot" else "results.csv"), rows)
        if part == "study":
            tables.write_csv(HERE / "curves.csv", points)


def _arm(row: dict[str, str]) -> Arm:
    k = int(row["k"]) if row["k"] else None
    return Arm(row["model"], row["target"], int(row["size"]), row["scenario"], k)


def _values(by_seed: dict[int, float]) -> list[float]:
    return [by_seed[seed] for seed in settings.SEEDS]


# --------------------------------------------------------------------------------- the tables


def table(study: Study) -> str:
    """Test accuracies with intervals, the textbook's scenario and the best one."""
    head = ["model", "target", "images", "naive", *map(_words, SCENARIOS), "textbook", "highest"]
    head += ["over the next", "over the textbook's"]
    rows = []
    for cell in study.cells:
        arms = study.chosen(cell)
        scores = {scenario: study.score(arm) for scenario, arm in arms.items()}
        best, second, *_ = sorted(scores, key=lambda s: -round(scores[s].mean, 12))
        texts = {scenario: tables.score(score) for scenario, score in scores.items()}
        texts["freeze_first"] += f" (k={arms['freeze_first'].k})"
        texts[best] = f"**{texts[best]}**"
        behind = "" if best == cell.prescribed else _gain(study, arms[best], arms[cell.prescribed])
        rows.append(
            [
                *(cell.model, cell.target, f"{cell.size:,}", f"{study.naive[cell]:.3f}"),
                *(texts[scenario] for scenario in SCENARIOS),
                *(_words(cell.prescribed), _words(best)),
                *(f"{_gain(study, arms[best], arms[second])} ({_words(second)})", behind),
            ]
        )
    return tables.markdown(head, rows)


def _gain(study: Study, a: Arm, b: Arm) -> str:
    return tables.compared(study.gain(a, b))


def benefits_table(study: Study) -> str:
    """The benefits of each transfer over the same runs from scratch."""
    head = ["model", "target", "images", "scenario", "higher start", "rate ratio", "time ratio"]
    head += ["higher asymptote", "total reward", "transfer ratio", "error above scratch"]
    rows = []
    for cell in study.cells:
        for scenario, arm in study.chosen(cell).items():
            if scenario == "from_scratch":
                continue
            gained = study.benefits(arm)
            k = f" (k={arm.k})" if arm.k is not None else ""
            gap = study.gain(study.twin(arm), arm)
            harm = " **negative transfer**" if gap.mean > 0 and gap.is_clear else ""
            rows.append(
                [
                    *(cell.model, cell.target, f"{cell.size:,}", f"{_words(scenario)}{k}"),
                    tables.signed(gained.higher_start),
                    *map(_ratio, (gained.rate_ratio, gained.time_ratio)),
                    *map(tables.signed, (gained.higher_asymptote, gained.total_reward)),
                    tables.signed(gained.transfer_ratio),
                    f"{tables.compared(gap)}{harm}",
                ]
            )
    return tables.markdown(head, rows)


def _words(scenario: str) -> str:
    return scenario.replace("_", " ")


def _ratio(ratio: RatioInterval) -> str:
    mean = ratio.interval
    if ratio.undetermined or np.isnan(mean.mean):
        return f"undetermined in {ratio.undetermined or ratio.censored} of {ratio.seeds}"
    if ratio.censored:
        return f"{ratio.bound} {mean.mean:.2f} ({ratio.censored} of {ratio.seeds} are bounds)"
    return f"{mean.mean:.2f} [{mean.low:.2f}, {mean.high:.2f}]"


# --------------------------------------------------------------------------------- the figure

COLOURS = {  # Okabe and Ito's, which colour-blind readers can tell apart
    "feature_extraction": "#d55e00",
    "freeze_first": "#009e73",
    "from_scratch": "#1c1f23",
    "fine_tune": "#0072b2",
}


def figure(study: Study) -> plt.Figure:
    """One row a model; for each target the accuracy by size, then by number of frozen groups."""
    count = len(study.models)
    chart, axes = plt.subplots(
        count,
        2 * len(settings.TARGETS),
        figsize=(15, 3.4 * count),
        layout="constrained",
        squeeze=False,
    )
    for row, model in zip(axes, study.models, strict=True):
        for column, target in enumerate(settings.TARGETS):
            _by_size(row[column], study, model, target)
            _by_k(row[column + len(settings.TARGETS)], study, model, target)
        row[0].set_ylabel(f"{model}\ntest accuracy")
    for axis, place, title in (
        (axes[0][0], "outside lower left", None),
        (axes[0][-1], "outside lower right", "training images"),
    ):
        handles, labels = axis.get_legend_handles_labels()
        chart.legend(handles, labels, loc=place, ncols=4, frameon=False, title=title)
    return chart


def _by_size(axis: plt.Axes, study: Study, model: str, target: str) -> None:
    for number, scenario in enumerate(SCENARIOS):
        scores = [
            study.score(study.chosen(Cell(model, target, size))[scenario])
            for size in settings.STEPS
        ]
        axis.errorbar(
            [size * (1 + 0.04 * (number - 1.5)) for size in settings.STEPS],  # side by side
            [score.mean for score in scores],
            [score.half_width for score in scores],
            marker="o",
            markersize=3.5,
            capsize=2,
            color=COLOURS[scenario],
            label=_words(scenario),
        )
    axis.set_xscale("log")
    axis.set_xticks(list(settings.STEPS), [f"{size:,}" for size in settings.STEPS], minor=False)
    axis.set_xticks([], minor=True)
    axis.set_xlabel("training images")
    axis.set_title(f"{target} ({settings.TARGETS[target]} to glyphs)", fontsize=10)


def _by_k(axis: plt.Axes, study: Study, model: str, target: str) -> None:
    shades = ("#9ecae1", "#6baed6", "#2171b5", "#08306b")
    for size, shade in zip(settings.STEPS, shades, strict=True):
        cell = Cell(model, target, size)
        scores = [study.score(cell.arm("freeze_first", k)) for k in settings.K]
        axis.errorbar(
            settings.K,
            [score.mean for score in scores],
            [score.half_width for score in scores],
            marker="o",
            markersize=3.5,
            capsize=2,
            color=shade,
            label=f"{size:,}",
        )
    axis.set_xticks(settings.K)
    axis.set_xlabel("k: groups frozen, from the input")
    axis.set_title(f"{target}: freeze first, by k", fontsize=10)


if __name__ == "__main__":
    main()
