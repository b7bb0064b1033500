"""Floating-point operations, counted by XLA: of a function that nobody runs, or of a program."""

import contextlib
from collections.abc import Callable
from typing import Any

import jax

from tljax.errors import InputError


def flops(function: Callable[..., Any], *arguments: Any) -> float:
    """Floating-point operations of a function, by XLA's count; arguments may be abstract.

    XLA counts the body of a loop once, so the function must not contain a scan. What is counted is
    the program for an accelerator, since on a CPU the gradients of some kernels are loops.

    Raises:
      InputError: if JAX may not use the CPU: counting works only there.
    """
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
    with _on_the_cpu():
        traced = jax.jit(function).trace(*abstract)
        return counted_flops(traced.lower(lowering_platforms=("tpu",)))


def counted_flops(program: Any) -> float:
    """XLA's count for a program: compiled (what runs), or lowered on the CPU (fast)."""
    return float(program.cost_analysis().get("flops", 0.0))  # a program with no operation lacks it


def _on_the_cpu() -> contextlib.AbstractContextManager[None]:
    """Makes the CPU the default device: JAX counts nothing in programs lowered on a GPU or TPU."""
    if jax.default_backend() == "cpu":  # no new context, so that JAX finds its cached traces
        return contextlib.nullcontext()
    try:
        cpu = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        raise InputError(
            "JAX_PLATFORMS leaves out the CPU, where floating-point operations are counted; add"
            " ',cpu' to it"
        ) from None
    context: contextlib.AbstractContextManager[None] = jax.default_device(cpu)
    return context
