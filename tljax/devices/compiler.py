"""`jax.jit` with compiler options for the processor at hand."""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from tljax.devices.processor import read_cpuinfo

_YNNPACK = "xla_cpu_experimental_ynn_fusion_type"  # the kinds of operations that YNNPACK takes over


def compiled(function: Callable[..., Any], mesh: Mesh | None = None, **options: Any) -> Any:
    """`jax.jit` for programs that run a network, with compiler options for this processor.

    Args:
      function: the function to compile. Do not call the result from another jitted function.
      mesh: the mesh of the arguments, possibly of devices that this machine lacks; None: no mesh.
      options: further arguments of `jax.jit`.
    """
    platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    compiler_options = _cpu_options() if platform == "cpu" else None
    return jax.jit(function, compiler_options=compiler_options, **options)


@functools.cache
def _cpu_options() -> dict[str, str] | None:
    """Options that turn YNNPACK off on x86 processors without AVX-512; None keeps the default.

    By default XLA leaves matrix products and sums to YNNPACK. YNNPACK prepares each operation on
    the first run of a program, which takes a second or more for a step of ViT-S. Without AVX-512
    its products are slower than XLA's own at the sizes that networks have. The exception are
    gradients of convolutions: do not compile those with these options. On the one processor with
    AVX-512 that was measured, YNNPACK is faster, so the default stays there. `XLA_FLAGS` has
    precedence everywhere. Measurements: benchmarks/README.md.
    """
    vectors = read_cpuinfo("flags").split()
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
