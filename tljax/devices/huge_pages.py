"""Memory in huge pages, for the process of a `tljax` command.

On a CPU, XLA allocates the memory of every step anew. In pages of 4 KiB this causes a million page
faults for each step of a ResNet-50 on 32 images, a quarter of the step's time. glibc asks for huge
pages if the tunable `glibc.malloc.hugetlb` is set. It reads the tunable before a program begins, so
the command restarts itself once.

On a virtual machine the first touch of a huge page is slow, because the host has to find one, and
start-up touches all of its memory for the first time. So training begins with small pages, and the
steps after start-up touch huge pages first; see benchmarks/README.md.
"""

import ctypes
import os
import sys
from pathlib import Path

_VARIABLE = "GLIBC_TUNABLES"
_TUNABLE = "glibc.malloc.hugetlb"
_MODES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_SET_DISABLED, _GET_DISABLED = 41, 42  # prctl(2), PR_SET_THP_DISABLE and PR_GET_THP_DISABLE

_disabled = False  # by `disable`, and not by whoever started this process


def variables_to_set() -> dict[str, str]:
    """The environment variable that asks for huge pages, with its value.

    Empty if it is set already, or if the system uses huge pages always or never.
    """
    tunables = os.environ.get(_VARIABLE, "")
    try:
        on_request = "[madvise]" in _MODES.read_text()
        version = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (OSError, ValueError):
        return {}
    if not on_request or _TUNABLE in tunables or _glibc_version(version) < (2, 35):
        return {}
    return {_VARIABLE: ":".join(filter(None, (tunables, f"{_TUNABLE}=1")))}


def restart_with_huge_pages() -> None:
    """Replaces this process by the same command with `variables_to_set`, if there are any."""
    if added := variables_to_set():
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **added})


def disable() -> None:
    """Uses small pages until `enable` is called, in a process that asked for huge ones."""
    global _disabled
    asked = f"{_TUNABLE}=1" in os.environ.get(_VARIABLE, "")
    if asked and sys.platform == "linux" and not _prctl(_GET_DISABLED, 0):
        _disabled = not _prctl(_SET_DISABLED, 1)


def enable() -> None:
    """Uses huge pages from now on, if `disable` turned them off."""
    global _disabled
    if _disabled:
        _prctl(_SET_DISABLED, 0)
        _disabled = False


def _prctl(option: int, value: int) -> int:
    result: int = ctypes.CDLL(None).prctl(option, *map(ctypes.c_ulong, (value, 0, 0, 0)))
    return result


def _glibc_version(version: str) -> tuple[int, ...]:
    """(2, 36) for "glibc 2.36"; () for another C library."""
    name, _, number = version.partition(" ")
    return tuple(map(int, number.split("."))) if name == "glibc" else ()
