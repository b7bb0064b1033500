"""How programs that hold a network are compiled."""

import functools
import importlib
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
from jax.sharding import Mesh

from tljax.runs.environment import of_first_core

_YNNPACK = "xla_cpu_experimental_ynn_fusion_type"  # kinds of operations that it takes over


def compiled(function: Callable[..., Any], mesh: Mesh | None = None, **options: Any) -> Any:
    """`jax.jit`, with the compiler's options that suit this processor.

    Args:
      function: not to be called from within another compiled one.
      mesh: that its arguments lie on, perhaps of devices that this machine lacks; None: none.
      options: of `jax.jit`.
    """
    platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    suited = _suited_to_cpu() if platform == "cpu" else None
    return jax.jit(function, compiler_options=suited, **options)


class Ahead:
    """Compiles programs, or reads them from the cache on disk, beside what comes before their use.

    In the order that they are given in, each being traced while the one before it is compiled;
    their calls then find them done. What a caller sets for a `with` block alone, such as
    `jax.default_matmul_precision`, does not reach the threads: then their calls compile again.
    """

    def __init__(self) -> None:
        # Before there are threads: a module of Grain, while it is imported, has Python give all of
        # them stand-ins for what they import (etils.epy.lazy_imports), which JAX does as it traces.
        importlib.import_module("grain")
        self._tracing, self._compiling = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._begun: dict[str, Future[Any]] = {}

    def compile(self, name: str, program: Any, *arguments: Any) -> None:
        """Begins with a program, or lets it wait for those before it.

        Args:
          name: for `wait`.
          program: the jitted function.
          arguments: as of the call; arrays may be abstract, and none is consumed.
        """
        lowered = self._tracing.submit(program.lower, *arguments)
        self._begun[name] = self._compiling.submit(lambda: lowered.result().compile())

    def wait(self, name: str) -> None:
        """Returns when the program of that name, if any, is there; raises what it raised."""
        if name in self._begun:
            self._begun[name].result()

    def leave(self) -> None:
        """Begins with no other, and does not wait for the one that is begun."""
        for thread in (self._tracing, self._compiling):
            thread.shutdown(wait=False, cancel_futures=True)


@functools.cache
def _suited_to_cpu() -> dict[str, str] | None:
    """Products and sums by XLA itself on an x86 processor without AVX-512, not by YNNPACK.

    XLA leaves them to that library by default. It prepares each operation when a program is first
    run, which takes a second and more for a step of ViT-S, and its products of the sizes that
    networks have are slower there, but for the gradients of convolutions, which are not to be
    compiled so: see benchmarks/README.md. On the one processor with AVX-512 that was measured its
    products are the faster ones; others were not. There the default stays; `XLA_FLAGS` has
    precedence everywhere.
    """
    vectors = of_first_core("flags").split()
    if "avx2" not in vectors or "avx512f" in vectors or _YNNPACK in os.environ.get("XLA_FLAGS", ""):
        return None
    options = {_YNNPACK: ""}
    try:
        jax.jit(_nothing, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:  # this jaxlib has no such option
        return None
    return options


def _nothing() -> int:
    return 0
