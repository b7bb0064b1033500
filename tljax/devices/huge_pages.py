"""Memory in huge pages, for the process of a `tljax` command.

XLA takes what a step on a CPU needs from the operating system and gives it back at the step's end.
In pages of 4 KiB that is a million page faults for every step of a ResNet-50 of 32 images, and a
quarter of its time. glibc asks for huge pages if a tunable says so (malloc(3), "glibc.malloc.
hugetlb"), which it reads before a program begins: the command therefore starts itself again.

Touched for the first time, huge pages are the dearer ones on a virtual machine whose host has to
find them, and a start touches all of its memory for the first time: training begins in small pages.
What comes next then pays for its own; see benchmarks/README.md.
"""

import ctypes
import os
import sys
from pathlib import Path

_VARIABLE = "GLIBC_TUNABLES"
_TUNABLE = "glibc.malloc.hugetlb"
_MODES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_SET_DISABLED, _GET_DISABLED = 41, 42  # prctl(2), PR_SET_THP_DISABLE and PR_GET_THP_DISABLE

_postponed = False  # by us, and not by whoever started this process


def environment() -> dict[str, str]:
    """The variable to set; nothing if it is set, or if huge pages come unasked or not at all."""
    tunables = os.environ.get(_VARIABLE, "")
    try:
        on_request = "[madvise]" in _MODES.read_text()
        version = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (OSError, ValueError):
        return {}
    if not on_request or _TUNABLE in tunables or _glibc(version) < (2, 35):
        return {}
    return {_VARIABLE: ":".join(filter(None, (tunables, f"{_TUNABLE}=1")))}


def start_again() -> None:
    """Replaces this process by the same command with `environment`, unless it has it already."""
    if added := environment():
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **added})


def postpone() -> None:
    """Small pages until `come`, in a process that asked for huge ones."""
    global _postponed
    asked = f"{_TUNABLE}=1" in os.environ.get(_VARIABLE, "")
    if asked and sys.platform == "linux" and not _prctl(_GET_DISABLED, 0):
        _postponed = not _prctl(_SET_DISABLED, 1)


def come() -> None:
    """Huge pages from now on, if they were postponed."""
    global _postponed
    if _postponed:
        _prctl(_SET_DISABLED, 0)
        _postponed = False


def _prctl(option: int, value: int) -> int:
    result: int = ctypes.CDLL(None).prctl(option, *map(ctypes.c_ulong, (value, 0, 0, 0)))
    return result


def _glibc(version: str) -> tuple[int, ...]:
    """Of "glibc 2.36"; of another C library none."""
    name, _, number = version.partition(" ")
    return tuple(map(int, number.split("."))) if name == "glibc" else ()
