"""Runs `tljax ARGUMENTS`, and sends itself a signal in a phase of its training.

    python -m tests.soak.victim PHASE OCCURRENCE DELAY SIGNAL LOG -- train --config ...

The training loop logs the phase that it enters: step, evaluation or write. It also logs save, which
runs in the background during other phases. DELAY seconds after entering PHASE for the
OCCURRENCE-th time, the process appends its current phase to LOG and sends itself SIGNAL. A separate
thread sends it, so that the signal can arrive anywhere.
"""

import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path

from tljax import cli


class Executioner(logging.Handler):
    """Follows the phases, and sends the signal."""

    def __init__(self, phase: str, occurrence: int, delay: float, number: int, log: Path):
        super().__init__(logging.DEBUG)
        self._phase, self._left, self._delay = phase, occurrence, delay
        self._number, self._log = number, log
        self._now, self._saves = "start", False

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if not message.startswith("phase "):
            return
        entered = message.removeprefix("phase ").split(",")[0]
        if entered.startswith("save"):
            self._saves = entered == "save"
        else:
            self._now = entered
        self._left -= entered == self._phase
        if self._left == 0:
            self._left = -1
            threading.Thread(target=self._strike, daemon=True).start()

    def _strike(self) -> None:
        time.sleep(self._delay)
        with self._log.open("a") as log:
            log.write("save\n" if self._saves else f"{self._now}\n")
            log.flush()
            os.kill(os.getpid(), self._number)


def main(argv: list[str]) -> int:
    own, train = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
    phase, occurrence, delay, number, log = own
    logger = logging.getLogger("tljax")
    logger.setLevel(logging.DEBUG)
    number = getattr(signal, number)
    logger.addHandler(Executioner(phase, int(occurrence), float(delay), number, Path(log)))
    return cli.main(train)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
