"""LoRA: low-rank updates of frozen dense layers (Hu et al. 2022).

    y = x W + b + (alpha / rank) (x A) B        W (c, d), A (c, rank), B (rank, d)

A starts random and B zero, so that adding LoRA does not change what a network computes. A and B are
leaves next to the kernel that they adapt, and belong to its group. The plan decides what trains;
`TRAINED` is the usual regex for its `train`. After training `merge_lora` adds (alpha / rank) A B to
W, which gives a network without LoRA.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from tljax.errors import InputError

A, B = "lora_a", "lora_b"
TARGETS = r".*/(attn/(qkv|proj)|mlp/fc[12])"
TRAINED = rf".*/({A}|{B})|head/.*"


@dataclass(frozen=True)
class LoRA:
    """Which dense layers are adapted, and how.

    Attributes:
      rank: of the updates A B.
      alpha: the update is multiplied by alpha / rank; None: alpha = rank, a factor of 1.
      targets: regex on whole paths of dense layers, e.g. `block3/attn/qkv`.

    Raises:
      InputError: for a rank below 1, an alpha that is not above 0, or a broken regex.
    """

    rank: int
    alpha: float | None = None
    targets: str = TARGETS

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InputError(f"lora_rank is {self.rank}; set it to 1 or more, or unset it")
        if self.alpha is not None and not (math.isfinite(self.alpha) and self.alpha > 0):
            raise InputError(f"lora_alpha is {self.alpha}; set it to a finite number above 0")
        try:
            re.compile(self.targets)
        except re.error as error:
            raise InputError(
                f"lora_targets is '{self.targets}'; set it to a regular expression ({error})"
            ) from None

    @property
    def factor(self) -> float:
        """alpha / rank."""
        return 1.0 if self.alpha is None else self.alpha / self.rank


class Dense(nn.Dense):
    """A dense layer, adapted if its path is one of `lora`'s targets: (..., c) to (..., d).

    A is uniform within +-1 / sqrt(c), as in the authors' code (the paper says Gaussian).
    """

    lora: LoRA | None = None

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        y = super().__call__(inputs)
        lora = self.lora
        if lora is None or not re.fullmatch(lora.targets, "/".join(self.path)):
            return y
        uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        down = self.param(A, uniform, (inputs.shape[-1], lora.rank), self.param_dtype)
        up = self.param(B, nn.initializers.zeros, (lora.rank, self.features), self.param_dtype)
        product: Any = self.dot_general
        hidden = product(inputs.astype(y.dtype), down.astype(y.dtype))
        return y + lora.factor * product(hidden, up.astype(y.dtype))

    def weights(self) -> tuple[jax.Array, jax.Array]:
        """The kernel (c, d), with its update added, and the bias (d,). Call the layer first."""
        params = self.variables["params"]
        kernel = params["kernel"]
        if A in params:
            assert self.lora is not None
            kernel = kernel + self.lora.factor * (params[A] @ params[B])
        return kernel, params["bias"]


def is_leaf(path: str) -> bool:
    """Whether the parameter at a path is the A or B of an update."""
    return path.rsplit("/", 1)[-1] in (A, B)


def fold(lora: LoRA | None, variables: dict[str, Any]) -> dict[str, Any]:
    """Variables {"params": ...} with each adapted kernel as W + (alpha / rank) A B, float32.

    The other leaves stay as they are. Without LoRA, returns `variables`.
    """
    if lora is None:
        return variables
    flat = traverse_util.flatten_dict(variables["params"], sep="/")
    folded = {path: leaf for path, leaf in flat.items() if not is_leaf(path)}
    for layer in (path.rpartition("/")[0] for path in flat if path.endswith(f"/{A}")):
        kernel, down, up = (
            np.asarray(flat[f"{layer}/{name}"], np.float64) for name in ("kernel", A, B)
        )
        folded[f"{layer}/kernel"] = jnp.asarray(kernel + lora.factor * (down @ up), jnp.float32)
    return {**variables, "params": traverse_util.unflatten_dict(folded, sep="/")}


def merge_lora(model: Any, variables: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Merges LoRA's updates into the kernels that they adapt.

        plain_model, plain_variables = tljax.merge_lora(model, variables)
        logits = plain_model.apply(plain_variables, images)  # as `model`'s, up to rounding

    Args:
      model: any model; one without LoRA is returned as it is.
      variables: {"params": ...} of the model.

    Returns:
      The model without LoRA, and its variables.
    """
    lora = getattr(model, "lora", None)
    return model if lora is None else model.clone(lora=None), fold(lora, variables)
