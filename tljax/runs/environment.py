"""What the bits of a result depend on beside its config: code, library versions, devices."""

import functools
import hashlib
import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

_PACKAGES = (
    "tljax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "grain",
    "orbax-checkpoint",
    "numpy",
    "pillow",
)


def environment() -> dict[str, Any]:
    """For a checkpoint, so that a run does not go on under another environment unnoticed."""
    return {
        "versions": versions(),
        "code": code_digest(),
        "backend": jax.default_backend(),
        "devices": [str(device.device_kind) for device in jax.devices()],
        "host": _processor() if jax.default_backend() == "cpu" else None,
    }


def versions() -> dict[str, str]:
    """Versions of what decides a result's numbers."""
    return {"python": platform.python_version(), **{p: metadata.version(p) for p in _PACKAGES}}


def _processor() -> dict[str, Any]:
    """XLA's programs for a CPU follow its instructions, and split sums by its number of cores."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        cores = os.cpu_count() or 1
    return {"cores": cores, "processor": of_first_core("model name") or platform.machine()}


def of_first_core(name: str) -> str:
    """What Linux says of the first core under a name, e.g. `flags`; empty elsewhere."""
    try:
        described = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""
    found = re.search(rf"^{re.escape(name)}\s*:\s*(.+)$", described, re.MULTILINE)
    return found[1] if found else ""


@functools.cache
def code_digest() -> str:
    """The first 12 hex digits of the SHA-256 over tljax's own source files.

    The version number of a checkout stays what it is while somebody edits the code.
    """
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]
