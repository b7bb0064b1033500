"""A workdir: who may write there, and what must not change in it."""

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


class InUse(InputError):
    """Another process holds the workdir."""


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file so that it is either the old one or the whole new one; text as UTF-8."""
    encoded = content if isinstance(content, bytes) else content.encode()
    with writing(path), replacing(path) as temporary:
        temporary.write_bytes(encoded)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Says where and what to do if writing fails, which on a full disk any write may."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot write {path} ({error.strerror or error}); make room or mend that, and run the"
            " same command again"
        ) from error


@contextlib.contextmanager
def locked(workdir: Path | None) -> Iterator[None]:
    """Holds a workdir, made if need be, against other runs; the system lets go when we die.

    May be nested in one thread. `None` holds nothing. Of several processes the first holds it.

    Raises:
      InUse: if a live run holds it.
      InputError: if nothing can be written there.
    """
    if workdir is None:
        yield
        return
    with contextlib.ExitStack() as held:
        processes.call_in_first(lambda: _hold(workdir, held))
        yield


def _hold(workdir: Path, held: contextlib.ExitStack) -> None:
    path = writable(workdir) / ".lock"
    lock = FileLock(path.absolute(), timeout=0, is_singleton=True)
    try:
        held.enter_context(lock)
    except Timeout:
        raise InUse(
            f"'{workdir}' is in use by {_holder(path)}; wait for it to end, or choose another"
            " --workdir"
        ) from None
    if lock.lock_counter == 1:
        _enter(workdir, path)


def _enter(workdir: Path, lock: Path) -> None:
    """Leaves our name for whoever finds the lock held, and clears up after runs that died."""
    with contextlib.suppress(OSError):  # on a full disk the lock holds as well
        me = {"pid": os.getpid(), "host": socket.gethostname()}
        lock.write_text(json.dumps(me) + "\n")
    for path in workdir.glob(".*.[0-9]*"):  # what `replacing` writes to
        if path.suffix[1:].isdecimal() and path.is_file():
            path.unlink()


def _holder(lock: Path) -> str:
    try:
        holder = parse_json(lock.read_bytes())
        return f"another run (process {holder['pid']} on {holder['host']})"
    except (OSError, ValueError, TypeError, KeyError):
        return "another run"


def differences(before: Any, now: Any, name: str = "") -> dict[str, str]:
    """What differs between two JSON values, by dotted name, in words."""
    if isinstance(before, dict) and isinstance(now, dict):
        found: dict[str, str] = {}
        for key in sorted(before.keys() | now.keys()):
            inner = f"{name}.{key}" if name else key
            found |= differences(before.get(key), now.get(key), inner)
        return found
    return {} if before == now else {name: f"{name} was {before} and is {now}"}


def refuse_changes(what: str, changed: Mapping[str, str], workdir: Path, remedy: str) -> None:
    """Raises InputError if a run would go on under other settings than it began with."""
    if changed:
        raise InputError(
            f"'{workdir}' holds a run with another {what} ({'; '.join(changed.values())}); {remedy}"
        )


def writable(workdir: Path) -> Path:
    """Makes the workdir if need be; InputError if nothing can be written there."""
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
