"""Residual networks (He et al. 2016), with torchvision's arithmetic.

"v1.5": bottleneck blocks stride in their 3x3 convolution. The networks of Keras Applications stride
in the first 1x1 convolution, as the paper's do, and have biases before their BatchNorms. Paddings
are explicit, because `SAME` pads a stride-2 convolution differently from PyTorch's `padding=1`.
PyTorch's BatchNorm momentum of 0.1 is Flax's 0.9.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tljax.models.arithmetic import convolve, max_pool
from tljax.models.batch_norm import BatchNorm
from tljax.models.groups import Groups, Modes, depth_range, per_group
from tljax.models.stochastic_depth import StochasticDepth, linear_rates

_he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class ConvNorm(nn.Module):
    """Convolution with explicit symmetric padding, then BatchNorm."""

    features: int
    kernel: int
    stride: int = 1
    bias: bool = False
    batch_norm_eps: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, batch_statistics: bool) -> jax.Array:
        x = nn.Conv(
            self.features,
            (self.kernel, self.kernel),
            strides=self.stride,
            padding=self.kernel // 2,
            use_bias=self.bias,
            kernel_init=_he_normal,
            dtype=self.dtype,
            conv_general_dilated=convolve,
            name="conv",
        )(x)
        return BatchNorm(
            use_running_average=not batch_statistics,
            momentum=0.9,
            epsilon=self.batch_norm_eps,
            dtype=self.dtype,
            name="bn",
        )(x)


class Block(nn.Module):
    """Basic (two 3x3) or bottleneck (1x1, 3x3, 1x1 to four times the width) residual block.

    Input (n, h, w, c), output (n, h / stride, w / stride, width or 4 * width).

    Attributes:
      conv: constructor of the convolution and norm layers.
    """

    width: int
    stride: int
    bottleneck: bool
    stride_first: bool
    drop_path: float
    conv: Callable[..., ConvNorm]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, batch_statistics: bool) -> jax.Array:
        features = self.width * (4 if self.bottleneck else 1)
        if self.bottleneck:
            strides = (self.stride, 1) if self.stride_first else (1, self.stride)
            y = nn.relu(self.conv(self.width, 1, strides[0], name="conv1")(x, batch_statistics))
            y = nn.relu(self.conv(self.width, 3, strides[1], name="conv2")(y, batch_statistics))
            y = self.conv(features, 1, name="conv3")(y, batch_statistics)
        else:
            y = nn.relu(self.conv(self.width, 3, self.stride, name="conv1")(x, batch_statistics))
            y = self.conv(features, 3, name="conv2")(y, batch_statistics)
        if self.stride != 1 or x.shape[-1] != features:
            x = self.conv(features, 1, self.stride, name="downsample")(x, batch_statistics)
        return nn.relu(x + StochasticDepth(self.drop_path)(y, train))


class ResNet(nn.Module):
    """Stem, residual blocks, linear head; one group each.

    Attributes:
      stage_sizes: blocks in each stage.
      widths: width of each stage.
      bottleneck: bottleneck blocks (ResNet-50 and deeper) or basic ones.
      stem: (kernel, stride) of the first convolution.
      stem_pool: whether a 3x3 max-pool of stride 2 follows it.
      conv_bias: whether the convolutions have biases.
      batch_norm_eps: added to BatchNorm's variances.
      stride_first: whether bottleneck blocks stride in their first convolution, not the second.
      num_classes: size of the head; 0: no head, the output is the pooled features.
      drop_path: stochastic depth rate of the last block, growing linearly from 0 at the first.
      remat: whether blocks are rematerialised: only their inputs are stored, and their inside is
        computed again for the gradient. Saves memory on an accelerator (not on a CPU, where XLA
        orders operations differently), and takes a third more time.
      dtype: of the computation; parameters and statistics stay float32.
    """

    stage_sizes: tuple[int, ...]
    widths: tuple[int, ...]
    bottleneck: bool
    num_classes: int
    stem: tuple[int, int] = (7, 2)
    stem_pool: bool = True
    conv_bias: bool = False
    batch_norm_eps: float = 1e-5
    stride_first: bool = False
    drop_path: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32

    @property
    def groups(self) -> Groups:
        blocks = tuple((name, f"{name}/") for name, *_ in self._blocks())
        return Groups((("stem", "stem/"), *blocks, ("head", "head/")))

    def truncated(self, last_block: int) -> "ResNet":
        """The network whose last block is number `last_block`, from 1."""
        sizes, left = [], last_block
        for size in self.stage_sizes:
            sizes.append(min(size, left))
            left -= sizes[-1]
        kept = tuple(size for size in sizes if size)
        return self.clone(stage_sizes=kept, widths=self.widths[: len(kept)])

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
            batch, and updates the stored ones, or with the stored ones; None: as `train`.

        Returns:
          Logits (n, num_classes) float32, or the output of group `stop - 1`.
        """
        groups = self.groups
        use_batch = per_group(train if batch_statistics is None else batch_statistics, len(groups))
        training = per_group(train, len(groups))
        conv = functools.partial(
            ConvNorm, bias=self.conv_bias, batch_norm_eps=self.batch_norm_eps, dtype=self.dtype
        )
        block = nn.remat(Block, static_argnums=(2, 3)) if self.remat else Block
        x = images
        for depth in depth_range(start, stop, len(groups)):
            if depth == 0:
                kernel, stride = self.stem
                x = nn.relu(conv(self.widths[0], kernel, stride, name="stem")(x, use_batch[depth]))
                if self.stem_pool:
                    x = max_pool(
                        jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
                    )  # zeros do: after the ReLU no value is negative
            elif depth < len(groups) - 1:
                name, width, block_stride, drop_path = self._blocks()[depth - 1]
                x = block(
                    width,
                    block_stride,
                    self.bottleneck,
                    self.stride_first,
                    drop_path,
                    conv,
                    name=name,
                )(x, training[depth], use_batch[depth])
                if depth == len(groups) - 2:  # so that the head's input is (n, d)
                    x = x.mean(axis=(1, 2), dtype=jnp.float32)
            elif self.num_classes:
                x = nn.Dense(self.num_classes, name="head")(x)
        return x

    def _blocks(self) -> list[tuple[str, int, int, float]]:
        """(name, width, stride, drop path rate) of each block."""
        rates = iter(linear_rates(self.drop_path, sum(self.stage_sizes)))
        return [
            (f"layer{s + 1}_{b}", self.widths[s], 2 if s > 0 and b == 0 else 1, next(rates))
            for s, size in enumerate(self.stage_sizes)
            for b in range(size)
        ]
