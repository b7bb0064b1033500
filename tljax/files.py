"""The folder of the caches, atomic writing, output paths, and parsing of malformed JSON."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tljax.errors import InputError

_TEMPORARY = "tljax-tmp"  # the suffix of temporary files, which no user gives a file


def cache_folder(name: str) -> Path:
    """The folder `name` of tljax's caches: in `XDG_CACHE_HOME`, else in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tljax" / name


def temporary_path(path: Path) -> Path:
    """The path of a temporary file of this process in the folder of `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}.{_TEMPORARY}")


def temporary_files(folder: Path) -> list[Path]:
    """The temporary files that processes left in a folder, or still write to."""
    return [path for path in folder.glob(f".*.{_TEMPORARY}") if path.is_file()]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the folder of `path`, and moves it to `path` after the block.

    If the block fails, the temporary file is removed and `path` is left unchanged.
    """
    temporary = temporary_path(path)
    try:
        yield temporary
        # Without fsync, `path` could be an empty file after a power cut.
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def writable_file(path: Path, suffix: str) -> Path:
    """Returns `path` if a file can be written there. Call it before any long computation.

    Raises:
      InputError: `path` does not end in `suffix` or is a folder; or its folder is missing or not
        writable.
    """
    if path.suffix.lower() != suffix:
        raise InputError(f"the output '{path}' does not end in {suffix}; name it e.g. out{suffix}")
    if path.is_dir():
        raise InputError(f"the output '{path}' is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder '{path.parent}' for the output; make it first")
    probe = temporary_path(path)
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"cannot write to '{path}' ({error.strerror}); choose another --output"
        ) from None
    return path


def parse_json(text: str | bytes) -> Any:
    """Returns the value of a JSON text; raises ValueError for any malformed text."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None
