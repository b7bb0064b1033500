"""The runs of a sweep, read from their workdirs: a table of them, and the choice among them.

A sweep keeps each run in its own workdir `W/runs/NAME`. Besides the files of `tljax train` it holds
`overrides.json`, the fields of the config that the run sets, and `failed.json` with the reason if
the run failed. The table is made from these files alone, so runs may come from any process or
machine.
"""

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tljax.analysis.spreadsheet import write_rows
from tljax.analysis.statistics import Interval, comparable, mean_interval
from tljax.config import base
from tljax.errors import InputError, printable
from tljax.files import parse_json
from tljax.runs.record import read_result
from tljax.runs.scores import LOWER_IS_BETTER, rank, score, score_of
from tljax.runs.workdir import write_atomically

OVERRIDES, FAILED = "overrides.json", "failed.json"
# Fields that define the task: accuracies of different tasks cannot be compared.
TASK = ("data", "train_size", "train_per_class", "val_fraction", "folds")
_REPEATED = ("seed", "fold")  # runs that differ in these are repetitions of one configuration
_SCALAR = (str, int, float, bool)


@dataclass(frozen=True)
class RecordedRun:
    """A run that is done or has failed.

    Attributes:
      name: name of its folder.
      overrides: the fields that it sets in the config.
      summary: the fields of its `result.json`; empty if it failed.
      error: why it failed, or None.
    """

    name: str
    overrides: dict[str, Any]
    summary: dict[str, Any]
    error: str | None = None


@dataclass(frozen=True)
class Selection:
    """The configuration with the best mean validation score among those of one place.

    The score is the metric that decides a run, see `tljax.runs.scores`. Runs with other scores are
    another place.

    A configuration is what a run sets without its seed and fold. A place is a task, and the values
    of the other fields for which the choice is made separately.

    Attributes:
      place: the fields of the place.
      score: the name of the metric.
      overrides: the fields that the configuration sets, without those of the place.
      varying: the fields in which configurations of the place differ.
      names: names of its runs.
      validation, test: its scores over seeds and folds; test scores of others are not used.
      among: number of configurations that it was chosen from.
      incomplete: number of configurations left out because a run failed or is not done.
    """

    place: dict[str, Any]
    score: str
    overrides: dict[str, Any]
    varying: tuple[str, ...]
    names: tuple[str, ...]
    validation: Interval
    test: Interval | None
    among: int
    incomplete: int


def read_runs(folder: Path) -> list[RecordedRun]:
    """Reads the runs in `W/runs` that are done or have failed, sorted by the fields they set.

        read_runs(Path("runs/sweep/runs"))

    Raises:
      InputError: if a file there is not what a sweep writes.
    """
    runs = []
    for path in folder.glob(f"*/{OVERRIDES}"):
        overrides, failed = _read(path), path.with_name(FAILED)
        summary = read_result(path.parent)
        if summary is not None:
            runs.append(RecordedRun(path.parent.name, overrides, summary))
        elif failed.exists():
            runs.append(
                RecordedRun(path.parent.name, overrides, {}, str(_read(failed).get("error")))
            )
    fields = [name for name in base() if any(name in run.overrides for run in runs)]
    return sorted(runs, key=lambda run: [_sort_key(run.overrides.get(name)) for name in fields])


def _read(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path} ({error}); delete that run's folder") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} is not what a sweep writes; delete that run's folder")
    return content


def _sort_key(value: Any) -> tuple[bool, bool, float, str]:
    """Sorts values of any type: None first, then numbers, then the rest."""
    is_number = isinstance(value, int | float)
    return value is not None, not is_number, value if is_number else 0.0, json.dumps(value)


def select(runs: Sequence[RecordedRun], by: Sequence[str] = ()) -> list[Selection]:
    """Chooses on validation images alone, for each task and each value of the fields `by`.

    A configuration is left out if it lacks a seed or a fold that another one of its place has, or
    if one of its runs failed.
    """
    own = (*TASK, *by)
    if any(score_of(run.summary) == "loss" for run in runs):
        own += ("regression_loss",)  # each is a measure of its own
    places: dict[str, dict[str, list[RecordedRun]]] = {}  # runs by place, then by configuration
    for run in runs:
        place = {name: run.overrides[name] for name in run.overrides if name in own}
        rest = {name: v for name, v in run.overrides.items() if name not in (*place, *_REPEATED)}
        configurations = places.setdefault(json.dumps(place), {})
        configurations.setdefault(json.dumps(rest), []).append(run)
    chosen = []
    for place_text, configurations in places.items():
        for name, alike in _by_score(configurations).items():
            complete = _complete(alike)
            if complete:
                chosen.append(_select_one(json.loads(place_text), name, alike, complete))
    fields = dict.fromkeys(name for selection in chosen for name in selection.place)
    return sorted(chosen, key=lambda s: [_sort_key(s.place.get(name)) for name in fields])


def _by_score(
    configurations: Mapping[str, list[RecordedRun]],
) -> dict[str, dict[str, list[RecordedRun]]]:
    """The configurations of a place by the score of their runs.

    One whose runs have all failed may be of any score: it is listed, and left out, in each.
    """
    scores = {
        name: {score_of(run.summary) for run in runs if run.error is None}
        for name, runs in configurations.items()
    }
    return {
        metric: {name: runs for name, runs in configurations.items() if scores[name] <= {metric}}
        for metric in sorted(set().union(*scores.values()))
    }


def _complete(configurations: Mapping[str, list[RecordedRun]]) -> dict[str, list[RecordedRun]]:
    """The configurations that have every seed and fold of their place, and no failed run."""
    repetitions = {
        text: {tuple(run.overrides.get(field) for field in _REPEATED) for run in runs}
        for text, runs in configurations.items()
    }
    return {
        text: runs
        for text, runs in configurations.items()
        if repetitions[text] == set().union(*repetitions.values())
        and all(run.error is None and score(run.summary, "val") is not None for run in runs)
    }


def _select_one(
    place: dict[str, Any],
    name: str,
    configurations: Mapping[str, list[RecordedRun]],
    complete: Mapping[str, list[RecordedRun]],
) -> Selection:
    """Chooses among the complete configurations of a place by the score `name`."""
    validation = {
        text: mean_interval([run.summary[f"val_{name}"] for run in runs])
        for text, runs in complete.items()
    }
    best = max(validation, key=lambda text: comparable(rank(name, validation[text].mean)))
    tests = [score(run.summary, "test") for run in complete[best]]
    known_tests = [value for value in tests if value is not None]
    return Selection(
        place=place,
        score=name,
        overrides=json.loads(best),
        varying=_varying_fields([json.loads(text) for text in configurations]),
        names=tuple(run.name for run in complete[best]),
        validation=validation[best],
        test=mean_interval(known_tests) if known_tests else None,
        among=len(complete),
        incomplete=len(configurations) - len(complete),
    )


def _varying_fields(configurations: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The fields whose values, or whose presence, differ between configurations."""
    names = sorted({name for configuration in configurations for name in configuration})
    first = configurations[0]
    return tuple(
        name
        for name in names
        if any((name in c, c.get(name)) != (name in first, first.get(name)) for c in configurations)
    )


def best_value(runs: Sequence[RecordedRun], field: str, score: str | None = None) -> Any:
    """Finds the value of a config field whose runs have the best mean score.

    Args:
      runs: at least one; each sets the field. A run that failed counts as 0 or, where scores may be
        below 0 or less is better, as worse than all.
      field: name of the field.
      score: a number in `result.json` that is measured on validation images, e.g.
        `val_balanced_accuracy`; None: the score that decides the runs, which is the same for all.

    Returns:
      The value; at a tie, the first in the order of the runs.
    """
    name = next((score_of(run.summary) for run in runs if run.summary), "accuracy")
    wanted = score or f"val_{name}"
    metric = wanted.removeprefix("val_")
    failed = -math.inf if metric in ("r2", *LOWER_IS_BETTER) else 0.0
    ranks: dict[Any, list[float]] = {}
    for run in runs:
        value = run.summary.get(wanted)
        known = failed if value is None else rank(metric, value)
        ranks.setdefault(run.overrides[field], []).append(known)
    return max(ranks, key=lambda value: comparable(sum(ranks[value]) / len(ranks[value])))


def write_results(path: Path, runs: Sequence[RecordedRun], chosen: Sequence[Selection]) -> None:
    """Writes a CSV table atomically, with one row for each run.

    Its columns: `name`, `status` (done or failed), the fields that runs set, `score` (the metric
    that decides the run), the numbers and texts of `result.json`, `selected` (whether its
    configuration was chosen), `selected_among` (from how many), and `error`.
    """
    among = {name: selection.among for selection in chosen for name in selection.names}
    fields = [name for name in base() if any(name in run.overrides for run in runs)]
    columns = dict.fromkeys(["name", "status", *fields, "score"])
    rows = []
    for run in runs:
        scalars = {n: v for n, v in run.summary.items() if isinstance(v, _SCALAR)}
        columns |= dict.fromkeys(scalars)
        rows.append(
            {
                "name": run.name,
                "status": "done" if run.error is None else "failed",
                **run.overrides,
                "score": score_of(run.summary) if run.error is None else None,
                **scalars,
                "selected": run.name in among,
                "selected_among": among.get(run.name),
                "error": run.error,
            }
        )
    columns |= dict.fromkeys(["selected", "selected_among", "error"])
    table = io.StringIO()
    lines = [columns, *([row.get(name) for name in columns] for row in rows)]
    write_rows(table, (map(_on_one_line, line) for line in lines))
    write_atomically(path, table.getvalue())


def _on_one_line(value: Any) -> Any:
    """Returns numbers as they are, and all else as text on one line."""
    if isinstance(value, list | tuple | Mapping):
        value = json.dumps(value)
    return printable(value) if isinstance(value, str) else value
