"""How programs that hold a network are compiled."""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from tljax.devices.processor import first_core

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
    vectors = first_core("flags").split()
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
