"""Runs a sweep in one process, each run in a workdir of its own.

Finished runs are skipped; an interrupted run resumes from its last checkpoint and ends
bit-identical. Runs that differ only in seed, data, learning rate or weight decay share their
compiled programs. A run that fails leaves its reason in its folder and does not stop the others.
"""

import json
import logging
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import ml_collections
from rich.markup import escape
from rich.progress import TextColumn

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
from tljax.analysis.statistics import mean_interval
from tljax.analysis.tables import score as format_score
from tljax.commands.sweep.listing import PlannedRun, list_runs
from tljax.commands.sweep.table import Outcomes, print_outcomes, print_selections
from tljax.config import base
from tljax.console import console as stderr
from tljax.console import progress_bar, warn_once
from tljax.data import Task
from tljax.devices.compilations import Compilations, count_compilations
from tljax.devices.preemption import Preempted
from tljax.errors import InputError, check_known, hide_secrets, printable
from tljax.runs import record
from tljax.runs.scores import WORDS, score, score_of
from tljax.runs.workdir import InUse, locked, make_workdir, write_atomically

_log = logging.getLogger("tljax")

_WRITE_EVERY = 10.0  # seconds between updates of results.csv during a sweep


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
    """Runs a sweep, or one shard of it, and prints the chosen configurations.

    Args:
      path: of the config file.
      overrides: `--config.FIELD=VALUE` arguments, for every run.
      workdir: gets `runs/NAME/`, and `results.csv`, which lists all runs in `runs/`. The choice is
        among those of this sweep alone: others there may have other data or another length.
      shard: (i, n): every n-th run, beginning with run i.
      by: fields; a best configuration is chosen for each of their values.
      accept_changes: as in `tljax train`, for each run.
      stop_at_errors: whether to raise an unexpected error instead of recording it.

    Raises:
      InputError: if the config file or the config of any run is wrong, before anything is written;
        or, at the end, if runs failed.
    """
    for name in by:
        check_known("config field", name, base())
    total = list_runs(path, overrides)
    mine = total[shard[0] :: shard[1]]
    names = {run.name for run in total}
    check_configs(total, workdir / "runs")
    make_workdir(workdir)
    outcomes = Outcomes()
    try:
        run_all(
            mine,
            len(total),
            workdir / "runs",
            outcomes,
            write=lambda: _write_results(workdir, by, names),
            accept_changes=accept_changes,
            stop_at_errors=stop_at_errors,
        )
    finally:
        selections = _write_results(workdir, by, names)
    print_selections(selections, workdir / "results.csv")
    refuse_failed(outcomes, len(mine))


def run_tuned(
    path: str, workdir: Path, overrides: Sequence[str] = (), chosen_by: str | None = None
) -> float:
    """Runs a pilot sweep over learning rates, then a study at the rate that the pilot chose.

    Args:
      path: `FILE:ARG` of a config file with the sweeps `ARG/pilot`, which sets `lr`, and
        `ARG/study`, which does not.
      workdir: gets `pilot/` and `study/`, each with the files of `run_sweep`.
      overrides: `--config.FIELD=VALUE` arguments, for every run.
      chosen_by: a field of the pilot's `result.json`, measured on validation images, e.g.
        `val_balanced_accuracy`; None: the score that decides its runs. The rate with the best mean
        is chosen, the lowest of equal ones.

    Returns:
      The chosen rate.

    Raises:
      InputError: as `run_sweep`.
    """
    run_sweep(f"{path}/pilot", overrides, workdir / "pilot")
    names = {run.name for run in list_runs(f"{path}/pilot", overrides)}
    pilot = [run for run in read_runs(workdir / "pilot" / "runs") if run.name in names]
    rate = float(best_value(pilot, "lr", chosen_by))
    run_sweep(f"{path}/study", [*overrides, f"--config.lr={rate}"], workdir / "study")
    return rate


def check_configs(runs: Sequence[PlannedRun], folder: Path) -> list[ml_collections.ConfigDict]:
    """Checks every config before the first run; reads neither images nor weights.

    Args:
      runs: of a sweep.
      folder: of their workdirs.

    Returns:
      The resolved configs.

    Raises:
      InputError: if one is wrong, or is not that of the run which has begun in its workdir.
    """
    tasks: dict[str, tuple[Task, ...]] = {}
    resolved = []
    for run in runs:
        try:
            config, begun = experiment.resolve_in(run.config, folder / run.name)
            data = str(config.data)
            if not begun:
                experiment.refuse_inside_data(folder, data)
            # Finding the classes may take long, so each data set is asked once.
            exp = experiment.build(config, tasks.get(data))
            tasks[data] = exp.tasks
            if not begun and exp.starts_from_weights:
                experiment.check_source(exp.config)
            resolved.append(exp.config)
        except InputError as error:
            raise InputError(f"in the run {run.name}: {error}") from None
    return resolved


def run_all(
    runs: Sequence[PlannedRun],
    total: int,
    folder: Path,
    outcomes: Outcomes,
    *,
    write: Callable[[], object] = lambda: None,
    accept_changes: bool = False,
    stop_at_errors: bool = False,
) -> None:
    """Does the runs in order, and prints how they ended and what was compiled for them.

    Args:
      runs: of this call; their configs are checked.
      total: number of runs of the whole sweep.
      folder: of their workdirs.
      outcomes: records how each run ended, also if this call is stopped.
      write: called from time to time, to keep what is known so far.
      accept_changes, stop_at_errors: see `run_sweep`.
    """
    began = time.monotonic()
    with count_compilations() as compilations:
        _run_in_order(runs, folder, outcomes, compilations, write, (accept_changes, stop_at_errors))
    seconds = time.monotonic() - began
    print_outcomes(outcomes, len(runs), total, compilations, seconds)


def refuse_failed(outcomes: Outcomes, count: int) -> None:
    """Raises InputError if runs failed, of `count` in this call."""
    if outcomes.failed:
        name, reason = next(iter(outcomes.failed.items()))
        more = f" (and {len(outcomes.failed) - 1} more)" if len(outcomes.failed) > 1 else ""
        raise InputError(
            f"{len(outcomes.failed)} of {count} runs failed: {name}{more}:"
            f" {reason.rstrip('.')}; run the same command again to retry them"
        )


def _run_in_order(
    runs: Sequence[PlannedRun],
    folder: Path,
    outcomes: Outcomes,
    compilations: Compilations,
    write: Callable[[], object],
    how: tuple[bool, bool],
) -> None:
    began = written = time.monotonic()
    with progress_bar(TextColumn("{task.fields[last]}")) as bar:
        task = bar.add_task("", total=len(runs), last="")
        for number, run in enumerate(runs, 1):
            bar.update(task, description=escape(run.name[-60:]))
            try:
                summary = _run_one(run, folder / run.name, outcomes, *how)
            except InUse:
                outcomes.elsewhere.append(run.name)
                summary = "skipped, another process is doing it"
            compiled = f"programs compiled: {compilations.count}"
            failed = run.name in outcomes.failed
            last = compiled if failed else escape(f"{summary}  {compiled}")
            bar.update(task, advance=1, last=last)
            if summary and (failed or not stderr.is_terminal):
                tried = number - len(outcomes.skipped)
                left = (time.monotonic() - began) / tried * (len(runs) - number)
                line = f"{number}/{len(runs)}  {run.name}: {summary}  {compiled}  ETA {left:.0f} s"
                stderr.print(line, soft_wrap=True, markup=False)
            if time.monotonic() - written > _WRITE_EVERY:
                write()
                written = time.monotonic()


def _run_one(
    run: PlannedRun, folder: Path, outcomes: Outcomes, accept_changes: bool, stop_at_errors: bool
) -> str:
    """Does one run and returns a line about its end; returns "" if it was done before."""
    if record.read_result(folder) is not None:
        outcomes.skipped.append(run.name)
        return ""
    with locked(folder):
        if record.read_result(folder) is not None:  # by the process that held the lock
            outcomes.skipped.append(run.name)
            return ""
        overrides = hide_secrets(json.dumps(run.overrides, indent=2))
        write_atomically(folder / OVERRIDES, overrides + "\n")
        (folder / FAILED).unlink(missing_ok=True)
        try:
            result = experiment.run(
                run.config, folder, accept_changes=accept_changes, progress=False
            )
        except (Preempted, InUse):
            raise
        except Exception as error:
            if stop_at_errors and not isinstance(error, InputError):
                raise
            reason = _describe(error)
            _log.debug("the run %s failed", run.name, exc_info=True)
            write_atomically(folder / FAILED, json.dumps({"error": reason}) + "\n")
            outcomes.failed[run.name] = reason
            return f"failed: {reason}"
    outcomes.done.append(run.name)
    reached, seconds = score(result.summary, "val"), result.summary["wall_seconds"]
    name = score_of(result.summary)
    words = "" if name == "accuracy" else f"{WORDS[name]} "
    validation = (
        ""
        if reached is None
        else f"validation {words}{format_score(mean_interval([reached]), name)}, "
    )
    return f"{validation}{seconds:.1f} s"


def _describe(error: Exception) -> str:
    """Returns the error in one line."""
    if isinstance(error, InputError):
        return printable(error)
    first = (str(error).strip() or "no reason given").splitlines()[0]
    return printable(hide_secrets(f"{type(error).__name__}: {first}"))


def _write_results(workdir: Path, by: Sequence[str], names: Collection[str]) -> list[Selection]:
    """Writes `results.csv` of all runs in the workdir; returns the choices among those of `names`.

    Runs of an earlier sweep there may have been given other data or steps on the command line, of
    which their names say nothing.
    """
    runs = read_runs(workdir / "runs")
    own = [run for run in runs if run.name in names]
    if len(own) < len(runs):
        warn_once(
            f"runs in '{workdir / 'runs'}' that are not of this sweep, and are left out of the"
            f" choice: {len(runs) - len(own)}; use a new workdir for each sweep"
        )
    blind = sum(bool(run.summary) and score(run.summary, "val") is None for run in own)
    if blind:
        _log.warning(
            "%d of %d runs had no validation images, so that nothing can be chosen among them: set"
            " val_fraction, e.g. --config.val_fraction=0.2",
            *(blind, len(own)),
        )
    selections = select(own, by)
    write_results(workdir / "results.csv", runs, selections)
    return selections
