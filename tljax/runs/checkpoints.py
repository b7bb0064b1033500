"""The checkpoints of a run: one typed record, saved and read back.

A checkpoint holds all variables of the model, so that it can be used without the weights that the
run started from; the optimizer's state; and `Bookkeeping`, everything else that the run needs to
resume.

In a job of several processes the first one reads and writes. Before a save, arrays are gathered to
every host; after a read, they are sent to the other processes. So a checkpoint does not depend on
the number of devices or processes: any number of them can resume from it, and only one machine has
to see the workdir.
"""

import json
import logging
import shutil
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import jax

from tljax.devices import processes, sharding
from tljax.devices.background import Background
from tljax.errors import InputError
from tljax.models.groups import path_of
from tljax.runs import orbax_io
from tljax.runs.orbax_io import by_name
from tljax.transfer.partition import Tree

_log = logging.getLogger("tljax")

_OVERHEAD = 2**19  # bytes, at most, of a checkpoint's files besides the arrays


class DamagedCheckpoint(InputError):
    """A checkpoint whose content is not what was saved; `reason` says why in a few words."""

    def __init__(self, folder: Path, reason: str):
        super().__init__(
            f"the checkpoint {folder} is damaged ({reason}); restore it from a copy, or train anew"
        )
        self.reason = reason


@dataclass(frozen=True)
class Bookkeeping:
    """What a checkpoint holds besides arrays: JSON values, stored under these names.

    Attributes:
      made_by: what the run's numbers depend on, see `tljax.training.provenance`.
      changes: its changes since the run began, one sentence each.
      iterator: state of the data stream, with the names of images skipped so far.
      metrics: the position of `metrics.jsonl`: `step`, `bytes`, `sha256`.
      unlogged: (step, metrics) of the steps since the last `train` row.
      skipped: names of images that evaluations could not read.
      wall_seconds: of training so far.
    """

    made_by: dict[str, Any]
    changes: list[str]
    iterator: dict[str, Any]
    metrics: dict[str, Any]
    unlogged: list[Any]
    skipped: list[str]
    wall_seconds: float

    @property
    def cached_groups(self) -> int:
        """Number of leading groups whose output the run caches, as chosen when it began."""
        groups: int = self.made_by["config"]["cached_groups"]
        return groups


@dataclass(frozen=True)
class Checkpoint:
    """What `Checkpoints.save` writes and `Checkpoints.read` returns.

    Attributes:
      step: the step at which it was saved.
      variables: the model's variables.
      opt_state: the optimizer's state and, with a moving average, the weights that are trained.
        `read` returns dicts of NumPy arrays, whatever structure was saved; see `restore_like`. In a
        process that received the checkpoint from the first one, `variables` and `opt_state` are
        flat dicts.
      bookkeeping: None if there is no training to resume.
    """

    step: int
    variables: Tree
    opt_state: Any
    bookkeeping: Bookkeeping | None


class Checkpoints:
    """The `checkpoints/` folder of a workdir, with one folder per step.

    Args:
      directory: the folder; it need not exist.
      background: the thread that writes, in a job of one process; None: a thread of its own.
    """

    def __init__(self, directory: Path, background: Background | None = None):
        self._directory = directory
        self._background = background or Background()

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, damaged or not, newest first."""
        if not self._directory.is_dir():
            return []
        folders = [path for path in self._directory.iterdir() if path.name.isdecimal()]
        return sorted((int(path.name) for path in folders), reverse=True)

    def folder(self, step: int) -> Path:
        return self._directory / str(step)

    def save(self, checkpoint: Checkpoint, *, keep: int, also: Collection[int | None] = ()) -> None:
        """Starts to save a checkpoint; it is whole on disk when `finish` returns.

        A job of one process writes it in the background; a job of several returns when it is
        written. A step that has a checkpoint is not saved again. Afterwards only this checkpoint,
        the newest `keep`, and those of the steps `also` remain.

        Raises:
          InputError: if this checkpoint or the one before cannot be written, e.g. to a full disk;
            older ones are not removed.
        """
        self.finish()
        folder = self.folder(checkpoint.step)
        kept = (keep, {checkpoint.step, *also})
        if processes.call_in_first(folder.exists):
            if processes.is_first():
                self._remove_all_but(*kept)
            return
        # On a CPU this is the arrays' own memory. A step does not overwrite it, even if the arrays
        # are donated to the step: JAX does not donate memory that is in use elsewhere.
        arrays = sharding.gather_to_host(
            {"variables": checkpoint.variables, "opt_state": checkpoint.opt_state}
        )
        bookkeeping = {} if checkpoint.bookkeeping is None else asdict(checkpoint.bookkeeping)

        def describe() -> dict[str, Any]:
            self._directory.mkdir(exist_ok=True)
            self._check_room(folder, arrays)
            described: dict[str, Any] = json.loads(json.dumps(bookkeeping))
            return described

        described = processes.call_in_first(describe)

        def write() -> None:
            _log.debug("phase save, step %d", checkpoint.step)
            self._write(folder, arrays, described)
            self._remove_all_but(*kept)
            _log.debug("phase save is over")

        if processes.count() == 1:
            self._background.submit(write)
            return
        if not processes.is_first():
            orbax_io.answer_first_process()
        processes.call_in_first(write)

    def remove_after(self, step: int, best_step: int | None) -> None:
        """Removes the checkpoints after `step`, for a run that goes back to it.

        The one of `best_step` goes last: of a run that is killed meanwhile, what is left can be
        resumed from.
        """
        self.finish()

        def remove() -> None:
            later = [other for other in self.steps() if other > step]
            for other in sorted(later, key=lambda other: other == best_step):
                self._remove(other)

        processes.call_in_first(remove)

    def finish(self) -> None:
        """Waits until the last save is whole on disk; raises InputError if it failed."""
        self._background.wait()

    def raise_if_failed(self) -> None:
        """Raises InputError if the last save has failed by now; never waits."""
        self._background.raise_if_failed()

    def close(self) -> None:
        """Waits for the last save and ends the thread; logs an error of the save."""
        try:
            self.finish()
        except Exception as error:  # another error may be ending the run; it has precedence
            _log.warning("%s", error)
        finally:
            self._background.close()

    def read(self, step: int) -> Checkpoint:
        """Reads a checkpoint to the host.

        Raises:
          DamagedCheckpoint: if its content is not what was saved, byte for byte.
          InputError: if a version of tljax with other fields of `Bookkeeping` wrote it.
        """
        folder = self.folder(step)
        try:
            arrays, described = orbax_io.read(folder)
        except orbax_io.UnreadableFolder as error:
            raise DamagedCheckpoint(folder, str(error)) from None
        names = {field.name for field in fields(Bookkeeping)}
        if described and described.keys() != names:
            differing = ", ".join(sorted(described.keys() ^ names))
            raise InputError(
                f"the checkpoint {folder} was written by another version of tljax (fields:"
                f" {differing}); use that version, or train in a new workdir"
            )
        bookkeeping = Bookkeeping(**described) if described else None
        return Checkpoint(step, arrays["variables"], arrays["opt_state"], bookkeeping)

    def move_to_damaged(self, step: int) -> Path:
        """Moves a checkpoint to the workdir's folder `damaged/`; returns its new path."""
        damaged = self._directory.parent / "damaged"
        damaged.mkdir(exist_ok=True)
        number, place = 1, damaged / str(step)
        while place.exists():
            number, place = number + 1, damaged / f"{step}.{number}"
        return self.folder(step).rename(place)

    def remove_unfinished(self) -> None:
        """Removes what a killed process left half-saved or half-removed.

        Call it only while holding the workdir's lock, or another process may be saving.
        """
        orbax_io.remove_unfinished(self._directory)

    def _write(self, folder: Path, arrays: Tree, described: dict[str, Any]) -> None:
        if (why := orbax_io.write(folder, arrays, described)) is not None:
            raise InputError(
                f"cannot save the checkpoint {folder} ({why}); fix that, e.g. make room, and run"
                " the same command again: it resumes from the last checkpoint"
            )

    def _check_room(self, folder: Path, arrays: Tree) -> None:
        """Raises InputError if the disk is too full, before Orbax's threads print tracebacks."""
        needed = _OVERHEAD + sum(leaf.nbytes for leaf in jax.tree.leaves(arrays))
        free = shutil.disk_usage(self._directory).free
        if free < needed:
            raise InputError(
                f"cannot save the checkpoint {folder}: it needs up to {needed:,} bytes and the disk"
                f" has {free:,} left; make room, and run the same command again: it resumes from"
                " the last checkpoint"
            )

    def _remove_all_but(self, newest: int, steps: set[int | None]) -> None:
        on_disk = self.steps()
        for step in on_disk:
            if step not in {*on_disk[:newest], *steps}:
                self._remove(step)

    def _remove(self, step: int) -> None:
        """Renames, then removes, so that a killed removal leaves no half of a checkpoint."""
        doomed = self._directory / f"{step}.orbax-checkpoint-tmp-removed"
        self.folder(step).rename(doomed)
        shutil.rmtree(doomed)


def restore_like(template: Any, saved: Tree) -> Any:
    """The saved arrays in the structure, and on the devices, of `template`.

    Raises:
      InputError: if they have other names, shapes or dtypes.
    """
    arrays = by_name(saved)
    wanted = by_name(template)
    differing = sorted(arrays.keys() ^ wanted.keys()) or sorted(
        name
        for name, leaf in wanted.items()
        if (leaf.shape, leaf.dtype) != (arrays[name].shape, arrays[name].dtype)
    )
    if differing:
        raise InputError(
            f"the checkpoint was made by another model, plan or optimizer: '{differing[0]}' differs"
            f" (and {len(differing) - 1} more); use a new workdir, or the config it was made with"
        )

    def put(path: tuple[Any, ...], leaf: Any) -> jax.Array:
        # Committed to devices only if the template is, or JAX would compile programs again for
        # these arrays. may_alias=False: a step donates them, so they must not share this memory.
        sharding = leaf.sharding if getattr(leaf, "committed", False) else None
        return jax.device_put(arrays[path_of(path)], sharding, may_alias=False)

    return jax.tree_util.tree_map_with_path(put, template)


def has_checkpoint(workdir: Path | None) -> bool:
    """Whether a run in this workdir has saved a checkpoint."""
    return workdir is not None and bool(Checkpoints(workdir / "checkpoints").steps())
