"""`tljax sweep`: the runs that a config page's `sweep()` yields, in one process.

Each run is a workdir of its own, `W/runs/NAME`, and goes on like one: what is done is skipped, what
was interrupted goes on from its checkpoint, to the same bits. Runs that differ in seed, data,
learning rate or weight decay share their compiled programs. What fails is written down, and does
not stop the others.
"""

import hashlib
import json
import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_collections
from rich.console import Console
from rich.markup import escape
from rich.progress import TextColumn
from rich.table import Table

from tljax import config as config_lib
from tljax import data as data_lib
from tljax import experiment
from tljax.analysis.results import (
    FAILED,
    OVERRIDES,
    Selection,
    best_value,
    read_runs,
    select,
    write_results,
)
from tljax.analysis.tables import score
from tljax.devices.compilations import Compilations, count_compilations
from tljax.devices.preemption import Preempted
from tljax.errors import InputError, check_known, printable
from tljax.runs import record
from tljax.runs.workdir import InUse, locked, make_workdir, write_atomically
from tljax.training.progress import console as stderr
from tljax.training.progress import progress_bar

_log = logging.getLogger("tljax")

_LONGEST_NAME = 120
_PLAIN = re.compile(r"[a-z0-9._-]*")  # what stands in a name as it is
_WRITE_EVERY = 10.0  # seconds between two results.csv of a sweep that is under way


@dataclass(frozen=True)
class Planned:
    """A run to come: its name, what it sets in the config, and the whole config."""

    name: str
    overrides: dict[str, Any]
    config: ml_collections.ConfigDict


@dataclass
class Tally:
    """What became of the runs of one call: names by outcome."""

    done: list[str]
    skipped: list[str]
    elsewhere: list[str]  # in use by another process
    failed: dict[str, str]  # with the reason


def run_sweep(
    path: str,
    overrides: Sequence[str],
    workdir: Path,
    *,
    shard: tuple[int, int] = (0, 1),
    by: Sequence[str] = (),
    accept_changes: bool = False,
    stop_at_errors: bool = False,
) -> None:
    """Runs a sweep, or its share of it, and prints what was chosen.

    Args:
      path, overrides: of the config page; the overrides hold for every run.
      workdir: W; gets `runs/NAME/`, and `results.csv`, made from all runs that lie there.
      shard: (i, n): every n-th run from the i-th on.
      by: fields for each value of which a best configuration is chosen.
      accept_changes: as of `tljax train`, for each run.
      stop_at_errors: whether an error that is not the user's is raised, instead of written down.

    Raises:
      InputError: for a slip in the page or in any of its configs, before anything is written; or,
        at the end, if runs failed.
    """
    for name in by:
        check_known("config field", name, config_lib.base())
    every = plan_runs(path, overrides)
    mine = every[shard[0] :: shard[1]]
    _check(every, workdir)
    make_workdir(workdir)
    began = time.monotonic()
    tally = Tally([], [], [], {})
    with count_compilations() as compilations:
        try:
            _run_all(mine, workdir, tally, compilations, by, accept_changes, stop_at_errors)
        finally:
            chosen = _write(workdir, by)
    _print(every, mine, workdir, tally, compilations, chosen, time.monotonic() - began)
    if tally.failed:
        name, reason = next(iter(tally.failed.items()))
        more = f" (and {len(tally.failed) - 1} more)" if len(tally.failed) > 1 else ""
        raise InputError(
            f"{len(tally.failed)} of {len(mine)} runs failed: {name}{more}: {reason.rstrip('.')};"
            " the same command tries them again"
        )


def plan_runs(path: str, overrides: Sequence[str]) -> list[Planned]:
    """The runs of a page, named.

    Raises:
      InputError: if the page cannot be used.
    """
    config, runs = config_lib.load_sweep(path, overrides)
    planned = []
    for values in runs:
        own = config.copy_and_resolve_references()
        for name, value in values.items():
            own[name] = value
        planned.append(Planned(run_name(values), values, config_lib.kept_by_rule(own, values)))
    return planned


def run_name(overrides: dict[str, Any]) -> str:
    """A folder's name that says what a run sets, e.g. `data=embedded+digits,lr=0.1,seed=0`.

    It follows from the run alone, so that a longer sweep finds the runs of a shorter one. Where a
    value cannot stand in a file's name as it is, or the whole is too long, the name ends in a hash
    of what it leaves out: two runs never share one, not even where case does not count.
    """
    if not overrides:
        return "default"
    texts = {name: _text(value) for name, value in overrides.items()}
    name = ",".join(f"{field}={text[0]}" for field, text in texts.items())
    if all(faithful for _, faithful in texts.values()) and len(name) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(json.dumps(overrides, sort_keys=True).encode()).hexdigest()[:10]
    return f"{name[: _LONGEST_NAME - 11]}~{digest}"


def _text(value: Any) -> tuple[str, bool]:
    """A value in a file's name, and whether no other value looks the same there."""
    if value is None or isinstance(value, bool | int | float):
        return str(value).replace("+", ""), True  # 1e+20
    if isinstance(value, list | tuple):
        parts = [_text(item) for item in value]
        return "+".join(text for text, _ in parts), False
    plain = value.replace(":", "+") if value.count(":") == 1 else value
    if _PLAIN.fullmatch(plain.replace("+", "", 1) if ":" in value else plain):
        return plain, True
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(value).name or value)[:40], False


def run_tuned(
    path: str, workdir: Path, overrides: Sequence[str] = (), chosen_by: str = "val_accuracy"
) -> float:
    """Runs a page's pilot, then its study at the learning rate that the pilot chose.

    Args:
      path: `FILE:ARG` of a page whose sweeps are called `ARG/pilot`, which sets `lr`, and
        `ARG/study`, which does not.
      workdir: gets `pilot/` and `study/`, each as of `run_sweep`.
      overrides: of every run.
      chosen_by: a number of the pilot's `result.json`, of validation images, e.g.
        `val_balanced_accuracy`; the highest mean counts, of equal ones the lowest rate's.

    Returns:
      The rate.

    Raises:
      InputError: as `run_sweep`.
    """
    run_sweep(f"{path}/pilot", overrides, workdir / "pilot")
    rate = float(best_value(read_runs(workdir / "pilot" / "runs"), "lr", chosen_by))
    run_sweep(f"{path}/study", [*overrides, f"--config.lr={rate}"], workdir / "study")
    return rate


def parse_shard(text: str) -> tuple[int, int]:
    """(i, n) of a text such as `0/2`.

    Raises:
      InputError: unless 0 <= i < n.
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
    shard = (int(match[1]), int(match[2])) if match else (0, 0)
    if not shard[0] < shard[1]:
        raise InputError(f"--shard is '{text}'; give i/n with i from 0 to n - 1, e.g. 0/2 and 1/2")
    return shard


def _check(runs: Sequence[Planned], workdir: Path) -> None:
    """Finds the slips of every config before the first run; reads no image and no weight."""
    tasks: dict[str, tuple[data_lib.Task, ...]] = {}
    for run in runs:
        try:
            config, _ = experiment.resolve_in(run.config, workdir / "runs" / run.name)
            data = str(config.data)  # whose classes are asked for once
            tasks[data] = experiment.build(config, tasks.get(data)).tasks
        except InputError as error:
            raise InputError(f"in the run {run.name}: {error}") from None


def _run_all(
    runs: Sequence[Planned],
    workdir: Path,
    tally: Tally,
    compilations: Compilations,
    by: Sequence[str],
    accept_changes: bool,
    stop_at_errors: bool,
) -> None:
    began = written = time.monotonic()
    with progress_bar(TextColumn("{task.fields[last]}")) as bar:
        task = bar.add_task("", total=len(runs), last="")
        for number, run in enumerate(runs, 1):
            bar.update(task, description=escape(run.name[-60:]))
            folder = workdir / "runs" / run.name
            try:
                told = _run_one(run, folder, tally, accept_changes, stop_at_errors)
            except InUse:
                tally.elsewhere.append(run.name)
                told = "left to the process that is at it"
            compiled = f"programs compiled: {compilations.count}"
            failed = run.name in tally.failed
            bar.update(task, advance=1, last=compiled if failed else escape(f"{told}  {compiled}"))
            if told and (failed or not stderr.is_terminal):
                tried = number - len(tally.skipped)
                left = (time.monotonic() - began) / tried * (len(runs) - number)
                line = f"{number}/{len(runs)}  {run.name}: {told}  {compiled}  ETA {left:.0f} s"
                stderr.print(line, soft_wrap=True, markup=False)
            if time.monotonic() - written > _WRITE_EVERY:
                _write(workdir, by)
                written = time.monotonic()


def _run_one(
    run: Planned, folder: Path, tally: Tally, accept_changes: bool, stop_at_errors: bool
) -> str:
    """Does one run, unless it is done; says how it went, if it had to be done."""
    if record.read_result(folder) is not None:
        tally.skipped.append(run.name)
        return ""
    with locked(folder):
        if record.read_result(folder) is not None:  # by who held it until now
            tally.skipped.append(run.name)
            return ""
        write_atomically(folder / OVERRIDES, json.dumps(run.overrides, indent=2) + "\n")
        (folder / FAILED).unlink(missing_ok=True)
        try:
            summary = experiment.run(
                run.config, folder, accept_changes=accept_changes, progress=False
            ).summary
        except (Preempted, InUse):
            raise
        except Exception as error:
            if stop_at_errors and not isinstance(error, InputError):
                raise
            reason = _reason(error)
            _log.debug("the run %s failed", run.name, exc_info=True)
            write_atomically(folder / FAILED, json.dumps({"error": reason}) + "\n")
            tally.failed[run.name] = reason
            return f"failed: {reason}"
    tally.done.append(run.name)
    accuracy, seconds = summary["val_accuracy"], summary["wall_seconds"]
    told = "" if accuracy is None else f"validation {accuracy:.3f}, "
    return f"{told}{seconds:.1f} s"


def _reason(error: Exception) -> str:
    if isinstance(error, InputError):
        return printable(error)
    first = (str(error).strip() or "no reason given").splitlines()[0]
    return printable(f"{type(error).__name__}: {first}")


def _write(workdir: Path, by: Sequence[str]) -> list[Selection]:
    runs = read_runs(workdir / "runs")
    chosen = select(runs, by)
    write_results(workdir / "results.csv", runs, chosen)
    return chosen


def _print(
    every: Sequence[Planned],
    mine: Sequence[Planned],
    workdir: Path,
    tally: Tally,
    compilations: Compilations,
    chosen: Sequence[Selection],
    seconds: float,
) -> None:
    out = Console(highlight=False)
    parts = [f"{len(tally.done)} done in {seconds:,.0f} s"]
    parts += [f"{len(tally.skipped)} were done before"] if tally.skipped else []
    parts += [f"{len(tally.failed)} failed"] if tally.failed else []
    parts += [f"{len(tally.elsewhere)} are under way elsewhere"] if tally.elsewhere else []
    share = f", of {len(every)} in all" if len(mine) < len(every) else ""
    out.print(f"{len(mine)} runs{share}: {', '.join(parts)}", soft_wrap=True)
    cached = f", {compilations.from_cache} of them from the cache on disk"
    out.print(
        f"programs compiled: {compilations.count} for {len(tally.done) + len(tally.failed)} runs"
        + (cached if compilations.from_cache else ""),
        soft_wrap=True,
    )
    if chosen:
        wide = out if out.is_terminal else Console(highlight=False, width=10_000)
        wide.print(_selection_table(chosen))
    out.print(f"every run: {printable(workdir / 'results.csv')}", soft_wrap=True, markup=False)


def _selection_table(chosen: Sequence[Selection]) -> Table:
    table = Table(title="chosen on validation accuracy", title_justify="left")
    places = list(dict.fromkeys(name for selection in chosen for name in selection.place))
    for name in places:
        table.add_column(name)
    table.add_column("best")
    table.add_column("validation", justify="right")
    table.add_column("test of it", justify="right")
    table.add_column("chosen among", justify="right")
    for selection in chosen:
        sets = ", ".join(
            f"{name}={selection.overrides[name]}"
            for name in selection.varying
            if name in selection.overrides
        )
        left_out = f" ({selection.incomplete} left out)" if selection.incomplete else ""
        table.add_row(
            *(escape(printable(selection.place.get(name, ""))) for name in places),
            escape(printable(sets)),
            score(selection.validation),
            "" if selection.test is None else score(selection.test),
            f"{selection.among}{left_out}",
        )
    return table
