"""Orbax, wrapped: the one module that knows which of its APIs is used (v1).

A checkpoint holds the model's whole variables, so that it can be used without its source, the
optimizer's state, and what else the run needs to go on, as JSON. Orbax writes it beside its place
and renames it, so that a killed save leaves nothing; what it does not notice is damage done later,
by a copy that stopped or a bit that flipped. Therefore a checkpoint carries the SHA-256 of its own
content, which is compared whenever it is read.

Of several processes the first one reads and writes. What it writes, all bring together on their
hosts before; what it reads, it sends to the others. So a checkpoint does not show how many devices
or processes there were, any number can go on from it, and only one machine has to see the workdir.
"""

import contextlib
import gc
import hashlib
import json
import logging
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from tljax.errors import InputError
from tljax.devices import mesh as mesh_lib
from tljax.devices import processes
from tljax.runs.workdir import read_rows
from tljax.transfer.partition import Tree

_log = logging.getLogger("tljax")

_UNFINISHED = "*.orbax-checkpoint-tmp*"
_DIGEST = "sha256"
_OVERHEAD = 2**19  # bytes, at most, of a checkpoint's own files


class DamagedCheckpoint(InputError):
    """A checkpoint that is not what was saved; `reason` says why in a few words."""

    def __init__(self, folder: Path, reason: str):
        super().__init__(
            f"the checkpoint {folder} is damaged ({reason}); restore it from a copy, or train anew"
        )
        self.reason = reason


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint, on the host.

    Attributes:
      step: that it was saved at.
      variables: the model's.
      opt_state: dicts of arrays, whatever the structure that was saved; see `restore_like`.
      extra: what else was saved, JSON.
      (In a process that was sent it, variables and opt_state are flat: name to array.)
    """

    step: int
    variables: Tree
    opt_state: Tree
    extra: dict[str, Any]


class Checkpoints:
    """The `checkpoints/` folder of a workdir: a folder a step."""

    def __init__(self, directory: Path):
        self._directory = directory
        self._beside: ThreadPoolExecutor | None = None
        self._held: Callable[[], None] | None = None
        self._saving: Future[None] | None = None

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, whole or not, newest first."""
        if not self._directory.is_dir():
            return []
        folders = [path for path in self._directory.iterdir() if path.name.isdecimal()]
        return sorted((int(path.name) for path in folders), reverse=True)

    def folder(self, step: int) -> Path:
        return self._directory / str(step)

    def save(
        self,
        step: int,
        variables: Tree,
        opt_state: Any,
        extra: Mapping[str, Any],
        *,
        keep: int,
        best_step: int | None,
        later: bool = False,
    ) -> None:
        """Begins to save a checkpoint, which is whole on disk when `finish` returns.

        It is written beside what follows, but for jobs of several processes, where this returns
        when that is done. A step is saved once. Afterwards the newest `keep` checkpoints and the
        one of `best_step` remain.

        Args:
          step, variables, opt_state, extra: the `Checkpoint`.
          keep, best_step: which checkpoints remain.
          later: whether it is written from the next `check` or `finish` on, and not at once; makes
            no difference to jobs of several processes.

        Raises:
          InputError: if it, or the one before, cannot be written, e.g. to a full disk; older ones
            are still there.
        """
        self.finish()
        folder = self.folder(step)

        def clear() -> None:
            kept = {*self.steps()[:keep], step, best_step}
            for other in self.steps():
                if other not in kept:
                    self._remove(other)

        def write() -> None:
            _log.debug("phase save, step %d", step)
            self._write(folder, content, described)
            clear()
            _log.debug("phase save is over")

        if processes.first_says(folder.exists):
            if processes.is_first():
                clear()
            return
        # On a CPU that is the arrays' own memory, which a step does not overwrite meanwhile, even
        # if it consumes them: JAX does not give away what is in use elsewhere, and takes as much
        # again for the step's results.
        content = mesh_lib.on_host({"variables": variables, "opt_state": opt_state})

        def describe() -> dict[str, Any]:
            self._directory.mkdir(exist_ok=True)
            self._check_room(folder, content)
            described: dict[str, Any] = json.loads(json.dumps(extra))
            return described

        described = processes.first_says(describe)
        if processes.count() == 1:
            self._held = write
            if not later:
                self._begin()
            return
        if not processes.is_first():
            # What the first one's Orbax asks all processes, although it is told to go alone:
            # the SHA-256 of the folder's name, and whether it is the same everywhere.
            multihost_utils.broadcast_one_to_all(np.zeros(32, np.uint8))
            multihost_utils.process_allgather(np.zeros((), np.int32))
        processes.first_says(write)

    def finish(self) -> None:
        """Returns when what is being saved is whole on disk.

        Raises:
          InputError: if it cannot be.
        """
        self._begin()
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def check(self) -> None:
        """Goes on with what is being saved; InputError if that has turned out not to be possible.

        It writes what was left for later.
        """
        self._begin()
        if self._saving is not None and self._saving.done():
            self.finish()

    def _begin(self) -> None:
        """Writes what `save` left for later, if there is something."""
        held, self._held = self._held, None
        if held is not None:
            self._beside = self._beside or ThreadPoolExecutor(1)
            self._saving = self._beside.submit(held)

    def close(self) -> None:
        """Waits for what is being saved, where something else ends the run; and says what fails."""
        try:
            self.finish()
        except Exception as error:  # what ends the run has precedence
            _log.warning("%s", error)
        finally:
            if self._beside is not None:
                self._beside.shutdown()
                self._beside = None

    def _write(self, folder: Path, content: Tree, described: dict[str, Any]) -> None:
        described = described | {_DIGEST: _digest(content, described)}
        ocp = _orbax()
        with _quietly():
            try:
                with _alone():
                    arrays = _for_orbax(content)
                    ocp.save_checkpointables(folder.absolute(), arrays, custom_metadata=described)
            except Exception as error:
                if processes.is_loss(error):
                    raise
                why = _why_not_saved(error)
                _log.debug("cannot save %s", folder, exc_info=error)
            else:
                return
            with _no_warnings():  # here alone, as they are shared with the thread that trains
                for _ in range(5):  # Orbax's threads may still be at it
                    self.clear_unfinished()
                    gc.collect()
                    time.sleep(0.1)
        raise InputError(
            f"cannot save the checkpoint {folder} ({why}); make room or mend that, and run the same"
            " command again: it goes on from the last checkpoint"
        )  # not from the error, which would keep what Orbax left undone, and complains of at exit

    def read(self, step: int) -> Checkpoint:
        """Reads a checkpoint to the host.

        Raises:
          DamagedCheckpoint: if it is not what was saved, byte for byte.
        """
        ocp, folder, why = _orbax(), self.folder(step), None
        with _quietly(), _no_warnings(), _alone():
            try:
                saved = ocp.checkpointables_metadata(folder.absolute())
                arrays = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), saved.metadata)
                content = ocp.load_checkpointables(folder.absolute(), arrays)
                extra = dict(saved.custom_metadata or {})
                if extra.pop(_DIGEST, None) != _digest(content, extra):
                    why = "its content does not match its SHA-256"
            except Exception as error:  # whatever Orbax makes of a file that is not what it wrote
                why = _first_line(error)
            if why is not None:
                gc.collect()  # Orbax's coroutines that were never awaited, while it is quiet
        if why is not None:
            raise DamagedCheckpoint(folder, why)
        return Checkpoint(step, content["variables"], content["opt_state"], extra)

    def put_aside(self, step: int) -> Path:
        """Moves a damaged checkpoint out of the way, into `damaged/` of the workdir."""
        aside = self._directory.parent / "damaged"
        aside.mkdir(exist_ok=True)
        number, place = 1, aside / str(step)
        while place.exists():
            number, place = number + 1, aside / f"{step}.{number}"
        return self.folder(step).rename(place)

    def clear_unfinished(self) -> None:
        """Removes what a process that died left half-saved or half-removed.

        For the run that holds the workdir's lock: to another process it may be a save in progress.
        """
        for path in self._directory.glob(_UNFINISHED):
            shutil.rmtree(path, ignore_errors=True)

    def _check_room(self, folder: Path, content: Tree) -> None:
        """Raises InputError if the disk has no room; Orbax's threads would print tracebacks."""
        needed = _OVERHEAD + sum(leaf.nbytes for leaf in jax.tree.leaves(content))
        free = shutil.disk_usage(self._directory).free
        if free < needed:
            raise InputError(
                f"cannot save the checkpoint {folder}: it needs up to {needed:,} bytes and the disk"
                f" has {free:,} left; make room, and run the same command again: it goes on from"
                " the last checkpoint"
            )

    def _remove(self, step: int) -> None:
        """Removes a checkpoint; if the process dies over it, it is not taken for a damaged one."""
        doomed = self._directory / f"{step}.orbax-checkpoint-tmp-removed"
        self.folder(step).rename(doomed)
        shutil.rmtree(doomed)


def restore_like(template: Any, saved: Tree) -> Any:
    """The saved arrays in the structure, and on the devices, of `template`.

    Raises:
      InputError: if they have other names, shapes or dtypes.
    """
    arrays = _by_name(saved)
    wanted = _by_name(template)
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
        # tied to devices only where the template is, or programs would be compiled for it anew;
        # may_alias=False: the arrays' memory is not ours to give away, and steps donate theirs
        tied = leaf.sharding if getattr(leaf, "committed", False) else None
        return jax.device_put(arrays[_name(path)], tied, may_alias=False)

    return jax.tree_util.tree_map_with_path(put, template)


def validation_rank(metrics: Mapping[str, float]) -> tuple[float, float]:
    """What "best on validation" means: highest accuracy, then lowest loss.

    Args:
      metrics: with `accuracy` and `loss`, like a `val` row of `metrics.jsonl`.
    """
    return metrics["accuracy"], -metrics["loss"]


def best_row(
    rows: Sequence[Mapping[str, Any]], last: int | None = None
) -> Mapping[str, Any] | None:
    """The best `val` row of a run, up to the step `last`; of equal ones the first."""
    validated = [
        row for row in rows if row["event"] == "val" and (last is None or row["step"] <= last)
    ]
    return max(validated, key=lambda row: (*validation_rank(row), -row["step"]), default=None)


def has_checkpoint(workdir: Path | None) -> bool:
    """Whether a run has begun in this workdir."""
    return workdir is not None and bool(Checkpoints(workdir / "checkpoints").steps())


Usable = tuple[Checkpoint, Checkpoint | None] | None


def newest_usable(workdir: Path) -> Usable:
    """What `_newest_usable` finds; the first process looks, and sends it to the others."""
    if processes.count() == 1:
        return _newest_usable(workdir)
    usable: Usable = None

    def look() -> Any:
        nonlocal usable
        usable = _newest_usable(workdir)
        return usable and [c and _described(c) for c in usable]

    descriptions = processes.first_says(look)
    if descriptions is None:
        return None
    pair = [
        description and _sent(description, usable[i] if usable else None)
        for i, description in enumerate(descriptions)
    ]
    return pair[0], pair[1]


def _described(checkpoint: Checkpoint) -> dict[str, Any]:
    """All of it but the content of its arrays, JSON."""
    return {
        "step": checkpoint.step,
        "extra": checkpoint.extra,
        **{
            part: {name: (leaf.shape, str(leaf.dtype)) for name, leaf in _by_name(tree).items()}
            for part, tree in _parts(checkpoint).items()
        },
    }


def _sent(description: dict[str, Any], here: Checkpoint | None) -> Checkpoint:
    """The first process's checkpoint, which is `here` in it."""
    received = {}
    for part in ("variables", "opt_state"):
        arrays = _by_name(_parts(here)[part]) if here else {}
        received[part] = {
            name: processes.array_of_first(arrays.get(name, np.zeros(shape, jnp.dtype(dtype))))
            for name, (shape, dtype) in description[part].items()
        }
    return Checkpoint(description["step"], **received, extra=description["extra"])


def _parts(checkpoint: Checkpoint) -> dict[str, Tree]:
    return {"variables": checkpoint.variables, "opt_state": checkpoint.opt_state}


def _newest_usable(workdir: Path) -> Usable:
    """The checkpoint to go on from, and the one with the best weights up to there.

    Both must be whole: if a checkpoint is damaged, the run goes back to the newest one from which
    it comes to the result that it would have had. Damaged ones are put aside, and it is said.

    Returns:
      (checkpoint, best): best is None if nothing was validated before that step, or its own
      validation decides; None if the run has to begin at the beginning.
    """
    checkpoints = Checkpoints(workdir / "checkpoints")
    metrics = workdir / "metrics.jsonl"
    rows = read_rows(metrics) if metrics.exists() else []
    put_aside: list[Path] = []
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
            put_aside.append(checkpoints.put_aside(step))
            reasons.append(f"{checkpoints.folder(step)}: {error.reason}")
            return False
        return True

    usable = None
    for step in checkpoints.steps():
        best = best_row(rows, step)
        if is_whole(step) and (best is None or best["step"] == step or is_whole(best["step"])):
            usable = whole[step], whole[best["step"]] if best else None
            break
    if put_aside:
        where = f"step {usable[0].step}" if usable else "the beginning, for no whole one is left"
        _log.warning(
            "damaged checkpoints (%s) were moved to %s; going on from %s",
            "; ".join(reasons),
            put_aside[0].parent,
            where,
        )
    for step in checkpoints.steps():  # whole ones too, if the best weights up to there are lost
        if usable is None or step > usable[0].step:
            checkpoints.put_aside(step)
    return usable


def best_variables(workdir: Path) -> Tree:
    """The best weights of a finished or running workdir, on this process's device.

    Raises:
      InputError: if it holds no checkpoint, or a damaged one.
    """
    checkpoints = Checkpoints(workdir / "checkpoints")
    metrics = workdir / "metrics.jsonl"
    for attempt in range(3):
        rows = read_rows(metrics) if metrics.exists() else []
        on_disk = checkpoints.steps()
        best = best_row([row for row in rows if row["step"] in on_disk])
        step = best["step"] if best else next(iter(on_disk), None)
        if step is None:
            break
        try:
            return jax.device_put(checkpoints.read(step).variables)
        except DamagedCheckpoint:
            # a live run may have replaced it meanwhile
            if checkpoints.folder(step).exists() or attempt == 2:
                raise
    raise InputError(f"'{workdir}' holds no checkpoint; give the workdir of a `tljax train` run")


def _digest(content: Tree, extra: Mapping[str, Any]) -> str:
    """SHA-256 over every array's name, dtype, shape and bytes, and over `extra`."""
    digest = hashlib.sha256(json.dumps(extra, sort_keys=True).encode())
    for name, leaf in sorted(_by_name(content).items()):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _by_name(tree: Any) -> dict[str, Any]:
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _name(path: tuple[Any, ...]) -> str:
    """The same for a named tuple and for the dict that Orbax gives back for it."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _why_not_saved(error: Exception) -> str:
    """In words; TensorStore's own are long, and name what the system said somewhere within."""
    return "no space left on device" if "No space left" in str(error) else _first_line(error)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _orbax() -> Any:
    """Imported where it is needed, and it takes a quarter of a second; Grain brings it too."""
    import orbax.checkpoint.experimental.v1 as ocp

    return ocp


def _for_orbax(content: Tree) -> Tree:
    """NumPy's arrays as JAX's, in the same memory: Orbax writes those together, in fewer files."""
    if processes.count() > 1:
        return content
    try:
        host = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS leaves it out
        return content
    return jax.device_put(content, host, may_alias=True)


def _alone() -> Any:
    """Where Orbax does not wait for other processes."""
    context = _orbax().Context()
    if processes.count() > 1:
        me = jax.process_index()
        context.multiprocessing.primary_host = me
        context.multiprocessing.active_processes = {me}
    return context


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keeps Orbax from printing what it raises as well, and what else that ends.

    A full disk or a damaged file would otherwise print pages of tracebacks, of tasks that nobody
    waited for and of callbacks to loops that are closed. Whatever else is said meanwhile, perhaps
    by a thread that trains, is said as before.
    """
    before = sys.unraisablehook

    def hook(raised: Any) -> None:
        if "Event loop is closed" not in str(raised.exc_value):
            before(raised)

    filters = {"absl": lambda _: False, "asyncio": _is_not_of_a_lost_task}
    for name, passes in filters.items():
        logging.getLogger(name).addFilter(passes)
    sys.unraisablehook = hook
    try:
        yield
    finally:
        if sys.unraisablehook is hook:
            sys.unraisablehook = before
        for name, passes in filters.items():
            logging.getLogger(name).removeFilter(passes)


def _is_not_of_a_lost_task(record: logging.LogRecord) -> bool:
    return "never retrieved" not in record.getMessage()


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    """Python's, of coroutines that were never awaited."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
