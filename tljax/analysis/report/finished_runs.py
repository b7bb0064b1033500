"""Finished runs: read from their workdirs, grouped by config, chosen on validation images."""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tljax import experiment
from tljax.analysis import statistics
from tljax.analysis.repetitions import comparable_config
from tljax.analysis.report.cells import validation_curve
from tljax.analysis.report.measures import Measure
from tljax.analysis.statistics import Interval
from tljax.console import warn_once
from tljax.data import Task
from tljax.data.labels import KINDS
from tljax.errors import InputError
from tljax.files import parse_json
from tljax.runs.answers import Answers, Outputs, read_answers
from tljax.runs.record import all_rows, shorten
from tljax.runs.scores import WORDS, rank, score, score_of
from tljax.transfer.scenarios import SCENARIOS

_NEEDED_FIELDS = {  # of result.json
    "scenario": str,
    "plan": dict,
    "train_size": int,
    "seed": int,
    "steps": int,
    "val_accuracy": float | None,  # None: the run had no validation images, or no classes
    "test_size": int,
    "trainable_parameters": int,
    "total_parameters": int,
    "examples_seen": int,
    "wall_seconds": float,
    "devices": list,
    "versions": dict,
}
_OF_A_KIND: dict[str, dict[str, type]] = {  # likewise, of each kind of labels
    "classes": {"test_accuracy": float, "naive_accuracy": float},
    "multi_label": {"naive_mean_average_precision": float, "thresholds": list},
    "regression": {"naive_r2": float},
}


@dataclass(frozen=True)
class FinishedRun:
    """A finished run: its `config.json`, `result.json` and `metrics.jsonl`, and its tasks."""

    workdir: Path
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    tasks: tuple[Task, ...]

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @property
    def scenario(self) -> str:
        return str(self.config["scenario"])

    @property
    def goal(self) -> "Goal":
        kind, name = str(self.summary.get("kind", "classes")), score_of(self.summary)
        decides = kind == "regression" and name == "loss"
        loss = str(self.config["regression_loss"]) if decides else ""
        data = str(self.config["data"])
        if self.config["folds"] is not None:  # which have other test images each
            drawn = self.config["data_seed"]
            drawn = self.seed if drawn is None else drawn
            data = f"{data}, fold {self.config['fold']} of {self.config['folds']} (seed {drawn})"
        return Goal(data, kind, name, loss)

    @property
    def validation(self) -> float | None:
        """The score on validation images; None if there were none."""
        return score(self.summary, "val")

    @property
    def curve(self) -> list[tuple[int, float]]:
        """(images seen, validation score) of each evaluation; see `validation_curve`."""
        return validation_curve(self.history, self.goal.score)

    @property
    def answers(self) -> Answers | None:
        """The answers to the test images, of classes, or None if the workdir keeps none."""
        return self._kept if isinstance(self._kept, Answers) else None

    @property
    def outputs(self) -> Outputs | None:
        """The same of several labels an image, or of numbers."""
        return self._kept if isinstance(self._kept, Outputs) else None

    @cached_property
    def _kept(self) -> Answers | Outputs | None:
        return read_answers(self.workdir)


@dataclass(frozen=True, order=True)
class Goal:
    """What is learned, and the metric that decides: scores of other goals cannot be compared.

    Attributes:
      data: as the config names it; and, if there are folds, which one and the seed that drew them,
        since folds of another seed are other images.
      kind: of the labels.
      score: name of the metric.
      loss: of numbers, which loss it is where the loss decides; else "".
    """

    data: str
    kind: str = "classes"
    score: str = "accuracy"
    loss: str = ""

    @property
    def measure(self) -> Measure:
        return Measure(self.score)


@dataclass(frozen=True)
class Target:
    """A goal, model and size: scenarios are compared with one another on the same target."""

    goal: Goal
    model: str
    train_size: int


@dataclass(frozen=True)
class Setting:
    """Runs with one goal that differ only in their seed, by seed."""

    runs: Mapping[int, FinishedRun]

    @property
    def first(self) -> FinishedRun:
        return next(iter(self.runs.values()))

    @property
    def target(self) -> Target:
        run = self.first
        return Target(run.goal, run.config["model"], run.summary["train_size"])

    @property
    def measure(self) -> Measure:
        """Of the metric that decides its runs."""
        return self.first.goal.measure

    @property
    def scenario(self) -> str:
        return self.first.scenario

    @property
    def validation(self) -> float:
        """The rank of the mean over seeds of the best validation score; settings are chosen by it.

        Minus infinity, below all others, if a run had no validation images.
        """
        scores = [run.validation for run in self.runs.values()]
        known = [value for value in scores if value is not None]
        if len(known) < len(scores):
            return -math.inf
        return statistics.comparable(rank(self.measure.name, float(np.mean(known))))

    @property
    def test(self) -> Interval:
        """Test score: the mean over seeds with its interval."""
        return statistics.mean_interval(self.tests)

    @property
    def tests(self) -> list[float]:
        """Test score of each seed."""
        return self.values(f"test_{self.measure.name}")

    @property
    def answers(self) -> dict[int, Answers | None]:
        """The answers of each seed to the test images."""
        return {seed: run.answers for seed, run in self.runs.items()}

    def values(self, name: str) -> list[float]:
        """A field of `result.json` for each seed."""
        return [run.summary[name] for run in self.runs.values()]


@dataclass(frozen=True)
class Choice:
    """The setting with the best mean validation score, and out of how many it is chosen."""

    setting: Setting
    among: int


@dataclass(frozen=True)
class Collection:
    """All runs of a report.

    Attributes:
      settings: the finished runs.
      unfinished: workdirs of runs that are not done; the report leaves them out.
    """

    settings: tuple[Setting, ...]
    unfinished: tuple[Path, ...]

    @property
    def runs(self) -> list[FinishedRun]:
        return [run for setting in self.settings for run in setting.runs.values()]

    @property
    def targets(self) -> list[Target]:
        """Sorted by goal, model, and size."""
        found = {setting.target for setting in self.settings}
        return sorted(found, key=lambda target: (target.goal, target.model, target.train_size))

    @property
    def goals(self) -> list[Goal]:
        """Sorted by data, kind of labels, and score."""
        return sorted({setting.target.goal for setting in self.settings})

    def settings_of(self, target: Target, scenario: str) -> list[Setting]:
        return [s for s in self.settings if s.target == target and s.scenario == scenario]

    def best_by_scenario(self, target: Target) -> dict[str, Choice]:
        """The best setting of each scenario on a target, in the order of `SCENARIOS`."""
        by_scenario = {scenario: self.settings_of(target, scenario) for scenario in SCENARIOS}
        return {name: choose_best(settings) for name, settings in by_scenario.items() if settings}

    def is_joint(self, target: Target) -> bool:
        """Whether the target is several tasks that are learned together."""
        some = next(setting for setting in self.settings if setting.target == target)
        return len(some.first.tasks) > 1


def choose_best(settings: Sequence[Setting]) -> Choice:
    """Chooses the best mean validation score, of settings with one goal; of equals the first."""
    return Choice(max(settings, key=lambda setting: setting.validation), len(settings))


def collect_runs(folders: Iterable[Path]) -> Collection:
    """Reads the finished runs whose workdirs are among `folders` or below them.

    Raises:
      InputError: if a folder does not exist or holds no workdir, no run is done, or a run cannot
        be read.
    """
    workdirs: dict[Path, Path] = {}
    for folder in folders:
        found = _find_workdirs(folder)
        if not found:
            raise InputError(
                f"'{folder}' is no workdir of tljax, and there is none below it; give folders that"
                " `tljax train` or `tljax sweep` wrote"
            )
        workdirs |= {workdir.resolve(): workdir for workdir in found}
    done = [workdir for workdir in workdirs.values() if (workdir / "result.json").exists()]
    unfinished = tuple(workdir for workdir in workdirs.values() if workdir not in done)
    if not done:
        raise InputError(
            f"none of the {len(unfinished)} runs is done, e.g. '{unfinished[0]}'; finish one with"
            " the command that began it"
        )
    return Collection(_group_settings([read_run(workdir) for workdir in done]), unfinished)


def read_run(workdir: Path) -> FinishedRun:
    """Reads a finished run.

    Raises:
      InputError: if one of its files is missing or not what a run writes.
    """
    config = json.loads(experiment.read_config(workdir).to_json())
    path = workdir / "result.json"
    try:
        summary = parse_json(path.read_bytes())
        name = _check_fields(summary)
        if config["scenario"] not in SCENARIOS:
            raise ValueError(f"there is no scenario {config['scenario']!r}")
        history = all_rows(workdir)
        for row in history:
            if row["event"] == "val" and not isinstance(row["examples"] + row[name], float):
                raise TypeError("its rows hold values that are no numbers")
        tasks = experiment.tasks_of(workdir)
    except KeyError as error:
        raise InputError(f"{path} or its rows lack {error}; restore them, or train again") from None
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"cannot read {path} ({error}); restore it, or train again") from None
    return FinishedRun(workdir, config, summary, history, tasks)


def _check_fields(summary: Mapping[str, Any]) -> str:
    """Raises KeyError, ValueError or TypeError if a result lacks something; returns its score."""
    if not isinstance(summary, dict):
        raise TypeError("it holds no fields")
    kind, name = summary.get("kind", "classes"), score_of(summary)
    if kind not in KINDS or name not in WORDS:
        raise ValueError(f"there is no kind {kind!r} of labels, or no score {name!r}")
    needed = _NEEDED_FIELDS | _OF_A_KIND[kind] | {f"test_{name}": float}
    for field, form in needed.items():
        if not isinstance(summary[field], form):
            raise TypeError(f"its {field} is {summary[field]!r}")
    validated = summary.get(f"val_{name}")
    if not isinstance(validated, float | None):
        raise TypeError(f"its val_{name} is {validated!r}")
    return name


def _find_workdirs(folder: Path) -> list[Path]:
    """The folder itself if it is a workdir, else the workdirs below it, sorted.

    Folders within a workdir are not searched.
    """
    found = []
    for name, folders, files in os.walk(folder):
        if "config.json" in files and ("checkpoints" in folders or "result.json" in files):
            found.append(Path(name))
            folders.clear()
        folders.sort()
    return found


def _group_settings(runs: Sequence[FinishedRun]) -> tuple[Setting, ...]:
    """Groups runs that differ only in their seed; of two with the same seed the first is kept.

    A warning names those left out, such as a training run beside a probe of the same config.

    Each seed may have a source model of its own, so `init_from` may differ, too, as long as no
    seed occurs twice.
    """
    settings, left_out = [], []
    for group in _group_by_config(runs, {"seed", "init_from"}):
        has_unique_seeds = len({run.seed for run in group}) == len(group)
        parts = [group] if has_unique_seeds else _group_by_config(group, {"seed"})
        for part in parts:
            by_seed: dict[int, FinishedRun] = {}
            for run in sorted(part, key=lambda run: run.seed):
                if by_seed.setdefault(run.seed, run) is not run:
                    left_out.append(f"'{run.workdir}' (as '{by_seed[run.seed].workdir}')")
            settings.append(Setting(by_seed))
    if left_out:
        warn_once(
            f"left out, since another run has the same config and seed: {shorten(left_out)};"
            " report on them separately"
        )
    return tuple(settings)


def _group_by_config(runs: Sequence[FinishedRun], ignored: set[str]) -> list[list[FinishedRun]]:
    """Groups runs with one goal that repeat each other; see `comparable_config`."""
    groups: dict[str, list[FinishedRun]] = {}
    for run in runs:
        compared = comparable_config(run.config, ignored)
        goal = (run.goal.data, run.goal.kind, run.goal.score)
        key = json.dumps([compared, goal], sort_keys=True)
        groups.setdefault(key, []).append(run)
    return list(groups.values())
