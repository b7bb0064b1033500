"""Digests of the contents of files: what identifies an image, whatever its name and place.

Every byte of every file counts. Large data would be read once at each start of a run, so the
digests of data above 256 MiB are kept in `~/.cache/tljax/digests`, under a key that changes with
the path, size, inode or either date of any of the files.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from tljax.console import progress_bar
from tljax.files import replacing

UNREADABLE = ""  # digest of a file that cannot be read: `on_error` decides whether that matters
_KEPT_FROM = 2**28  # bytes of data
_FILES_PER_TASK = 256  # of a thread: with one file per task, the pool's overhead would dominate

_T = TypeVar("_T")


def content_digests(files: Sequence[Path]) -> list[str]:
    """Returns the SHA-256 of each file's content, in hex digits; `UNREADABLE` if it has none."""
    states = _in_threads(files, _state, "")
    if sum(size for size, *_ in states) < _KEPT_FROM:
        return _in_threads(files, _digest, "")
    paths = [os.path.abspath(file) for file in files]
    key = hashlib.sha256(repr([*zip(paths, states, strict=True)]).encode()).hexdigest()
    kept = _cache_folder() / f"{key}.npy"
    with contextlib.suppress(OSError, ValueError, EOFError):
        digests = np.load(kept, allow_pickle=False)
        if digests.shape == (len(files),) and digests.dtype == np.dtype("S64"):
            return [digest.decode() for digest in digests]
    found = _in_threads(files, _digest, "reading the images to identify them")
    with contextlib.suppress(OSError):  # a full disk or a read-only home: read again next time
        kept.parent.mkdir(parents=True, exist_ok=True)
        with replacing(kept) as temporary, temporary.open("wb") as content:
            np.save(content, np.array(found, dtype="S64"))
    return found


def _state(file: Path) -> tuple[int, ...]:
    try:
        state = file.stat()
    except OSError:
        return (-1,)
    # A copy may keep the date of its modification, but not that of its last change of any kind.
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino


def _digest(file: Path) -> str:
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError:
        return UNREADABLE


def _cache_folder() -> Path:
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "tljax" / "digests"


def _in_threads(files: Sequence[Path], function: Callable[[Path], _T], title: str) -> list[_T]:
    """Applies the function to each file, in order; shows progress under the title, if any."""
    chunks = [files[i : i + _FILES_PER_TASK] for i in range(0, len(files), _FILES_PER_TASK)]
    results: list[_T] = []
    with ThreadPoolExecutor() as pool, progress_bar() as bar:
        task = bar.add_task(title, total=len(files), visible=bool(title))
        for some in pool.map(lambda chunk: [function(file) for file in chunk], chunks):
            results += some
            bar.advance(task, len(some))
    return results
