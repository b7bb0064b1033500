"""Features for linear probes: of a ViT, more than its own head uses.

As in the linear evaluation of DINOv2 (Oquab et al. 2024, appendix): the class tokens of the last
block or of the last four, each after the final norm, with or without the mean of the last block's
patch tokens.
"""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tljax.models.model import Model
from tljax.models.vit import Block, ViT

_MOST_BLOCKS = 4  # a probe uses the class tokens of at most so many blocks


@dataclass(frozen=True)
class Features:
    """A choice of features for a probe.

    Attributes:
      blocks: from how many of the last blocks the class token is used; the last block's is first;
        0 is for the mean of the patch tokens alone.
      average_pool: whether the mean of the last block's patch tokens is appended.
    """

    blocks: int
    average_pool: bool

    @property
    def are_the_models_own(self) -> bool:
        """Whether the network's own head uses the same features."""
        return self == OWN

    def select(self, parts: Any) -> Any:
        """These features as one vector per image, (n, width), from the result of `all_parts`."""
        chosen = [parts[:, : self.blocks], *([parts[:, -1:]] if self.average_pool else [])]
        joined = jnp if isinstance(parts, jax.Array) else np
        return joined.concatenate(chosen, axis=1).reshape(len(parts), -1)


OWN = Features(1, average_pool=False)


PATCHES = Features(0, average_pool=True)


def choices(model: Model, *, patches_alone: bool = False) -> tuple[Features, ...]:
    """The choices for a model; only its own features, unless it is a ViT with a class token.

    Args:
      model: the network.
      patches_alone: whether to add the mean of the patch tokens alone, which DINOv2's grid lacks.
    """
    if not _pools_class_token(model):
        return (OWN,)
    blocks = sorted({1, _num_blocks(model)})
    found = tuple(Features(number, pool) for number in blocks for pool in (False, True))
    return (*found, PATCHES) if patches_alone else found


def all_parts(model: Model, variables: dict[str, Any], images: jax.Array) -> jax.Array:
    """The parts of which all choices are composed, from normalised images (n, h, w, 3).

    Returns:
      (n, parts, d) float32. For a ViT with a class token: the class tokens of the last blocks,
      beginning with the last, then the mean of the patch tokens. For other networks: one part, the
      pooled features.
    """
    stop = len(model.groups) - 1
    if not isinstance(model, ViT) or not _pools_class_token(model):
        own: Any = model.apply(variables, images, train=False, stop=stop)
        return own[:, None]
    # pooling="none", since the last block otherwise computes its class token only
    kept: Any = model.clone(remat=False, pooling="none").apply(
        variables,
        images,
        train=False,
        stop=stop,
        capture_intermediates=lambda module, _: isinstance(module, Block),
        mutable=["intermediates"],
    )[1]
    norm = nn.LayerNorm(epsilon=model.layer_norm_eps, dtype=model.dtype)

    def normalised(back: int) -> jax.Array:
        (tokens,) = kept["intermediates"][f"block{model.depth - 1 - back}"]["__call__"]
        normed: Any = norm.apply({"params": variables["params"]["norm"]}, tokens)
        return normed

    tokens = [normalised(back) for back in range(_num_blocks(model))]
    mean = tokens[0][:, 1 + model.registers :].mean(axis=1)
    return jnp.stack([*(block[:, 0] for block in tokens), mean], axis=1).astype(jnp.float32)


def _pools_class_token(model: Model) -> bool:
    return isinstance(model, ViT) and model.class_token and model.pooling == "token"


def _num_blocks(model: Any) -> int:
    """From how many blocks class tokens are taken at most."""
    return min(_MOST_BLOCKS, model.depth)
