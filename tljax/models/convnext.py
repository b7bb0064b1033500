"""ConvNeXt (Liu et al. 2022, "A ConvNet for the 2020s") and V2 (Woo et al. 2023), with timm's
arithmetic: GELU from erf, LayerNorms over channels, the final one after the pooling.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tljax.models.arithmetic import convolve, depthwise, gelu, product
from tljax.models.groups import Groups, Modes, depth_range, per_group
from tljax.models.stochastic_depth import StochasticDepth, linear_rates

_EPS = 1e-6  # of all norms
_KERNEL = 7

_small_normal = nn.initializers.truncated_normal(0.02)


class Depthwise(nn.Module):
    """A 7x7 convolution of each channel by itself; (n, h, w, d) to the same."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        d = x.shape[-1]
        kernel = self.param("kernel", _small_normal, (_KERNEL, _KERNEL, 1, d))
        bias = self.param("bias", nn.initializers.zeros, (d,))
        x = depthwise(x.astype(self.dtype), kernel.astype(self.dtype))
        return x + bias.astype(self.dtype)


class ResponseNorm(nn.Module):
    """Global response normalisation (Woo et al. 2023, section 3): channels compete.

    Each is scaled by its norm over places, relative to the mean of all channels' norms; the input
    is added. Over (n, h, w, d).
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        d = x.shape[-1]
        scale = self.param("scale", nn.initializers.zeros, (d,)).astype(x.dtype)
        bias = self.param("bias", nn.initializers.zeros, (d,)).astype(x.dtype)
        squares = jnp.square(x.astype(jnp.float32)).sum(axis=(1, 2), keepdims=True)
        # The gradient of a root is infinite at 0, where a channel is 0 everywhere.
        length = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 0.0)
        relative = length / (length.mean(axis=-1, keepdims=True) + _EPS)
        return x + scale * (x * relative.astype(x.dtype)) + bias


class Block(nn.Module):
    """7x7 depthwise convolution, LayerNorm and an MLP over channels, residual; (n, h, w, d).

    Attributes:
      width: d of the output.
      downsamples: whether a LayerNorm and a 2x2 convolution of stride 2 come first, which halve h
        and w and may change the width.
      layer_scale: initial value of the branch's scale for each channel; None: none.
      response_norm: whether the MLP's hidden layer has a `ResponseNorm`.
      drop_path: rate of stochastic depth.
    """

    width: int
    downsamples: bool
    layer_scale: float | None
    response_norm: bool
    drop_path: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if self.downsamples:
            x = _norm("downsample_norm", self.dtype)(x)
            x = _patches(self.width, 2, "downsample", self.dtype)(x)
        y = Depthwise(self.dtype, name="depthwise")(x)
        y = _norm("norm", self.dtype)(y)
        y = gelu(self._dense(4 * self.width, "fc1")(y))
        if self.response_norm:
            y = ResponseNorm(name="grn")(y)
        y = self._dense(self.width, "fc2")(y)
        if self.layer_scale is not None:
            initial = nn.initializers.constant(self.layer_scale)
            y *= self.param("gamma", initial, (self.width,)).astype(y.dtype)
        return x + StochasticDepth(self.drop_path)(y, train)

    def _dense(self, features: int, name: str) -> nn.Dense:
        return nn.Dense(
            features,
            kernel_init=_small_normal,
            dtype=self.dtype,
            dot_general=product,
            name=name,
        )


class Stem(nn.Module):
    """Patches and a LayerNorm; (n, h, w, c) to (n, h / patch, w / patch, width)."""

    width: int
    patch: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = _patches(self.width, self.patch, "conv", self.dtype)(x)
        return _norm("norm", self.dtype)(x)


def _norm(name: str, dtype: Any) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=_EPS, dtype=dtype, name=name)


def _patches(width: int, size: int, name: str, dtype: Any) -> nn.Conv:
    """A convolution whose windows share no pixel; pixels that fill no window are left out."""
    return nn.Conv(
        width,
        (size, size),
        strides=size,
        padding=0,
        kernel_init=_small_normal,
        dtype=dtype,
        conv_general_dilated=convolve,
        name=name,
    )


class ConvNeXt(nn.Module):
    """Stem, blocks, linear head; one group each.

    Where a stage begins, its first block's group also holds the layers that halve the image. The
    pooling and the final norm belong to the last block's group: the head's input is (n, d).

    Attributes:
      stage_sizes: blocks in each stage of the whole network.
      widths: channels of each stage.
      num_classes: size of the head; 0: no head, the output is the pooled features.
      patch: side of the stem's patches, in pixels.
      layer_scale: initial value of each block's scale; None: none, as in V2.
      response_norm: whether blocks have global response normalisation, as in V2.
      last_block: number of blocks that a truncated network keeps; None: all. A truncated network's
        final norm has no parameters, as the whole network's are for another width.
      drop_path: stochastic depth rate of the last block, growing linearly from 0 at the first.
      remat: whether blocks are rematerialised: only their inputs are stored, and their inside is
        computed again for the gradient. Saves memory on an accelerator (not on a CPU, where XLA
        orders operations differently), and takes a third more time.
      dtype: of the computation; parameters stay float32.
    """

    stage_sizes: tuple[int, ...]
    widths: tuple[int, ...]
    num_classes: int
    patch: int = 4
    layer_scale: float | None = 1e-6
    response_norm: bool = False
    last_block: int | None = None
    drop_path: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32

    @property
    def groups(self) -> Groups:
        names = [name for name, *_ in self._blocks()[: self.last_block]]
        last = (names[-1], f"({names[-1]}|norm)/")
        blocks = (*((name, f"{name}/") for name in names[:-1]), last)
        return Groups((("stem", "stem/"), *blocks, ("head", "head/")))

    def truncated(self, last_block: int) -> "ConvNeXt":
        """The network whose last block is number `last_block`, from 1."""
        whole = last_block == sum(self.stage_sizes)
        return self.clone(last_block=None if whole else last_block)

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        train: Modes = False,
        start: int = 0,
        stop: int | None = None,
        batch_statistics: Modes | None = None,
    ) -> jax.Array:
        """Runs the groups `start` to `stop - 1`; arguments as `ResNet.__call__` has them.

        `batch_statistics` is ignored, since there is no BatchNorm.
        """
        del batch_statistics
        blocks = self._blocks()[: self.last_block]
        training = per_group(train, len(blocks) + 2)
        rates = linear_rates(self.drop_path, len(blocks))
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        x = images
        for depth in depth_range(start, stop, len(blocks) + 2):
            if depth == 0:
                x = Stem(self.widths[0], self.patch, self.dtype, name="stem")(x)
            elif depth <= len(blocks):
                name, width, downsamples = blocks[depth - 1]
                x = block(
                    width,
                    downsamples,
                    self.layer_scale,
                    self.response_norm,
                    rates[depth - 1],
                    self.dtype,
                    name=name,
                )(x, training[depth])
                if depth == len(blocks):
                    x = self._pool_and_norm(x)
            elif self.num_classes:
                x = nn.Dense(self.num_classes, name="head")(x)
        return x

    def _pool_and_norm(self, x: jax.Array) -> jax.Array:
        """(n, h, w, d) to (n, d) float32."""
        whole = self.last_block is None
        norm = nn.LayerNorm(epsilon=_EPS, use_scale=whole, use_bias=whole, name="norm")
        return norm(x.mean(axis=(1, 2), dtype=jnp.float32))

    def _blocks(self) -> list[tuple[str, int, bool]]:
        """(name, width, whether it downsamples) of each block of the whole network."""
        return [
            (f"layer{s + 1}_{b}", self.widths[s], s > 0 and b == 0)
            for s, size in enumerate(self.stage_sizes)
            for b in range(size)
        ]
