"""The processor of this machine; XLA's programs for a CPU depend on it."""

import os
import platform
import re
from pathlib import Path
from typing import Any


def describe_processor() -> dict[str, Any]:
    """The name and number of cores: XLA picks instructions by the one, splits sums by the other."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        cores = os.cpu_count() or 1
    return {"cores": cores, "processor": read_cpuinfo("model name") or platform.machine()}


def read_cpuinfo(name: str) -> str:
    """A field of Linux's /proc/cpuinfo for the first core, e.g. `flags`; "" on other systems."""
    try:
        content = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""
    found = re.search(rf"^{re.escape(name)}\s*:\s*(.+)$", content, re.MULTILINE)
    return found[1] if found else ""
