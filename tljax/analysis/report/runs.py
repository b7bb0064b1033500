"""Finished runs as a report sees them: read from workdirs, grouped, and chosen on validation."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tljax import experiment
from tljax.analysis import statistics
from tljax.analysis.statistics import Interval
from tljax.data import Task
from tljax.errors import InputError
from tljax.files import parse_json
from tljax.runs.answers import Answers, read_answers
from tljax.runs.record import all_rows
from tljax.training.options import HARMLESS
from tljax.transfer.scenarios import SCENARIOS

_NEEDED = {
    "scenario": str,
    "plan": dict,
    "train_size": int,
    "seed": int,
    "steps": int,
    "val_accuracy": float,
    "test_accuracy": float,
    "test_size": int,
    "naive_accuracy": float,
    "trainable_parameters": int,
    "total_parameters": int,
    "examples_seen": int,
    "wall_seconds": float,
    "devices": list,
    "versions": dict,
}


@dataclass(frozen=True)
class Run:
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
    def curve(self) -> list[tuple[int, float]]:
        """(images seen, validation accuracy) at each evaluation; the first is before training."""
        return [(row["examples"], row["accuracy"]) for row in self.history if row["event"] == "val"]

    @cached_property
    def answers(self) -> Answers | None:
        """To the test images, if the workdir keeps them."""
        return read_answers(self.workdir)


@dataclass(frozen=True)
class Place:
    """What is to be learned, and by what: runs of one place compete."""

    data: str
    model: str
    train_size: int


@dataclass(frozen=True)
class Setting:
    """Runs that differ in their seed alone, by seed."""

    runs: Mapping[int, Run]

    @property
    def first(self) -> Run:
        return next(iter(self.runs.values()))

    @property
    def place(self) -> Place:
        config, summary = self.first.config, self.first.summary
        return Place(config["data"], config["model"], summary["train_size"])

    @property
    def scenario(self) -> str:
        return self.first.scenario

    @property
    def validation(self) -> float:
        """What choices go by: the mean over seeds of the best validation accuracy."""
        return float(np.mean(self.values("val_accuracy")))

    @property
    def test(self) -> Interval:
        return statistics.mean_interval(self.values("test_accuracy"))

    def values(self, name: str) -> list[float]:
        """A field of `result.json`, seed by seed."""
        return [run.summary[name] for run in self.runs.values()]


@dataclass(frozen=True)
class Chosen:
    """The setting with the highest mean validation accuracy among so many."""

    setting: Setting
    among: int


@dataclass(frozen=True)
class Collection:
    """All that a report is about.

    Attributes:
      settings: of the finished runs.
      unfinished: workdirs whose runs are not done, which are left out.
    """

    settings: tuple[Setting, ...]
    unfinished: tuple[Path, ...]

    @property
    def runs(self) -> list[Run]:
        return [run for setting in self.settings for run in setting.runs.values()]

    def at(self, place: Place) -> dict[str, Chosen]:
        """The best setting of each scenario at a place, in the order of the scenarios."""
        here = [setting for setting in self.settings if setting.place == place]
        by_scenario = {
            scenario: [setting for setting in here if setting.scenario == scenario]
            for scenario in SCENARIOS
        }
        return {name: best(settings) for name, settings in by_scenario.items() if settings}

    def is_joint(self, place: Place) -> bool:
        """Whether several tasks are learned there together."""
        here = next(setting for setting in self.settings if setting.place == place)
        return len(here.first.tasks) > 1

    @property
    def places(self) -> list[Place]:
        """By data, model, and size."""
        found = {setting.place for setting in self.settings}
        return sorted(found, key=lambda place: (place.data, place.model, place.train_size))


def best(settings: Sequence[Setting]) -> Chosen:
    """The one with the highest mean validation accuracy; of equal ones the first."""
    return Chosen(max(settings, key=lambda setting: setting.validation), len(settings))


def collect(folders: Iterable[Path]) -> Collection:
    """Reads the workdirs among `folders`, and those below them.

    Raises:
      InputError: if a folder does not exist or holds no workdir, none of the runs is done, or one
        cannot be read.
    """
    workdirs: dict[Path, Path] = {}
    for folder in folders:
        found = _workdirs(folder)
        if not found:
            raise InputError(
                f"'{folder}' is no workdir of tljax, and there is none below it; give folders that"
                " `tljax train` or `tljax sweep` wrote"
            )
        workdirs |= {workdir.resolve(): workdir for workdir in found}
    done = [workdir for workdir in workdirs.values() if (workdir / "result.json").exists()]
    unfinished = tuple(workdir for workdir in workdirs.values() if workdir not in done)
    if not done:
        raise InputError(f"none of the {len(unfinished)} runs is done, e.g. '{unfinished[0]}'")
    return Collection(_settings([read_run(workdir) for workdir in done]), unfinished)


def read_run(workdir: Path) -> Run:
    """A finished run.

    Raises:
      InputError: if one of its files is missing or not what a run writes.
    """
    config = json.loads(experiment.read_config(workdir).to_json())
    path = workdir / "result.json"
    try:
        summary = parse_json(path.read_bytes())
        for name, kind in _NEEDED.items():
            if not isinstance(summary[name], kind):
                raise TypeError(f"its {name} is {summary[name]!r}")
        if config["scenario"] not in SCENARIOS:
            raise ValueError(f"there is no scenario {config['scenario']!r}")
        history = all_rows(workdir)
        for row in history:
            if row["event"] == "val" and not isinstance(row["examples"] + row["accuracy"], float):
                raise TypeError("its rows are no numbers")
        tasks = experiment.tasks_of(workdir)
    except KeyError as error:
        raise InputError(f"{path} or its rows lack {error}; restore them, or train anew") from None
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"cannot read {path} ({error}); restore it, or train anew") from None
    return Run(workdir, config, summary, history, tasks)


def _workdirs(folder: Path) -> list[Path]:
    """A workdir itself, or those below a folder, sorted; within a workdir none is looked for."""
    found = []
    for name, folders, files in os.walk(folder):
        if "config.json" in files and ("checkpoints" in folders or "result.json" in files):
            found.append(Path(name))
            folders.clear()
        folders.sort()
    return found


def _settings(runs: Sequence[Run]) -> tuple[Setting, ...]:
    """Of runs that differ in their seed alone; of two with the same seed the first counts.

    Runs may have a source model for each seed: they are one setting as long as no seed is twice.
    """
    groups = _grouped(runs, {"seed", "init_from", *HARMLESS})
    settings = []
    for group in groups:
        seeds = [run.seed for run in group]
        own = [group] if len(set(seeds)) == len(seeds) else _grouped(group, {"seed", *HARMLESS})
        for part in own:
            by_seed: dict[int, Run] = {}
            for run in sorted(part, key=lambda run: run.seed):
                by_seed.setdefault(run.seed, run)
            settings.append(Setting(by_seed))
    return tuple(settings)


def _grouped(runs: Sequence[Run], without: set[str]) -> list[list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        same = {name: value for name, value in run.config.items() if name not in without}
        groups.setdefault(json.dumps(same, sort_keys=True), []).append(run)
    return list(groups.values())
