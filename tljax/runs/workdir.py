"""The workdir of a run: its lock, safe writing, and checks that its settings have not changed."""

import contextlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tljax.devices import processes
from tljax.errors import InputError
from tljax.files import parse_json, replacing

# Config fields on which the weights of a run depend: after a change these may not fit.
_OTHER_WEIGHTS = frozenset(
    ("data", "init_from", "last_group", "lora_alpha", "lora_rank", "lora_targets", "model", "tasks")
)


class InUse(InputError):
    """Another process has locked the workdir."""


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file atomically: it holds either the old or the whole new content. Text is UTF-8."""
    encoded = content if isinstance(content, bytes) else content.encode()
    with explain_write_errors(path), replacing(path) as temporary:
        temporary.write_bytes(encoded)


@contextlib.contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Turns an OSError, e.g. of a full disk, into an InputError that says where and what to do."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot write {path} ({error.strerror or error}); make room or fix that, and run the"
            " same command again"
        ) from error


@contextlib.contextmanager
def locked(workdir: Path | None) -> Iterator[None]:
    """Locks a workdir against other runs, in the `with` block; creates it if missing.

    The operating system releases the lock if the process dies. Blocks may be nested in one thread.
    None locks nothing. In a job of several processes only the first one locks the workdir.

    Raises:
      InUse: if a live run has locked it.
      InputError: if it cannot be written to.
    """
    if workdir is None:
        yield
        return
    with contextlib.ExitStack() as locks:
        processes.call_in_first(lambda: _lock(workdir, locks))
        yield


def _lock(workdir: Path, locks: contextlib.ExitStack) -> None:
    path = make_workdir(workdir) / ".lock"
    lock = FileLock(path.absolute(), timeout=0, is_singleton=True)
    try:
        locks.enter_context(lock)
    except Timeout:
        raise InUse(
            f"'{workdir}' is in use by {_holder(path)}; wait for it to end, or choose another"
            " --workdir"
        ) from None
    if lock.lock_counter == 1:
        _write_holder(path)
        _remove_temporary_files(workdir)


def _write_holder(lock: Path) -> None:
    """Writes this process's number and host to the lock file, for the error of other runs."""
    with contextlib.suppress(OSError):  # the lock works on a full disk, too
        me = {"pid": os.getpid(), "host": socket.gethostname()}
        lock.write_text(json.dumps(me) + "\n")


def _remove_temporary_files(workdir: Path) -> None:
    """Removes the temporary files of `replacing` that killed runs left."""
    for path in workdir.glob(".*.[0-9]*"):
        if path.suffix[1:].isdecimal() and path.is_file():
            path.unlink()


def _holder(lock: Path) -> str:
    """The run that holds the lock, for an error."""
    try:
        holder = parse_json(lock.read_bytes())
        return f"another run (process {holder['pid']} on {holder['host']})"
    except (OSError, ValueError, TypeError, KeyError):
        return "another run"


def differences(before: Any, now: Any, name: str = "") -> dict[str, str]:
    """The differences between two JSON values: {dotted name: sentence}."""
    if isinstance(before, dict) and isinstance(now, dict):
        found: dict[str, str] = {}
        for key in sorted(before.keys() | now.keys()):
            inner = f"{name}.{key}" if name else key
            found |= differences(before.get(key), now.get(key), inner)
        return found
    return {} if before == now else {name: f"{name} was {before} and is {now}"}


def refuse_changes(what: str, changed: Mapping[str, str], workdir: Path, remedy: str) -> None:
    """Raises InputError if a run would resume with other settings than it began with."""
    if not changed:
        return
    if what == "config" and _OTHER_WEIGHTS.isdisjoint(changed):
        remedy += (
            f"; to train its weights for longer or in another way, set init_from={workdir} and"
            " head_init=pretrained (and, if scenario is from_scratch, scenario=fine_tune) in a new"
            " workdir"
        )
    raise InputError(
        f"'{workdir}' holds a run with another {what} ({'; '.join(changed.values())}); {remedy}"
    )


def make_workdir(workdir: Path) -> Path:
    """Creates the workdir if missing; returns it.

    Raises:
      InputError: if it cannot be written to.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with replacing(workdir / ".writable") as temporary:
            temporary.touch()
        (workdir / ".writable").unlink()
    except OSError as error:
        raise InputError(
            f"cannot write to the workdir '{workdir}' ({error.strerror}); choose another --workdir"
        ) from None
    return workdir
