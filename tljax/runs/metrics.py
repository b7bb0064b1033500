"""`metrics.jsonl`, the source of truth about a run, with its mirror for TensorBoard."""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tljax.devices import processes
from tljax.errors import InputError
from tljax.files import parse_json
from tljax.runs.tensorboard import TensorBoard
from tljax.runs.workdir import write_atomically, writing


class MetricsWriter:
    """Keeps the rows of a run in memory and, if it has a workdir, in its files.

    A row is {"event": "train" | "val" | "test", "step", "examples", ...}; where there are several
    tasks, "tasks" holds a `val` or `test` row's values for each by its name.

    Args:
      workdir: None keeps the rows in memory alone.
      position: where the file stood when the checkpoint to go on from was saved. Of what follows
        the validation of that very checkpoint is kept; the rest is dropped, and will be written
        again. None: the run begins.

    Raises:
      InputError: if the file's rows up to `position` are not those of that checkpoint.
    """

    def __init__(self, workdir: Path | None, position: Mapping[str, Any] | None = None):
        self.rows: list[dict[str, Any]] = []
        self._file = None
        self._tensorboard = None
        self._written = hashlib.sha256()
        self._bytes = 0
        if workdir is None:
            return
        path = workdir / "metrics.jsonl"
        if position is None:
            write_atomically(path, "")
        else:
            self._keep(path, position)
        last = self.rows[-1]["step"] if self.rows else 0
        with writing(workdir / "tensorboard"):
            self._tensorboard = TensorBoard(workdir / "tensorboard", purge_step=last)
            for row in self.rows:
                if row["step"] == last:  # purged with what came after
                    self._tensorboard.write(row)
        self._path, self._file = path, path.open("ab")

    def write(self, event: str, step: int, **values: Any) -> None:
        """Appends one row; it is in the file when this returns."""
        row = {"event": event, "step": step, **values}
        self.rows.append(row)
        if self._file is not None and self._tensorboard is not None:
            line = (json.dumps(row) + "\n").encode()
            with writing(self._path):
                self._file.write(line)
                self._file.flush()
                self._tensorboard.write(row)
            self._written.update(line)
            self._bytes += len(line)

    def position(self, step: int) -> dict[str, Any]:
        """Where the file stands, for a checkpoint of `step`; what it holds is then on the disk."""
        if self._file is not None:
            with writing(self._path):
                os.fsync(self._file.fileno())
        return {"step": step, "bytes": self._bytes, "sha256": self._written.hexdigest()}

    def close(self) -> None:
        with contextlib.suppress(OSError):  # of a full disk, which was said when it was written to
            if self._tensorboard is not None:
                self._tensorboard.close()
            if self._file is not None:
                self._file.close()

    def _keep(self, path: Path, position: Mapping[str, Any]) -> None:
        content = path.read_bytes() if path.exists() else b""
        kept = content[: position["bytes"]]
        if hashlib.sha256(kept).hexdigest() != position["sha256"]:
            raise InputError(
                f"{path} does not hold the rows that its checkpoint was saved after; restore it, or"
                " use a new workdir"
            )
        following, newline, _ = content[len(kept) :].partition(b"\n")
        if newline and _is_validation_of(following, position["step"]):
            kept += following + newline
        os.truncate(path, len(kept))
        self._written.update(kept)
        self._bytes = len(kept)
        self.rows = [json.loads(line) for line in kept.splitlines()]


def open_metrics(workdir: Path | None, position: Mapping[str, Any] | None) -> MetricsWriter:
    """The writer of a run; of several processes the first one's, and the others keep its rows.

    The arguments and errors are those of `MetricsWriter`.
    """
    writer = MetricsWriter(None)

    def begin() -> list[dict[str, Any]]:
        nonlocal writer
        writer = MetricsWriter(workdir, position)
        return writer.rows

    writer.rows = processes.call_in_first(begin)
    return writer


def _is_validation_of(line: bytes, step: int) -> bool:
    try:
        row = parse_json(line)
        return (row["event"], row["step"]) == ("val", step)
    except (ValueError, TypeError, KeyError):
        return False


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`; a last line that a dying run left half-written is dropped.

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
