"""The TensorBoard mirror of `metrics.jsonl`.

tensorboardX's `SummaryWriter` passes events to a thread through a queue. If that thread dies, e.g.
on a full disk, the training loop hangs. So the event file is written directly.
"""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def _hidden_torch() -> Iterator[None]:
    """Keeps tensorboardX from importing PyTorch, which takes a second or two.

    It needs PyTorch for arrays only, and only scalars are written here.
    """
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]  # `import` then raises ImportError
    try:
        yield
    finally:
        del sys.modules["torch"]


with _hidden_torch():
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.summary import scalar


class TensorBoard:
    """Writes an event file.

    Args:
      folder: where to write; it is created if missing.
      purge_step: TensorBoard ignores events from this step on in older files of the folder.

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
        """Writes the values of a row of `metrics.jsonl`; they are in the file when this returns."""
        for name, value in row.items():
            if name not in ("event", "step") and isinstance(value, int | float):
                self._write(row["step"], f"{row['event']}/{name}", value)
        for number, values in enumerate(row.get("tasks", {}).values(), 1):
            for name, value in values.items():  # by number, as a task's name may not be a valid tag
                self._write(row["step"], f"{row['event']}/task_{number}/{name}", value)
        self._writer.flush()

    def _write(self, step: int, tag: str, value: float) -> None:
        event = Event(wall_time=time.time(), step=step, summary=scalar(tag, value))
        self._writer.write_event(event)

    def close(self) -> None:
        self._writer.close()
