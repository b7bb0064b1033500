"""Pre-activation residual networks (He et al. 2016, "Identity Mappings in Deep Residual Networks").

Two kinds have well-known checkpoints. Big Transfer (Kolesnikov et al. 2020, section 3.2) has
GroupNorm (Wu & He 2018) and weight standardisation (Qiao et al. 2019), with the arithmetic of
timm's `resnetv2`. Keras Applications' V2 has BatchNorm, and strides at the end of a stage. Paddings
are explicit, as in `resnet.py`.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from tljax.models.arithmetic import convolve, max_pool
from tljax.models.batch_norm import BatchNorm
from tljax.models.groups import Groups, Modes, depth_range, per_group
from tljax.models.stochastic_depth import StochasticDepth, linear_rates

_STANDARDISATION_EPS = 1e-8  # timm's; Google's own code has 1e-10


def standardise(kernel: jax.Array) -> jax.Array:
    """Weight standardisation: a kernel (h, w, in, out) with mean 0 and variance 1 per output."""
    centred = kernel - kernel.mean(axis=(0, 1, 2), keepdims=True)
    variance = jnp.square(centred).mean(axis=(0, 1, 2), keepdims=True)
    return centred * jax.lax.rsqrt(variance + _STANDARDISATION_EPS)


class Conv(nn.Module):
    """Convolution with explicit symmetric padding; its kernel may be standardised first."""

    features: int
    kernel: int
    stride: int = 1
    bias: bool = False
    standardised: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        if self.standardised:
            kernel = standardise(kernel)
        padding = self.kernel // 2
        x = convolve(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            strides=(self.stride, self.stride),
            padding=((padding, padding), (padding, padding)),
        )
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            x += bias.astype(self.dtype)
        return x


class Stem(nn.Module):
    """7x7 convolution and 3x3 max-pool, of stride 2 each; (n, h, w, c) to (n, h / 4, w / 4, width).

    Values before the pool may be negative, so that zero padding is part of the arithmetic.
    """

    width: int
    conv_layer: Callable[..., Conv]

    @nn.compact
    def __call__(self, x: jax.Array, bias: bool) -> jax.Array:
        x = self.conv_layer(self.width, 7, 2, bias, name="conv")(x)
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return max_pool(x)


class Block(nn.Module):
    """Pre-activation bottleneck (1x1, 3x3, 1x1 to four times the width), residual.

    Input (n, h, w, c), output (n, h / stride, w / stride, 4 * width). The shortcut is a projection
    of the first norm's output, or else the input itself, subsampled if the block has a stride.

    Attributes:
      projects: whether the shortcut is a projection, as in the first block of a stage.
      bias: whether convolutions that no norm follows within the block have biases.
      conv_layer, norm_layer: constructors of the layers.
    """

    width: int
    stride: int
    projects: bool
    bias: bool
    drop_path: float
    conv_layer: Callable[..., Conv]
    norm_layer: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = nn.relu(self.norm_layer(name="norm1")(x))
        if self.projects:
            x = self.conv_layer(4 * self.width, 1, self.stride, self.bias, name="downsample")(y)
        else:
            x = x[:, :: self.stride, :: self.stride]
        y = self.conv_layer(self.width, 1, name="conv1")(y)
        y = nn.relu(self.norm_layer(name="norm2")(y))
        y = self.conv_layer(self.width, 3, self.stride, name="conv2")(y)
        y = nn.relu(self.norm_layer(name="norm3")(y))
        y = self.conv_layer(4 * self.width, 1, 1, self.bias, name="conv3")(y)
        return x + StochasticDepth(self.drop_path)(y, train)


class PreActivation(nn.Module):
    """The first norm and ReLU of a block, with the same parameter names."""

    norm_layer: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.relu(self.norm_layer(name="norm1")(x))


class ResNetV2(nn.Module):
    """Stem, pre-activation bottleneck blocks, linear head; one group each.

    The final norm and the pooling belong to the last block's group: the head's input is (n, d).

    Attributes:
      stage_sizes: blocks in each stage of the whole network.
      widths: width of each stage; its blocks' outputs have four times as many channels.
      num_classes: size of the head; 0: no head, the output is the pooled features.
      normalisation: `group` (GroupNorm of 32 groups) or `batch` (BatchNorm).
      norm_eps: added to the norms' variances.
      standardised: whether the convolutions' kernels are standardised.
      conv_bias: whether convolutions that no norm follows have biases: the stem's, the shortcuts'
        and the last of each block.
      strides_last: whether stages stride in their last block (except the last stage) instead of in
        their first (except the first stage).
      last_block: number of blocks that a truncated network keeps; None: all.
      drop_path: stochastic depth rate of the last block, growing linearly from 0 at the first.
      remat: whether blocks are rematerialised: only their inputs are stored, and their inside is
        computed again for the gradient. Saves memory on an accelerator (not on a CPU, where XLA
        orders operations differently), and takes a third more time.
      dtype: of the computation; parameters and statistics stay float32.
    """

    stage_sizes: tuple[int, ...]
    widths: tuple[int, ...]
    num_classes: int
    normalisation: Literal["group", "batch"] = "group"
    norm_eps: float = 1e-5
    standardised: bool = True
    conv_bias: bool = False
    strides_last: bool = False
    last_block: int | None = None
    drop_path: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32

    @property
    def groups(self) -> Groups:
        names = [name for name, *_ in self._blocks()[: self.last_block]]
        last = (names[-1], f"({names[-1]}|{self._following() or 'norm'})/")
        blocks = (*((name, f"{name}/") for name in names[:-1]), last)
        return Groups((("stem", "stem/"), *blocks, ("head", "head/")))

    def truncated(self, last_block: int) -> "ResNetV2":
        """The network whose last block is number `last_block`, from 1.

        The output of a block is not normalised, so the network keeps the next block's first norm.
        """
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
        """Runs the groups `start` to `stop - 1`.

        Args:
          images: normalised images (n, h, w, 3) float32, or the output of group `start - 1`.
          train: one bool, or one per group: whether stochastic depth is active there.
          start: first group to run.
          stop: group to stop before; None: run to the logits. Stopping before the head gives the
            head's input: average-pooled features (n, d).
          batch_statistics: like `train`: whether BatchNorm normalises with the statistics of the
            batch, and updates the stored ones, or with the stored ones; None: as `train`. GroupNorm
            ignores it.

        Returns:
          Logits (n, num_classes) float32, or the output of group `stop - 1`.
        """
        groups = self.groups
        use_batch = per_group(train if batch_statistics is None else batch_statistics, len(groups))
        training = per_group(train, len(groups))
        rates = linear_rates(self.drop_path, len(groups) - 2)
        conv = functools.partial(Conv, standardised=self.standardised, dtype=self.dtype)
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        x = images
        for depth in depth_range(start, stop, len(groups)):
            if depth == 0:
                x = Stem(self.widths[0], conv, name="stem")(x, self.conv_bias)
            elif depth < len(groups) - 1:
                name, width, stride, projects = self._blocks()[depth - 1]
                norm = self._norm(use_batch[depth])
                x = block(
                    width,
                    stride,
                    projects,
                    self.conv_bias,
                    rates[depth - 1],
                    conv,
                    norm,
                    name=name,
                )(x, training[depth])
                if depth == len(groups) - 2:
                    following = self._following()
                    if following is None:
                        x = nn.relu(norm(name="norm")(x))
                    else:
                        x = PreActivation(norm, name=following)(x)
                    x = x.mean(axis=(1, 2), dtype=jnp.float32)
            elif self.num_classes:
                x = nn.Dense(self.num_classes, name="head")(x)
        return x

    def _norm(self, batch_statistics: bool) -> Callable[..., nn.Module]:
        if self.normalisation == "batch":
            return functools.partial(
                BatchNorm,
                use_running_average=not batch_statistics,
                momentum=0.9,
                epsilon=self.norm_eps,
                dtype=self.dtype,
            )
        return functools.partial(
            nn.GroupNorm,
            num_groups=32,
            epsilon=self.norm_eps,
            use_fast_variance=False,  # block outputs are far from 0, where E[x^2] - E[x]^2 cancels
            dtype=self.dtype,
        )

    def _blocks(self) -> list[tuple[str, int, int, bool]]:
        """(name, width, stride, whether it projects) of each block of the whole network."""
        last_stage = len(self.stage_sizes) - 1

        def strides(s: int, b: int) -> bool:
            if self.strides_last:
                return s < last_stage and b == self.stage_sizes[s] - 1
            return s > 0 and b == 0

        return [
            (f"layer{s + 1}_{b}", self.widths[s], 2 if strides(s, b) else 1, b == 0)
            for s, size in enumerate(self.stage_sizes)
            for b in range(size)
        ]

    def _following(self) -> str | None:
        """Name of the block after `last_block` in the whole network; None if not truncated."""
        return None if self.last_block is None else self._blocks()[self.last_block][0]
