"""The workdir of a run: its lock, safe writing, and checks that its settings have not changed."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tljax import locks
from tljax.devices import processes
from tljax.errors import InputError
from tljax.files import replacing, temporary_files, temporary_path

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

    A process that dies holds no lock. Blocks may be nested in one thread. None locks nothing. In a
    job of several processes only the first one locks the workdir.

    Raises:
      InUse: if a live run has locked it.
      InputError: if it cannot be written to or locked.
    """
    if workdir is None:
        yield
        return
    with contextlib.ExitStack() as held:
        processes.call_in_first(lambda: _lock(workdir, held))
        yield


def _lock(workdir: Path, held: contextlib.ExitStack) -> None:
    path = make_workdir(workdir) / ".lock"
    try:
        is_outermost = held.enter_context(locks.hold(path))
    except locks.Held as other:
        who = "another run" + (f" ({other.holder})" if other.holder else "")
        raise InUse(
            f"'{workdir}' is in use by {who}; wait for it to end, or choose another"
            f" --workdir{other.remedy}"
        ) from None
    except OSError as error:
        raise InputError(
            f"cannot lock '{path}' ({error.strerror or error}); choose a --workdir on a file system"
            " that has locks"
        ) from error
    if is_outermost:
        for left in temporary_files(workdir):  # by runs that were killed
            left.unlink(missing_ok=True)


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
        probe = temporary_path(workdir / "probe")
        probe.touch()
        probe.unlink(missing_ok=True)  # a run that begins here removes what others left
    except OSError as error:
        raise InputError(
            f"cannot write to the workdir '{workdir}' ({error.strerror}); choose another --workdir"
        ) from None
    return workdir
