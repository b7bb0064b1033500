"""What linear probes see of a network: more than its own head does, if it is a transformer.

As in the linear evaluation of DINOv2 (Oquab et al. 2024, appendix): the class tokens of the
last block, or of the last four, each after the final norm, with or without the mean of the last
block's patch tokens beside them.
"""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tljax.models.model import Model
from tljax.models.vit import Block, ViT

_BLOCKS = 4  # whose class tokens a head sees at most


@dataclass(frozen=True)
class Features:
    """What a head sees.

    Attributes:
      blocks: class tokens of so many last blocks, the last one's first.
      average_pool: whether the mean of the last block's patch tokens comes after them.
    """

    blocks: int
    average_pool: bool

    @property
    def are_the_models_own(self) -> bool:
        """Whether the network's own head sees the same."""
        return self == OWN

    def of(self, parts: Any) -> Any:
        """(n, width), from what `parts_of` gives."""
        chosen = [parts[:, : self.blocks], *([parts[:, -1:]] if self.average_pool else [])]
        joined = jnp if isinstance(parts, jax.Array) else np
        return joined.concatenate(chosen, axis=1).reshape(len(parts), -1)


OWN = Features(1, average_pool=False)


def choices(model: Model) -> tuple[Features, ...]:
    """What heads may see of a model; of one that is no ViT with a class token, its own features."""
    if not _has_tokens(model):
        return (OWN,)
    blocks = sorted({1, _most(model)})
    return tuple(Features(number, pool) for number in blocks for pool in (False, True))


def parts_of(model: Model, variables: dict[str, Any], images: jax.Array) -> jax.Array:
    """All that any head sees: (n, parts, d) float32, from normalised images (n, h, w, 3).

    Of a ViT: class tokens of the last blocks, the last one's first, then the patches' mean. Of
    other networks: one part, the pooled features.
    """
    stop = len(model.groups) - 1
    if not isinstance(model, ViT) or not _has_tokens(model):
        own: Any = model.apply(variables, images, train=False, stop=stop)
        return own[:, None]
    # with all tokens of the last block, of which its own head needs the class token alone
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

    tokens = [normalised(back) for back in range(_most(model))]
    mean = tokens[0][:, 1 + model.registers :].mean(axis=1)
    return jnp.stack([*(block[:, 0] for block in tokens), mean], axis=1).astype(jnp.float32)


def _has_tokens(model: Model) -> bool:
    return isinstance(model, ViT) and model.class_token and model.pooling == "token"


def _most(model: Any) -> int:
    return min(_BLOCKS, model.depth)
