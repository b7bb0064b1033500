"""Digests of the contents of files: what identifies an image, whatever its name and place.

Every byte of every file counts. Large data would be read once at each start of a run, so the
digests of data above 256 MiB are kept in `~/.cache/tljax/digests`, under a key that changes with
the path, size, inode or either date of any of the files.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tljax.data.images import Unreadable
from tljax.data.packed import ImageFile, Member, place_of
from tljax.data.parallel import map_in_threads
from tljax.files import cache_folder, replacing

UNREADABLE = ""  # digest of a file that cannot be read: `on_error` decides whether that matters
_KEPT_FROM = 2**28  # bytes of data
_SETTLED = 2 * 10**9  # ns: a file that is younger may change again without a new date

FileState = tuple[int, ...]  # size, dates of the last write and the last change, inode; or (-1,)


def file_states(files: Sequence[ImageFile]) -> list[FileState]:
    """Returns what changes with the content of each image, unless two changes follow at once."""
    return map_in_threads(_state, files)


def is_settled(state: FileState, now: int) -> bool:
    """Whether a later change of a file with this state would change its state (now: ns)."""
    return len(state) == 1 or max(state[1:3]) < now - _SETTLED


def content_digests(files: Sequence[ImageFile]) -> list[str]:
    """Returns the SHA-256 of each image's file, in hex digits; `UNREADABLE` if it has none."""
    asked, states = time.time_ns(), file_states(files)
    is_large = sum(state[0] for state in states) >= _KEPT_FROM
    if not is_large or not all(is_settled(state, asked) for state in states):
        return map_in_threads(_digest, files, "reading all images" if is_large else None)
    paths = [_identity(file) for file in files]
    key = hashlib.sha256(repr([*zip(paths, states, strict=True)]).encode()).hexdigest()
    kept = cache_folder("digests") / f"{key}.npy"
    with contextlib.suppress(OSError, ValueError, EOFError):
        digests = np.load(kept, allow_pickle=False)
        if digests.shape == (len(files),) and digests.dtype == np.dtype("S64"):
            return [digest.decode() for digest in digests]
    found = map_in_threads(_digest, files, "reading all images")
    with contextlib.suppress(OSError):  # a full disk or a read-only home: read again next time
        kept.parent.mkdir(parents=True, exist_ok=True)
        with replacing(kept) as temporary, temporary.open("wb") as content:
            np.save(content, np.array(found, dtype="S64"))
    return found


def _identity(file: ImageFile) -> object:
    if isinstance(file, Path):
        return os.path.abspath(file)
    if isinstance(file, Member):
        return os.path.abspath(file.file), file.offset, file.size
    return _digest(file)


def _state(file: ImageFile) -> FileState:
    place = place_of(file)
    if place is None:
        return (0, 0, 0, 0)  # bytes in memory do not change
    try:
        state = place.stat()
    except OSError:
        return (-1,)
    size = file.size if isinstance(file, Member) else state.st_size
    return size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino


def _digest(file: ImageFile) -> str:
    try:
        if not isinstance(file, Path):
            return hashlib.sha256(file.read()).hexdigest()
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except (OSError, Unreadable):
        return UNREADABLE
