"""Rows of numbers on the disk, any of which may be missing; a damaged row counts as missing.

Two files hold n rows: `features.npy`, the rows, and `checksums.npy`, one number for each of them.
A row is written first, and then its checksum. So whatever a killed process, a full disk or a bad
one leaves behind, a row that fits its checksum is the row that was computed.
"""

import logging
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tljax.console import progress_bar
from tljax.files import replacing

_log = logging.getLogger("tljax")

_ROWS = "features.npy"
_CHECKSUMS = "checksums.npy"
_PRESENT = np.uint64(2**32)  # added to the CRC-32 of a row
_MISSING = np.uint64(2**33)  # the checksum of a row that was never written
_BLOCK = 2**26  # bytes of rows that are checked at a time, about


class StoredRows:
    """n rows of float32 in a folder; one process at a time may call its methods.

    Args:
      folder: of the two files, which are made if they are missing. It exists.
      shape: (n, ...), of all rows.

    Raises:
      OSError: the files cannot be read or written.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...]):
        self._path, self._shape = folder / _ROWS, shape
        self._row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * 4
        self._offset = _open_rows(self._path, shape)
        self._checksums_path = folder / _CHECKSUMS
        self._checksums_offset, self._checksums = _open_checksums(self._checksums_path, shape[0])

    def missing(
        self, rows: np.ndarray, between_blocks: Callable[[], None] = lambda: None
    ) -> np.ndarray:
        """Returns which of the rows are missing, sorted; checks all the others.

        Damaged rows count as missing. How many there are is logged.

        Args:
          rows: int (m,), the numbers of the wanted rows.
          between_blocks: called from time to time; what it raises ends the check.
        """
        rows = np.unique(rows)
        kept = rows[self._checksums[rows] != _MISSING]
        damaged = self._damaged(kept, between_blocks)
        if len(damaged):
            self._checksums[damaged] = _MISSING
            _log.warning(
                "%d of %d rows in '%s' are damaged, as their checksums do not fit; they are"
                " computed again",
                len(damaged),
                len(kept),
                self._path,
            )
        return rows[self._checksums[rows] == _MISSING]

    def write(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Writes rows; they are on the disk when this returns.

        Args:
          rows: int (m,), their numbers.
          values: float32 (m, ...).
        """
        contents = [value.tobytes() for value in values]
        checksums = np.array([zlib.crc32(content) for content in contents], np.uint64) + _PRESENT
        self._checksums[rows] = checksums
        # Written, not assigned to a memory map: on a full disk, that would end the process with
        # SIGBUS. The rows are on the disk before the checksums say that they are there.
        _write_at(self._path, self._offset, self._row_bytes, rows, contents)
        contents = [checksum.tobytes() for checksum in checksums]
        _write_at(self._checksums_path, self._checksums_offset, 8, rows, contents)

    def values(self) -> np.ndarray:
        """Returns all rows, float32 (n, ...), mapped from the disk; those missing hold anything."""
        return np.memmap(self._path, np.float32, "r", self._offset, self._shape)

    def _damaged(self, rows: np.ndarray, between_blocks: Callable[[], None]) -> np.ndarray:
        """Which of these rows have another checksum than the one that was kept."""
        content = np.asarray(self.values()).reshape(self._shape[0], -1).view(np.uint8)
        crc32, found = zlib.crc32, np.zeros(len(rows), np.uint64)
        step = max(1, _BLOCK // self._row_bytes)
        with progress_bar() as bar:
            task = bar.add_task("checking cached features", total=len(rows))
            for start in range(0, len(rows), step):
                between_blocks()
                block = rows[start : start + step]
                found[start : start + step] = [crc32(content[row]) for row in block.tolist()]
                bar.update(task, advance=len(block))
        return rows[found + _PRESENT != self._checksums[rows]]


def _open_rows(path: Path, shape: tuple[int, ...]) -> int:
    """Makes the file of the rows, or brings it to its length; returns where its numbers begin.

    A file that was cut off keeps what stands before the cut. One with another header is made anew.
    """
    offset = _offset(path, shape, np.float32)
    if offset is None:
        with replacing(path) as new:
            # sparse: rows that are never written take no room
            made = np.lib.format.open_memmap(new, "w+", np.float32, shape)
            made.flush()
            return int(made.offset)
    whole = offset + int(np.prod(shape, dtype=np.int64)) * 4
    if path.stat().st_size != whole:
        os.truncate(path, whole)
    return offset


def _open_checksums(path: Path, count: int) -> tuple[int, np.ndarray]:
    """Returns where the file's checksums begin, and the checksums, uint64 (n,).

    Makes the file if it is missing. What was cut off, and all of a file with another header, are
    zeros, which are no checksums.
    """
    offset = _offset(path, (count,), np.uint64)
    kept = np.zeros(0, np.uint64)
    if offset is not None:
        kept = np.fromfile(path, np.uint64, offset=offset)[:count]
    if offset is None or len(kept) < count:
        fill = 0 if path.exists() else _MISSING
        kept = np.concatenate([kept, np.full(count - len(kept), fill, np.uint64)])
        with replacing(path) as new, new.open("wb") as file:
            np.lib.format.write_array(file, kept)
        offset = _offset(path, (count,), np.uint64)
    assert offset is not None
    return offset, kept


def _offset(path: Path, shape: tuple[int, ...], dtype: Any) -> int | None:
    """Where the numbers of a .npy file begin; None if it is missing or holds another array."""
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            header = np.lib.format.read_array_header_1_0(file) if version == (1, 0) else None
            return file.tell() if header == (shape, False, np.dtype(dtype)) else None
    except (FileNotFoundError, ValueError):
        return None


def _write_at(path: Path, offset: int, size: int, rows: np.ndarray, contents: list[bytes]) -> None:
    """Writes rows of `size` bytes to a file whose rows begin at `offset`, and to the disk."""
    with path.open("r+b") as file:
        for row, content in zip(rows.tolist(), contents, strict=True):
            file.seek(offset + row * size)
            file.write(content)
        file.flush()
        os.fsync(file.fileno())
