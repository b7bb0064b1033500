"""Clocks, a process's peak memory, and how fast the machine multiplies matrices."""

import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

SIDES = (1024, 2048, 4096)  # of square matrices; the fastest product counts
_PACKAGES = ("tljax", "jax", "flax", "torch", "timm", "keras")


def time_call(function: Callable[[], Any]) -> tuple[float, Any]:
    """Calls the function. Returns (seconds, its result)."""
    began = time.perf_counter()
    result = function()
    return time.perf_counter() - began, result


def median_seconds(run: Callable[[], Any], at_least: float = 5.0, fewest: int = 5) -> float:
    """Median of enough runs to fill `at_least` seconds, after one that is not counted."""
    run()
    taken: list[float] = []
    while len(taken) < fewest or sum(taken) < at_least:
        taken.append(time_call(run)[0])
    return statistics.median(taken)


def seconds_per_batch(batches: Iterator[Any], at_least: float = 8.0) -> float:
    """Mean over enough batches to fill `at_least` seconds, after ten that are not counted.

    The first ten do not count, because a reader prefetches some.
    """
    for _ in range(10):
        next(batches)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < at_least:
        next(batches)
        count += 1
    return (time.perf_counter() - began) / count


def peak_megabytes() -> float:
    """Peak memory of this process, in 1e6 bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def device_megabytes() -> dict[str, int]:
    """Peak memory of this process's arrays on an accelerator, in 1e6 bytes; empty without one.

    The framework counts it: the memory that it reserves may be larger.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
    else:
        import jax

        peak = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return {} if peak is None else {"device_megabytes": round(peak / 1e6)}


def matmul_peak() -> dict[str, float]:
    """FLOP/s of JAX's fastest float32 product of two square matrices."""
    return {"flops_per_second": max(map(_flops_per_second, SIDES))}


def share_of_peak(
    run: Callable[[], Any], flops: float, pairs: int = 10, dtype: str = "float32"
) -> float:
    """FLOP/s of a run, as a fraction of the fastest product's.

    Median over pairs of a run and a product, in turn, because clock rates change. Each time the
    best of five products counts.
    """
    sides = SIDES if dtype == "float32" else (*SIDES, 8192)
    side = max(sides, key=lambda side: _flops_per_second(side, dtype))
    multiply = _make_product(side, dtype)
    shares = []
    for _ in range(pairs):
        seconds, _ = time_call(run)
        best = min(time_call(multiply)[0] for _ in range(5))
        shares.append(flops / seconds / (2 * side**3 / best))
    return statistics.median(shares)


def _flops_per_second(side: int, dtype: str = "float32") -> float:
    return 2 * side**3 / median_seconds(_make_product(side, dtype), 2.0, 10)


def _make_product(side: int, dtype: str = "float32") -> Callable[[], Any]:
    import jax

    x = jax.random.normal(jax.random.key(0), (side, side), dtype)
    multiply = jax.jit(lambda x: jax.lax.dot(x, x, precision="highest"))
    return lambda: multiply(x).block_until_ready()


def machine() -> dict[str, Any]:
    """The machine, its devices and the versions of the packages."""
    import jax  # here, because PyTorch's processes do not need it

    from tljax.devices.processor import read_cpuinfo

    # processors of one name may differ in their widest vectors
    widest = {"avx512f": "AVX-512", "avx2": "AVX2"}
    flags = read_cpuinfo("flags").split()
    return {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "processor": read_cpuinfo("model name") or platform.processor() or platform.machine(),
        "family": read_cpuinfo("cpu family"),
        "vectors": next((name for flag, name in widest.items() if flag in flags), ""),
        "cores": os.cpu_count(),
        "versions": {name: metadata.version(name) for name in _PACKAGES},
    }
