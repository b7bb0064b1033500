"""Copies images out of Parquet and Arrow files, where they cannot be read one by one.

A row of a Parquet file can be read only with all rows of its group, decompressed. So the images of
each file are copied once into one uncompressed file in `~/.cache/tljax/packed`, under a key that
changes with the path, size, inode or either date of the original.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from tljax.data.packed.member import Member
from tljax.errors import InputError
from tljax.files import cache_folder, parse_json, replacing


class Stored(NamedTuple):
    """An image as a column of a table stores it."""

    content: bytes | None
    path: str | None  # what the image is called, or where it is if there are no bytes


def pack(file: Path, column: str, images: Callable[[], Iterable[Stored]]) -> list[Member | str]:
    """Returns where the images of a file's column are, in the order of its rows.

    Args:
      file: The Parquet or Arrow file.
      column: That holds the images.
      images: Reads them; called if they were not copied yet.

    Returns:
      For each row its part of the copy; or the path that is stored in place of bytes, which is
      empty if the row has neither.

    Raises:
      InputError: The copy cannot be written.
    """
    target = cache_folder("packed") / f"{_key(file, column)}.bin"
    index = target.with_suffix(".json")
    try:
        listed = parse_json(index.read_bytes())
        is_whole = target.stat().st_size == sum(size for size, _ in listed if size is not None)
    except (OSError, ValueError):
        is_whole = False
    if not is_whole:
        try:
            listed = _write(target, index, images())
        except OSError as error:
            raise InputError(
                f"cannot copy the images of {file} to {target.parent}"
                f" ({error.strerror or error}); make room, or set XDG_CACHE_HOME to a folder on"
                " another disk"
            ) from error
    members: list[Member | str] = []
    offset = 0
    for row, (size, path) in enumerate(listed):
        if size is None:
            members.append(path or "")
            continue
        name = os.path.basename(path) if path else f"{file.name}[{row}]"
        members.append(Member(target, offset, size, name))
        offset += size
    return members


def _key(file: Path, column: str) -> str:
    state = file.stat()
    dates = (state.st_mtime_ns, state.st_ctime_ns)
    known = (os.path.abspath(file), state.st_size, *dates, state.st_ino, column)
    return hashlib.sha256(repr(known).encode()).hexdigest()[:32]


def _write(target: Path, index: Path, images: Iterable[Stored]) -> list[tuple[int | None, str]]:
    """Writes the bytes, and then the list of their sizes and names, which says that all is there.

    Returns the list.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    listed = []
    with replacing(target) as temporary, temporary.open("wb") as content:
        for image in images:
            size = None if image.content is None else content.write(image.content)
            listed.append((size, image.path or ""))
    with replacing(index) as temporary:
        temporary.write_text(json.dumps(listed))
    return listed
