"""What a result depends on to the bit besides its config: code, versions, devices, settings."""

import functools
import hashlib
import os
import platform
import shlex
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

# JAX's settings that change numbers: by precision, by the random numbers, or by other programs.
_JAX_SETTINGS = (
    "jax_allow_f16_reductions",
    "jax_bcoo_cusparse_lowering",
    "jax_compiler_enable_remat_pass",
    "jax_cpu_collectives_implementation",
    "jax_default_device",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_disable_jit",
    "jax_enable_custom_prng",
    "jax_enable_pgle",
    "jax_enable_x64",
    "jax_exec_time_optimization_effort",
    "jax_explicit_x64_dtypes",
    "jax_high_dynamic_range_gumbel",
    "jax_memory_fitting_effort",
    "jax_memory_fitting_level",
    "jax_numpy_dtype_promotion",
    "jax_optimization_level",
    "jax_random_seed_offset",
    "jax_softmax_custom_jvp",
    "jax_threefry_gpu_kernel_lowering",
    "jax_threefry_partitionable",
    "jax_use_direct_linearize",
    "jax_use_shardy_partitioner",
)
# Variables of compilers and libraries that do the same.
_VARIABLES = (
    "CUBLAS_WORKSPACE_CONFIG",
    "LIBTPU_INIT_ARGS",
    "NVIDIA_TF32_OVERRIDE",
    "TF_CUDNN_DETERMINISTIC",
    "TF_CUDNN_USE_AUTOTUNE",
    "XLA_FLAGS",
)
# Flags of XLA that change no number: what is written for debugging, where CUDA is, and the number
# of devices, which `devices` tells. A flag that is missing here counts as one that does.
_HARMLESS_FLAGS = (
    "--xla_dump_",
    "--xla_force_host_platform_device_count",
    "--xla_gpu_cuda_data_dir",
    "--xla_gpu_dump_",
    "--xla_hlo_profile",
)


def environment() -> dict[str, Any]:
    """The environment of this process; a run that resumes compares it with its checkpoint's.

    Features of frozen groups are kept under it, too: see `tljax.frozen.cache`.
    """
    return {
        "versions": versions(),
        "code": code_digest(),
        "backend": jax.default_backend(),
        "devices": [str(device.device_kind) for device in jax.devices()],
        "host": describe_processor() if jax.default_backend() == "cpu" else None,
        "settings": settings(),
    }


def settings() -> dict[str, Any]:
    """Settings of JAX, XLA and the libraries beneath that change numbers, JSON: {name: value}.

    A variable that is not set, or sets nothing that changes a number, is left out. The order of
    XLA's flags does not count; of a flag that is given twice, the last value does.
    """
    found = {name: getattr(jax.config, name, None) for name in _JAX_SETTINGS}
    found = {
        name: value if isinstance(value, bool | int | float | None) else str(value)
        for name, value in found.items()
    }
    for name in _VARIABLES:
        value = os.environ.get(name, "").strip()
        if name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS"):
            value = _flags(value)
        if value:
            found[name] = value
    return found


def _flags(text: str) -> str:
    """The flags in a variable that may change numbers, sorted."""
    if text and not text.startswith("-"):  # the file that holds them
        try:
            text = Path(text).read_text()
        except (OSError, ValueError):
            return text
    try:
        words = shlex.split(text)
    except ValueError:  # a quotation mark without its partner
        words = text.split()
    values = {word.partition("=")[0]: word for word in words}
    kept = [word for name, word in values.items() if not name.startswith(_HARMLESS_FLAGS)]
    return " ".join(sorted(kept))


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
