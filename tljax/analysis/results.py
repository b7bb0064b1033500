"""The runs of a sweep, read from their workdirs: one tidy table, and the choice among them.

A sweep keeps each run in a workdir of its own, `W/runs/NAME`, with two files beside those of
`tljax train`: `overrides.json`, what the run sets in the config, and, where it failed,
`failed.json` with the reason. The table is made from these alone, so that it does not matter which
process, or which machine, ran what.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tljax.analysis.statistics import Interval, mean_interval
from tljax.config import base
from tljax.errors import InputError, printable
from tljax.files import parse_json
from tljax.runs.record import read_result
from tljax.runs.workdir import write_atomically

OVERRIDES, FAILED = "overrides.json", "failed.json"
# Fields that say what the task is: across them accuracies cannot be compared.
TASK = ("data", "train_size", "train_per_class", "val_fraction")
_SCALAR = (str, int, float, bool)


@dataclass(frozen=True)
class SweepRun:
    """A run that is done or has failed.

    Attributes:
      name: of its folder.
      overrides: what it sets in the config.
      summary: the fields of its `result.json`; empty if it failed.
      error: why it failed, or None.
    """

    name: str
    overrides: dict[str, Any]
    summary: dict[str, Any]
    error: str | None = None


@dataclass(frozen=True)
class Selection:
    """The configuration with the best mean validation accuracy, of all that were tried.

    A configuration is what a run sets, but for its seed.

    Attributes:
      place: task, and whatever else the choice was made separately for.
      overrides: of the configuration, without `place`.
      varying: of these, the fields in which configurations of the place differ.
      names: of its runs.
      validation, test: its accuracies over seeds; no other configuration's test is looked at.
      among: how many configurations the choice was among.
      incomplete: how many more were left out, because a run of theirs failed or is still to come.
    """

    place: dict[str, Any]
    overrides: dict[str, Any]
    varying: tuple[str, ...]
    names: tuple[str, ...]
    validation: Interval
    test: Interval | None
    among: int
    incomplete: int


def read_runs(folder: Path) -> list[SweepRun]:
    """The runs in `W/runs` that are done or have failed, in the order of what they set.

    Raises:
      InputError: if a file there is not what a sweep writes.
    """
    runs = []
    for path in folder.glob(f"*/{OVERRIDES}"):
        overrides, failed = _read(path), path.with_name(FAILED)
        summary = read_result(path.parent)
        if summary is not None:
            runs.append(SweepRun(path.parent.name, overrides, summary))
        elif failed.exists():
            runs.append(SweepRun(path.parent.name, overrides, {}, str(_read(failed).get("error"))))
    fields = [name for name in base() if any(name in run.overrides for run in runs)]
    return sorted(runs, key=lambda run: [_rank(run.overrides.get(name)) for name in fields])


def _read(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path} ({error}); delete that run's folder") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} is not what a sweep writes; delete that run's folder")
    return content


def _rank(value: Any) -> tuple[bool, bool, float, str]:
    """Of values of any kind: none first, then numbers, then the rest."""
    is_number = isinstance(value, int | float)
    return value is not None, not is_number, value if is_number else 0.0, json.dumps(value)


def select(runs: Sequence[SweepRun], by: Sequence[str] = ()) -> list[Selection]:
    """Chooses on validation accuracy alone, for each task, and each value of the fields `by`.

    A configuration that lacks a seed which another one of its place has is left out, and so is one
    of which a run failed.
    """
    places: dict[str, dict[str, list[SweepRun]]] = {}
    for run in runs:
        place = {name: run.overrides[name] for name in run.overrides if name in (*TASK, *by)}
        rest = {name: v for name, v in run.overrides.items() if name not in (*place, "seed")}
        configurations = places.setdefault(json.dumps(place), {})
        configurations.setdefault(json.dumps(rest), []).append(run)
    chosen = []
    for place_text, configurations in places.items():
        seeds = {
            rest: {run.overrides.get("seed") for run in r} for rest, r in configurations.items()
        }
        complete = {
            rest: runs_of_one
            for rest, runs_of_one in configurations.items()
            if seeds[rest] == set().union(*seeds.values())
            and all(run.summary.get("val_accuracy") is not None for run in runs_of_one)
        }
        if not complete:
            continue
        validation = {
            rest: mean_interval([run.summary["val_accuracy"] for run in runs_of_one])
            for rest, runs_of_one in complete.items()
        }
        # Rounded, lest the last bit of a sum decide between equal means: then the first counts.
        best = max(validation, key=lambda rest: round(validation[rest].mean, 12))
        tests = [
            run.summary["test_accuracy"]
            for run in complete[best]
            if run.summary.get("test_accuracy") is not None
        ]
        chosen.append(
            Selection(
                place=json.loads(place_text),
                overrides=json.loads(best),
                varying=_varying([json.loads(rest) for rest in configurations]),
                names=tuple(run.name for run in complete[best]),
                validation=validation[best],
                test=mean_interval(tests) if tests else None,
                among=len(complete),
                incomplete=len(configurations) - len(complete),
            )
        )
    fields = dict.fromkeys(name for selection in chosen for name in selection.place)
    return sorted(chosen, key=lambda s: [_rank(s.place.get(name)) for name in fields])


def best_value(runs: Sequence[SweepRun], field: str, score: str = "val_accuracy") -> Any:
    """The value of a config field whose runs have the highest mean score.

    Args:
      runs: at least one; each sets the field. A run that failed counts as 0.
      field: of the config.
      score: a number of `result.json`, of validation images, of which more is better.

    Returns:
      The value; of several with the same mean the first in the order of the runs.
    """
    scores: dict[Any, list[float]] = {}
    for run in runs:
        scores.setdefault(run.overrides[field], []).append(run.summary.get(score) or 0.0)
    # Rounded, as in `select`.
    return max(scores, key=lambda value: round(mean_interval(scores[value]).mean, 12))


def _varying(configurations: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    names = sorted({name for configuration in configurations for name in configuration})
    first = configurations[0]
    return tuple(
        name
        for name in names
        if any((name in c, c.get(name)) != (name in first, first.get(name)) for c in configurations)
    )


def write_results(path: Path, runs: Sequence[SweepRun], chosen: Sequence[Selection]) -> None:
    """Writes the table, whole or not at all: one row a run, with `name`, `status` (done or failed),
    what it sets, the numbers and texts of its `result.json`, whether it is of a chosen
    configuration, among how many, and `error`.
    """
    among = {name: selection.among for selection in chosen for name in selection.names}
    fields = [name for name in base() if any(name in run.overrides for run in runs)]
    columns = dict.fromkeys(["name", "status", *fields])
    rows = []
    for run in runs:
        scalars = {n: v for n, v in run.summary.items() if isinstance(v, _SCALAR)}
        columns |= dict.fromkeys(scalars)
        rows.append(
            {
                "name": run.name,
                "status": "done" if run.error is None else "failed",
                **run.overrides,
                **scalars,
                "selected": run.name in among,
                "selected_among": among.get(run.name),
                "error": run.error,
            }
        )
    columns |= dict.fromkeys(["selected", "selected_among", "error"])
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(name)) for name in columns] for row in rows)
    write_atomically(path, table.getvalue())


def _cell(value: Any) -> Any:
    """A text as data: on one line, and never what a spreadsheet takes for a formula."""
    if isinstance(value, list | tuple | Mapping):
        value = json.dumps(value)
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
