"""The TensorBoard mirror of `metrics.jsonl`.

tensorboardX's `SummaryWriter` hands events to a thread over a queue: if that thread dies, e.g. of a
full disk, the training loop waits for it for ever. So its event file is written directly.
"""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def _torch_looking_absent() -> Iterator[None]:
    """tensorboardX imports PyTorch where it is installed, which takes a second or two.

    It does so for the type of arrays that are no scalars, of which none is written here.
    """
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]  # which `import` takes as not installed
    try:
        yield
    finally:
        del sys.modules["torch"]


with _torch_looking_absent():
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.summary import scalar


class TensorBoard:
    """An event file.

    Args:
      folder: made if need be.
      purge_step: events from this step on, in older files there, are to be forgotten.

    Raises:
      OSError: here and in every method, if the file cannot be written.
    """

    def __init__(self, folder: Path, purge_step: int):
        folder.mkdir(exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        start = SessionLog(status=SessionLog.START)
        self._writer.write_event(Event(wall_time=time.time(), step=purge_step, session_log=start))
        self._writer.flush()

    def write(self, row: Mapping[str, Any]) -> None:
        """Mirrors a row of `metrics.jsonl`; it is in the file when this returns."""
        for name, value in row.items():
            if name not in ("event", "step", "tasks"):
                self._write(row["step"], f"{row['event']}/{name}", value)
        for number, values in enumerate(row.get("tasks", {}).values(), 1):
            for name, value in values.items():  # by number: a task's name is no tag
                self._write(row["step"], f"{row['event']}/task_{number}/{name}", value)
        self._writer.flush()

    def _write(self, step: int, tag: str, value: float) -> None:
        event = Event(wall_time=time.time(), step=step, summary=scalar(tag, value))
        self._writer.write_event(event)

    def close(self) -> None:
        self._writer.close()
