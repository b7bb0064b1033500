"""Output files that are whole or not there at all, and JSON of any origin."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tljax.errors import InputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, which takes its place once the block is done.

    If the block fails the temporary file is removed, and `path` is what it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        with temporary.open("rb") as file:  # or after a power cut the name could stand for nothing
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def writable_file(path: Path, suffix: str) -> Path:
    """`path`, if a file of that name can be written there; to be asked before any work is done.

    Raises:
      InputError: if it ends otherwise than in `suffix`, is a folder, or its folder is missing or
        may not be written to.
    """
    if path.suffix.lower() != suffix:
        raise InputError(f"the output '{path}' does not end in {suffix}; name it e.g. out{suffix}")
    if path.is_dir():
        raise InputError(f"the output '{path}' is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder '{path.parent}' for the output; make it first")
    probe = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"cannot write to '{path}' ({error.strerror}); choose another --output"
        ) from None
    return path


def parse_json(text: str | bytes) -> Any:
    """The value that a JSON text holds; ValueError for whatever else it is."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its brackets are nested too deep") from None
