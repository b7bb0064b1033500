"""Stochastic depth (Huang et al. 2016, "Deep Networks with Stochastic Depth")."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class StochasticDepth(nn.Module):
    """Drops a residual branch per image with probability `rate`, else divides it by 1 - `rate`.

    Draws from the `dropout` random stream. Input and output: (n, ...).
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if self.rate == 0.0 or not train:
            return x
        keep = 1.0 - self.rate
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        mask = jax.random.bernoulli(self.make_rng("dropout"), keep, shape)
        return jnp.where(mask, x / keep, 0.0).astype(x.dtype)


def linear_rates(rate: float, num_blocks: int) -> tuple[float, ...]:
    """Drop rates that grow linearly from 0 at the first block to `rate` at the last (section 3)."""
    return tuple(rate * i / max(num_blocks - 1, 1) for i in range(num_blocks))
