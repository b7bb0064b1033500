"""What a result depends on to the bit besides its config: code, library versions, devices."""

import functools
import hashlib
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from tljax.devices.processor import describe_processor

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
    """The environment of this process; a run that resumes compares it with its checkpoint's."""
    return {
        "versions": versions(),
        "code": code_digest(),
        "backend": jax.default_backend(),
        "devices": [str(device.device_kind) for device in jax.devices()],
        "host": describe_processor() if jax.default_backend() == "cpu" else None,
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect a result's numbers."""
    return {"python": platform.python_version(), **{p: metadata.version(p) for p in _PACKAGES}}


@functools.cache
def code_digest() -> str:
    """The first 12 hex digits of the SHA-256 over tljax's own source files.

    The version number alone does not change when the code of a checkout is edited. A wheel holds
    the config files, too, which do not count.
    """
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(set(root.rglob("*.py")) - set((root / "configs").rglob("*.py"))):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]
