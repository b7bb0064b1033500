"""Writes and reads checkpoint folders with Orbax; the only module that uses its API (v1).

Orbax writes a checkpoint to a temporary folder and then renames it, so a killed save never leaves
half a checkpoint. But Orbax does not detect later damage, such as an incomplete copy or a flipped
bit. So a checkpoint also holds the SHA-256 of its content, which every read compares.
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
from tljax.models.groups import path_of
from tljax.transfer.partition import Tree

_log = logging.getLogger("tljax")

UNFINISHED = "*.orbax-checkpoint-tmp*"  # temporary folders, also those of removals
_DIGEST = "sha256"


class UnreadableFolder(Exception):
    """A checkpoint folder does not hold what was saved; the message says why in a few words."""


def write(folder: Path, arrays: Tree, described: Mapping[str, Any]) -> str | None:
    """Writes a checkpoint folder; returns None or, if that failed, the reason.

    Args:
      folder: must not exist yet.
      arrays: a tree of NumPy arrays.
      described: JSON values to store with the arrays.

    Raises:
      Exception: JAX's own, if another process of the job was lost.
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
        with _no_warnings():  # only here, because all threads share Python's warning filters
            for _ in range(5):  # Orbax's threads may still be writing
                remove_unfinished(folder.parent)
                gc.collect()
                time.sleep(0.1)
    return why


def read(folder: Path) -> tuple[Tree, dict[str, Any]]:
    """Reads a checkpoint folder: returns (tree of NumPy arrays, the JSON values stored with them).

    Raises:
      UnreadableFolder: if the content is not what was saved, byte for byte.
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
        except Exception as error:  # Orbax raises many types for damaged files
            why = _first_line(error)
        if why is not None:
            gc.collect()  # coroutines that Orbax never awaited would warn later
    if why is not None:
        raise UnreadableFolder(why)
    return content, described


def remove_unfinished(directory: Path) -> None:
    """Removes the temporary folders of saves and removals that were killed."""
    for path in directory.glob(UNFINISHED):
        shutil.rmtree(path, ignore_errors=True)


def answer_first_process() -> None:
    """Takes part in two collectives that Orbax runs in the first process.

    Orbax runs them although it is configured to save in one process: they send the SHA-256 of the
    folder's name, and compare it in all processes.
    """
    multihost_utils.broadcast_one_to_all(np.zeros(32, np.uint8))
    multihost_utils.process_allgather(np.zeros((), np.int32))


def by_name(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by their paths, e.g. `params/head/bias`.

    A named tuple has the same paths as the dict that Orbax returns for it.
    """
    return {path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _digest(arrays: Tree, described: Mapping[str, Any]) -> str:
    """SHA-256 over every array's name, dtype, shape and bytes, and over `described`."""
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name, leaf in sorted(by_name(arrays).items()):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _why_not_saved(error: Exception) -> str:
    """A short reason; TensorStore's long messages contain the operating system's somewhere."""
    return "no space left on device" if "No space left" in str(error) else _first_line(error)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _orbax() -> Any:
    """Imports Orbax on first use, because the import takes a quarter of a second."""
    import orbax.checkpoint.experimental.v1 as ocp

    return ocp


def _as_jax_arrays(arrays: Tree) -> Tree:
    """Turns NumPy arrays into JAX arrays without a copy: Orbax writes those to fewer files."""
    if processes.count() > 1:
        return arrays
    try:
        host = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS excludes the CPU
        return arrays
    return jax.device_put(arrays, host, may_alias=True)


def _this_process_alone() -> Any:
    """Returns a context in which Orbax does not wait for other processes."""
    context = _orbax().Context()
    if processes.count() > 1:
        me = jax.process_index()
        context.multiprocessing.primary_host = me
        context.multiprocessing.active_processes = {me}
    return context


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses what Orbax prints about errors that it also raises.

    Otherwise a full disk or a damaged file prints pages of tracebacks, about tasks that were never
    awaited and callbacks to closed event loops. Other messages, e.g. of the thread that trains, are
    printed as before.
    """
    before = sys.unraisablehook

    def hook(raised: Any) -> None:
        if "Event loop is closed" not in str(raised.exc_value):
            before(raised)

    filters = {"absl": lambda _: False, "asyncio": _is_not_about_lost_task}
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


def _is_not_about_lost_task(record: logging.LogRecord) -> bool:
    return "never retrieved" not in record.getMessage()


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    """Suppresses Python's warnings, which here are about coroutines that were never awaited."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
