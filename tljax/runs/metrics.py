"""`metrics.jsonl`, the source of truth about a run, and its TensorBoard mirror."""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from tljax.devices import processes
from tljax.errors import InputError
from tljax.files import parse_json
from tljax.runs.tensorboard import TensorBoard
from tljax.runs.workdir import explain_write_errors, write_atomically


class MetricsWriter:
    """Keeps the rows of a run in memory and, if the run has a workdir, writes them to its files.

    A row is {"event": "train" | "val" | "test" | "restart", "step", "examples", ...}. With several
    tasks, a `val` or `test` row also has "tasks", the values of each task by its name.

    Args:
      workdir: None keeps the rows in memory alone.
      position: for a run that resumes, the position of the file when the checkpoint was saved; see
        `position`. Of the rows after it the validation of that checkpoint is kept; the others are
        dropped, because the run writes them again. None: a new run.

    Raises:
      InputError: if the file's content up to `position` has changed since.
    """

    def __init__(self, workdir: Path | None, position: Mapping[str, Any] | None = None):
        self.rows: list[dict[str, Any]] = []
        self._file: BinaryIO | None = None
        self._tensorboard: TensorBoard | None = None
        self._written, self._bytes = hashlib.sha256(), 0
        if workdir is None:
            return
        path = workdir / "metrics.jsonl"
        if position is None:
            write_atomically(path, "")
        self._open(path, b"" if position is None else _rows_to_keep(path, position))

    def write(self, event: str, step: int, **values: Any) -> None:
        """Appends one row; it is in the file when this returns."""
        row = {"event": event, "step": step, **values}
        self.rows.append(row)
        if self._file is not None and self._tensorboard is not None:
            line = (json.dumps(row) + "\n").encode()
            with explain_write_errors(self._path):
                self._file.write(line)
                self._file.flush()
                self._tensorboard.write(row)
            self._written.update(line)
            self._bytes += len(line)

    def position(self, step: int) -> dict[str, Any]:
        """The file's position, for a checkpoint of `step`; flushes the rows so far to the disk."""
        if self._file is not None:
            with explain_write_errors(self._path):
                os.fsync(self._file.fileno())
        return {"step": step, "bytes": self._bytes, "sha256": self._written.hexdigest()}

    def rewind(self, step: int) -> None:
        """Drops the rows after a step, from the files too."""
        self.rows[:] = [row for row in self.rows if row["step"] <= step]
        if self._file is not None:
            self.close()
            lines = self._path.read_bytes().splitlines(keepends=True)
            self._open(self._path, b"".join(lines[: len(self.rows)]))

    def close(self) -> None:
        with contextlib.suppress(OSError):  # of a full disk; `write` has raised it before
            if self._tensorboard is not None:
                self._tensorboard.close()
            if self._file is not None:
                self._file.close()
        self._tensorboard = self._file = None

    def _open(self, path: Path, kept: bytes) -> None:
        """Opens the files to append to; of the rows only those in `kept` stay."""
        os.truncate(path, len(kept))
        self._written = hashlib.sha256(kept)
        self._bytes = len(kept)
        self.rows = [json.loads(line) for line in kept.splitlines()]
        last = self.rows[-1]["step"] if self.rows else 0
        folder = path.parent / "tensorboard"
        with explain_write_errors(folder):
            self._tensorboard = TensorBoard(folder, purge_step=last)
            for row in self.rows:
                if row["step"] == last:  # `purge_step` also hides the older events of this step
                    self._tensorboard.write(row)
        self._path, self._file = path, path.open("ab")


def open_metrics(workdir: Path | None, position: Mapping[str, Any] | None) -> MetricsWriter:
    """Makes the writer of a run. Only the first process writes; the others hold its rows.

    Arguments and errors are those of `MetricsWriter`.
    """
    writer = MetricsWriter(None)

    def open_in_first() -> list[dict[str, Any]]:
        nonlocal writer
        writer = MetricsWriter(workdir, position)
        return writer.rows

    writer.rows = processes.call_in_first(open_in_first)
    return writer


def _rows_to_keep(path: Path, position: Mapping[str, Any]) -> bytes:
    """The lines of the rows that a run which resumes at a position keeps."""
    content = path.read_bytes() if path.exists() else b""
    kept = content[: position["bytes"]]
    if hashlib.sha256(kept).hexdigest() != position["sha256"]:
        raise InputError(
            f"{path} does not hold the rows that were written before its checkpoint;"
            " restore it, or use a new workdir"
        )
    following, newline, _ = content[len(kept) :].partition(b"\n")
    if newline and _is_validation_of(following, position["step"]):
        kept += following + newline
    return kept


def _is_validation_of(line: bytes, step: int) -> bool:
    try:
        row = parse_json(line)
        return (row["event"], row["step"]) == ("val", step)
    except (ValueError, TypeError, KeyError):
        return False


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Reads the rows of a `metrics.jsonl`; drops a last line that a killed run left incomplete.

    Raises:
      InputError: if there is no such file, or another line is not a row.
    """
    rows = []
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}); restore it") from None
    for number, line in enumerate(lines, 1):
        try:
            row = parse_json(line)
            row["event"], row["step"]
            rows.append(row)
        except (ValueError, TypeError, KeyError):
            if number == len(lines):
                break
            raise InputError(
                f"line {number} of {path} is not a row of metrics; delete the line, or use a new"
                " workdir"
            ) from None
    return rows
