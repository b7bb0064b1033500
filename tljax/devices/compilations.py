"""How many programs XLA was asked for: a sweep that compiles for every run is a slow one."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jax import monitoring

_COMPILED = "/jax/core/compile/backend_compile_duration"  # also where the disk cache had it
_FROM_CACHE = "/jax/compilation_cache/cache_hits"


@dataclass
class Compilations:
    """Programs that this process compiled, small ones included.

    Attributes:
      count: of all.
      from_cache: of those, how many an earlier process had left in the cache on disk.
    """

    count: int = 0
    from_cache: int = 0


@contextlib.contextmanager
def counted() -> Iterator[Compilations]:
    """Inside, compilations are counted as they happen."""
    seen = Compilations()

    def compiled(event: str, duration_secs: float, **_: Any) -> None:
        seen.count += event == _COMPILED

    def found(event: str, **_: Any) -> None:
        seen.from_cache += event == _FROM_CACHE

    monitoring.register_event_duration_secs_listener(compiled)
    monitoring.register_event_listener(found)
    try:
        yield seen
    finally:
        monitoring.unregister_event_duration_listener(compiled)
        monitoring.unregister_event_listener(found)
