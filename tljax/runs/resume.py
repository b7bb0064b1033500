"""Finds the checkpoint of a workdir to resume from, and the one with its best weights."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tljax.devices import processes
from tljax.errors import InputError
from tljax.runs.checkpoints import Bookkeeping, Checkpoint, Checkpoints, DamagedCheckpoint
from tljax.runs.metrics import read_rows
from tljax.runs.orbax_io import by_name
from tljax.runs.scores import rank, score_of
from tljax.transfer.partition import Tree

_log = logging.getLogger("tljax")

# The checkpoint to resume from, and the one with the best weights up to it. The second is None if
# the run has logged no validation up to that step.
Resumable = tuple[Checkpoint, Checkpoint | None]


def validation_rank(metrics: Mapping[str, Any]) -> tuple[float, float]:
    """The rank by which validations are compared: the best score, then the lowest loss.

    Args:
      metrics: like a `val` row of `metrics.jsonl`: `loss`, and the metric named by `score`
        (`accuracy` if absent).
    """
    name = score_of(metrics)
    return rank(name, metrics[name]), -metrics["loss"]


def best_row(
    rows: Sequence[Mapping[str, Any]], last: int | None = None
) -> Mapping[str, Any] | None:
    """Returns the best `val` row of a run up to step `last`; the first one of equals.

    A row that says `chosen` is the best: its weights were chosen by more than their rank.
    """
    validated = [
        row for row in rows if row["event"] == "val" and (last is None or row["step"] <= last)
    ]
    validated = [row for row in validated if row.get("chosen")] or validated
    return max(validated, key=lambda row: (*validation_rank(row), -row["step"]), default=None)


def newest_usable(workdir: Path) -> Resumable | None:
    """Finds the checkpoint to resume from; None if the run has to begin anew.

    Both checkpoints must be whole. If one is damaged, the run resumes from the newest checkpoint
    that leads to the same result; damaged ones are moved to `damaged/`, with a warning. The first
    process of a job reads the checkpoints and sends them to the others.
    """
    if processes.count() == 1:
        return _newest_usable(workdir)
    found: Resumable | None = None

    def find() -> Any:
        nonlocal found
        found = _newest_usable(workdir)
        return found and [checkpoint and _described(checkpoint) for checkpoint in found]

    descriptions = processes.call_in_first(find)
    if descriptions is None:
        return None
    newest, best = (
        description and _received(description, found[number] if found else None)
        for number, description in enumerate(descriptions)
    )
    return newest, best


def read_in_all(workdir: Path, step: int) -> Checkpoint:
    """Reads the checkpoint of a step; the first process of a job sends it to the others.

    Raises:
      DamagedCheckpoint: if its content is not what was saved.
    """
    checkpoints = Checkpoints(workdir / "checkpoints")
    if processes.count() == 1:
        return checkpoints.read(step)
    found: Checkpoint | None = None

    def find() -> Any:
        nonlocal found
        found = checkpoints.read(step)
        return _described(found)

    return _received(processes.call_in_first(find), found)


def _newest_usable(workdir: Path) -> Resumable | None:
    checkpoints = Checkpoints(workdir / "checkpoints")
    rows = _rows_of(workdir)
    moved: list[Path] = []
    reasons: list[str] = []
    whole: dict[int, Checkpoint] = {}

    def is_whole(step: int) -> bool:
        if step in whole:
            return True
        if not checkpoints.folder(step).exists():
            return False
        try:
            whole[step] = checkpoints.read(step)
        except DamagedCheckpoint as error:
            moved.append(checkpoints.move_to_damaged(step))
            reasons.append(f"{checkpoints.folder(step)}: {error.reason}")
            return False
        return True

    usable = None
    for step in checkpoints.steps():
        best = best_row(rows, step)
        if is_whole(step) and (best is None or best["step"] == step or is_whole(best["step"])):
            usable = whole[step], whole[best["step"]] if best else None
            break
    if moved:
        _log.warning(
            "damaged checkpoints (%s) were moved to %s; resuming from %s",
            "; ".join(reasons),
            moved[0].parent,
            f"step {usable[0].step}" if usable else "the beginning, for no whole one is left",
        )
    for step in checkpoints.steps():  # newer whole ones, too: the best weights up to them are lost
        if usable is None or step > usable[0].step:
            checkpoints.move_to_damaged(step)
    return usable


def _described(checkpoint: Checkpoint) -> dict[str, Any]:
    """All of a checkpoint except the content of its arrays, as JSON."""
    return {
        "step": checkpoint.step,
        "bookkeeping": checkpoint.bookkeeping and vars(checkpoint.bookkeeping),
        "arrays": {
            part: {name: (leaf.shape, str(leaf.dtype)) for name, leaf in by_name(tree).items()}
            for part, tree in _array_trees(checkpoint).items()
        },
    }


def _received(description: dict[str, Any], here: Checkpoint | None) -> Checkpoint:
    """Sends the first process's checkpoint, which is `here` in that process, to all processes."""
    received = {}
    for part, leaves in description["arrays"].items():
        arrays = by_name(_array_trees(here)[part]) if here else {}
        received[part] = {
            name: processes.broadcast_from_first(
                arrays.get(name, np.zeros(shape, jnp.dtype(dtype)))
            )
            for name, (shape, dtype) in leaves.items()
        }
    bookkeeping = description["bookkeeping"] and Bookkeeping(**description["bookkeeping"])
    return Checkpoint(description["step"], **received, bookkeeping=bookkeeping)


def _array_trees(checkpoint: Checkpoint) -> dict[str, Tree]:
    return {"variables": checkpoint.variables, "opt_state": checkpoint.opt_state}


def _rows_of(workdir: Path) -> list[dict[str, Any]]:
    path = workdir / "metrics.jsonl"
    return read_rows(path) if path.exists() else []


def best_variables(workdir: Path) -> Tree:
    """Reads the best weights of a finished or running run to this process's device.

    Raises:
      InputError: if it holds no checkpoint, or a damaged one.
    """
    checkpoints = Checkpoints(workdir / "checkpoints")
    for attempt in range(3):
        on_disk = checkpoints.steps()
        best = best_row([row for row in _rows_of(workdir) if row["step"] in on_disk])
        step = best["step"] if best else next(iter(on_disk), None)
        if step is None:
            break
        try:
            return jax.device_put(checkpoints.read(step).variables)
        except DamagedCheckpoint:
            # try again if a live run has removed it meanwhile
            if checkpoints.folder(step).exists() or attempt == 2:
                raise
    raise InputError(f"'{workdir}' holds no checkpoint; give the workdir of a `tljax train` run")
