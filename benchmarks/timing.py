"""Clocks, the largest memory a process took, and how fast the machine multiplies matrices."""

import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("tljax", "jax", "flax", "torch", "timm", "keras")


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """(seconds, what it returned)."""
    began = time.perf_counter()
    result = function()
    return time.perf_counter() - began, result


def median_seconds(run: Callable[[], Any], at_least: float = 5.0, fewest: int = 5) -> float:
    """The median of as many runs as fill `at_least` seconds, after one that is not counted."""
    run()
    taken: list[float] = []
    while len(taken) < fewest or sum(taken) < at_least:
        taken.append(timed(run)[0])
    return statistics.median(taken)


def peak_megabytes() -> float:
    """The most memory that this process has held, in 1e6 bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def matmul_peak() -> dict[str, float]:
    """FLOP/s of the fastest float32 product of two square matrices, by JAX, on its device."""
    import jax

    best = 0.0
    for side in (1024, 2048, 4096):
        a = jax.random.normal(jax.random.key(0), (side, side))
        product = jax.jit(lambda x: jax.lax.dot(x, x, precision="highest"))
        seconds = median_seconds(lambda p=product, x=a: p(x).block_until_ready(), 2.0, 10)
        best = max(best, 2 * side**3 / seconds)
    return {"flops_per_second": best}


def machine() -> dict[str, Any]:
    """What the figures are of."""
    import jax

    return {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "versions": {name: metadata.version(name) for name in _PACKAGES},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
