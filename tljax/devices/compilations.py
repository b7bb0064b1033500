"""Counts the programs that XLA compiles; a sweep is slow if each of its runs compiles anew."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jax import monitoring

_COMPILED = "/jax/core/compile/backend_compile_duration"  # sent for cache hits, too
_FROM_CACHE = "/jax/compilation_cache/cache_hits"


@dataclass
class Compilations:
    """The number of programs that this process compiled, small ones included.

    Attributes:
      count: all programs.
      from_cache: those of them that were loaded from JAX's compilation cache on disk.
    """

    count: int = 0
    from_cache: int = 0


@contextlib.contextmanager
def count_compilations() -> Iterator[Compilations]:
    """A context manager that counts the compilations in its block, as they happen."""
    counts = Compilations()

    def count_compiled(event: str, duration_secs: float, **_: Any) -> None:
        counts.count += event == _COMPILED

    def count_cache_hit(event: str, **_: Any) -> None:
        counts.from_cache += event == _FROM_CACHE

    monitoring.register_event_duration_secs_listener(count_compiled)
    monitoring.register_event_listener(count_cache_hit)
    try:
        yield counts
    finally:
        monitoring.unregister_event_duration_listener(count_compiled)
        monitoring.unregister_event_listener(count_cache_hit)
