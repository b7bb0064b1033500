"""Orbax, wrapped: the one module that knows which of its APIs is used (v1).

Orbax writes a checkpoint to a temporary folder and renames it, so that a killed save leaves nothing
behind that could be taken for a checkpoint. It does not notice later damage, by an unfinished copy
or a flipped bit. Therefore a checkpoint also carries the SHA-256 of its content, which is compared
whenever the checkpoint is read.
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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from tljax.devices import processes
from tljax.transfer.partition import Tree

_log = logging.getLogger("tljax")

UNFINISHED = "*.orbax-checkpoint-tmp*"  # temporary folders; the folder of a removal matches it too
_DIGEST = "sha256"


class Unreadable(Exception):
    """The folder does not hold what was saved; the message says why in a few words."""


def write(folder: Path, arrays: Tree, described: Mapping[str, Any]) -> str | None:
    """Writes a checkpoint folder; returns None, or why that was not possible.

    Args:
      folder: that does not exist yet.
      arrays: NumPy arrays.
      described: what else it holds, JSON.

    Raises:
      Exception: as JAX raises it, if another process of the job was lost.
    """
    described = {**described, _DIGEST: _digest(arrays, described)}
    ocp = _orbax()
    with _quiet():
        try:
            with _this_process_alone():
                content = _as_jax_arrays(arrays)
                ocp.save_checkpointables(folder.absolute(), content, custom_metadata=described)
        except Exception as error:
            if processes.is_lost_process(error):
                raise
            why = _why_not_saved(error)
            _log.debug("cannot save %s", folder, exc_info=error)
        else:
            return None
        with _no_warnings():  # here alone, since filters are shared with the thread that trains
            for _ in range(5):  # Orbax's threads may still be writing
                remove_unfinished(folder.parent)
                gc.collect()
                time.sleep(0.1)
    return why


def read(folder: Path) -> tuple[Tree, dict[str, Any]]:
    """Reads a checkpoint folder: (NumPy arrays, what else it holds).

    Raises:
      Unreadable: if it does not hold what was saved, byte for byte.
    """
    ocp, why = _orbax(), None
    with _quiet(), _no_warnings(), _this_process_alone():
        try:
            saved = ocp.checkpointables_metadata(folder.absolute())
            arrays = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), saved.metadata)
            content = ocp.load_checkpointables(folder.absolute(), arrays)
            described = dict(saved.custom_metadata or {})
            if described.pop(_DIGEST, None) != _digest(content, described):
                why = "its content does not match its SHA-256"
        except Exception as error:  # Orbax raises many kinds for files that it did not write
            why = _first_line(error)
        if why is not None:
            gc.collect()  # Orbax's coroutines that were never awaited, while warnings are off
    if why is not None:
        raise Unreadable(why)
    return content, described


def remove_unfinished(directory: Path) -> None:
    """Removes what a process that died left half-saved or half-removed."""
    for path in directory.glob(UNFINISHED):
        shutil.rmtree(path, ignore_errors=True)


def answer_first_process() -> None:
    """What the first process's Orbax asks all processes, although it was told to save alone.

    The SHA-256 of the folder's name, and whether that is the same everywhere.
    """
    multihost_utils.broadcast_one_to_all(np.zeros(32, np.uint8))
    multihost_utils.process_allgather(np.zeros((), np.int32))


def by_name(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths, e.g. `params/head/bias`.

    A named tuple gives the same paths as the dict that Orbax returns for it.
    """
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def path_name(path: tuple[Any, ...]) -> str:
    """A key path of JAX in the form of `by_name`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _digest(arrays: Tree, described: Mapping[str, Any]) -> str:
    """SHA-256 over every array's name, dtype, shape and bytes, and over `described`."""
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name, leaf in sorted(by_name(arrays).items()):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _why_not_saved(error: Exception) -> str:
    """A few words; TensorStore's messages are long and hold the system's somewhere."""
    return "no space left on device" if "No space left" in str(error) else _first_line(error)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _orbax() -> Any:
    """Orbax, imported on first use, since that takes a quarter of a second."""
    import orbax.checkpoint.experimental.v1 as ocp

    return ocp


def _as_jax_arrays(arrays: Tree) -> Tree:
    """NumPy's arrays as JAX's, in the same memory: Orbax writes those together, in fewer files."""
    if processes.count() > 1:
        return arrays
    try:
        host = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS leaves the CPU out
        return arrays
    return jax.device_put(arrays, host, may_alias=True)


def _this_process_alone() -> Any:
    """A context in which Orbax does not wait for other processes."""
    context = _orbax().Context()
    if processes.count() > 1:
        me = jax.process_index()
        context.multiprocessing.primary_host = me
        context.multiprocessing.active_processes = {me}
    return context


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Orbax from printing what it raises anyway.

    A full disk or a damaged file would otherwise print pages of tracebacks, of tasks that nobody
    awaited and of callbacks to closed event loops. Other messages, perhaps of a thread that trains,
    are printed as before.
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
    """Without Python's warnings about coroutines that were never awaited."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
