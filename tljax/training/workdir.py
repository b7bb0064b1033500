"""The files of a workdir: `metrics.jsonl`, the source of truth, and its TensorBoard mirror."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from tljax.errors import InputError
from tljax.files import replacing


class MetricsWriter:
    """Keeps the rows of a run in memory and, if it has a workdir, in its files.

    A row is {"event": "train" | "val" | "test", "step", "examples", ...}. Opening a workdir whose
    run is resumed at `resume_step` drops the rows after that step, which will be written again.
    """

    def __init__(self, workdir: Path | None, resume_step: int | None = None):
        self.rows: list[dict[str, Any]] = []
        self._file = None
        self._tensorboard = None
        if workdir is None:
            return
        path = workdir / "metrics.jsonl"
        if resume_step is not None and path.exists():
            self.rows = [
                row
                for row in read_rows(path)
                if row["step"] <= resume_step and row["event"] != "test"
            ]
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in self.rows))
        self._file = path.open("a")
        self._tensorboard = SummaryWriter(
            str(workdir / "tensorboard"),
            purge_step=None if resume_step is None else resume_step + 1,
        )

    def write(self, event: str, step: int, **values: float) -> None:
        """Appends one row; it is in the file when this returns."""
        row = {"event": event, "step": step, **values}
        self.rows.append(row)
        if self._file is not None and self._tensorboard is not None:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
            for name, value in values.items():
                self._tensorboard.add_scalar(f"{event}/{name}", value, step)

    def close(self) -> None:
        if self._file is not None and self._tensorboard is not None:
            self._file.close()
            self._tensorboard.close()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`; a last line that a dying run left half-written is dropped."""
    rows = []
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            if number == len(lines):
                break
            raise InputError(
                f"line {number} of {path} is not JSON; delete the line, or use a new workdir"
            ) from None
    return rows


def write_atomically(path: Path, text: str) -> None:
    """Writes a file so that it is either the old one or the whole new one."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def refuse_changes(before: Mapping[str, Any], now: Mapping[str, Any], workdir: Path) -> None:
    """Raises InputError if a run would go on under other settings than it began with."""
    changed = [
        f"{name} was {before.get(name)} and is {now.get(name)}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if changed:
        raise InputError(
            f"'{workdir}' holds a run with another config ({'; '.join(changed)}); use a new"
            " workdir, or the config it was made with"
        )


def writable(workdir: Path) -> Path:
    """Makes the workdir if need be; InputError if nothing can be written there."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        write_atomically(workdir / ".writable", "")
        (workdir / ".writable").unlink()
    except OSError as error:
        raise InputError(
            f"cannot write to the workdir '{workdir}' ({error.strerror}); choose another --workdir"
        ) from None
    return workdir
