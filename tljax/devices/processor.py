"""Which processor this is: XLA's programs for a CPU depend on it."""

import os
import platform
import re
from pathlib import Path
from typing import Any


def processor() -> dict[str, Any]:
    """XLA's programs for a CPU follow its instructions, and split sums by its number of cores."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        cores = os.cpu_count() or 1
    return {"cores": cores, "processor": first_core("model name") or platform.machine()}


def first_core(name: str) -> str:
    """What Linux says of the first core under a name, e.g. `flags`; empty elsewhere."""
    try:
        described = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""
    found = re.search(rf"^{re.escape(name)}\s*:\s*(.+)$", described, re.MULTILINE)
    return found[1] if found else ""
