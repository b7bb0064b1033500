"""EfficientNet V2 and Lite, MobileNet V3 and V4: networks of depthwise convolutions for devices.

Tan & Le 2021, "EfficientNetV2"; Howard et al. 2019, "Searching for MobileNetV3"; Qin et al. 2024,
"MobileNetV4"; all with timm's arithmetic and its names of the layers within a block.
"""

import functools
import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from tljax.models.arithmetic import convolve, depthwise, strided_depthwise
from tljax.models.batch_norm import BatchNorm
from tljax.models.groups import Groups, Modes, depth_range, per_group
from tljax.models.stochastic_depth import StochasticDepth, linear_rates

Kind = Literal["conv", "fused", "separable", "inverted", "universal"]
Head = Literal["conv", "pooled_conv", "pooled_conv_norm"]

Activation = Literal["relu", "relu6", "silu", "hard_swish", "sigmoid", "hard_sigmoid"]
_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "relu6": nn.relu6,
    "silu": nn.silu,
    "hard_swish": nn.hard_swish,
    "sigmoid": nn.sigmoid,
    "hard_sigmoid": nn.hard_sigmoid,
}
_KINDS: dict[str, Kind] = {
    "cn": "conv",
    "er": "fused",
    "ds": "separable",
    "ir": "inverted",
    "uir": "universal",
}
_LETTERS = {"R": "relu", "6": "relu6", "S": "silu", "H": "hard_swish"}
_BLOCK = re.compile(
    r"(?P<kind>[a-z]+)(?P<start>\d)?k?(?P<kernel>\d)/(?P<stride>\d) (?P<hidden>\d*)>(?P<width>\d+)"
    r"(:(?P<squeezed>\d+))? (?P<letter>[R6SH])( x(?P<times>\d+))?"
)
_he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class BlockSpec(NamedTuple):
    """One block.

    Attributes:
      kind: `conv`: one convolution. `fused`: one that widens, and a 1x1 one that narrows.
        `separable`: a depthwise and a 1x1 one. `inverted`: a 1x1 one that widens, a depthwise and
        a 1x1 one that narrows. `universal`: the same, with a further depthwise one before.
      kernel: of the largest convolution; 0: a universal block has no depthwise one in the middle.
      stride: of the block.
      hidden: channels in the middle.
      width: channels of the output.
      squeezed: channels of squeeze-and-excitation; 0: none.
      activation: a key of `_ACTIVATIONS`.
      start: kernel of the depthwise convolution before a universal block; 0: none.
    """

    kind: Kind
    kernel: int
    stride: int
    hidden: int
    width: int
    squeezed: int
    activation: str
    start: int = 0


def parse_stages(text: str) -> tuple[tuple[BlockSpec, ...], ...]:
    """Blocks by stage from a notation in which stages are lines and blocks have commas between.

        parse_stages("ds3/2 >16:8 R | ir3/2 72>24 R, ir3/1 88>24 R x2")

    `ir5/2 96>40:24 H x3` is three inverted blocks of kernel 5 and 96 hidden channels to 40, the
    first of stride 2, with 24 channels squeezed and a hard swish; `uir3k5/1` starts with a
    depthwise convolution of kernel 3.
    """
    return tuple(
        tuple(block for part in stage.split(",") for block in _blocks(part.strip()))
        for stage in text.split("|")
    )


def _blocks(text: str) -> list[BlockSpec]:
    found = _BLOCK.fullmatch(text)
    if found is None:
        raise ValueError(f"'{text}' is no block")
    start, kernel = int(found["start"] or 0), int(found["kernel"])
    squeezed, times = int(found["squeezed"] or 0), int(found["times"] or 1)
    hidden, width = int(found["hidden"] or 0), int(found["width"])
    one = BlockSpec(
        _KINDS[found["kind"]],
        kernel,
        int(found["stride"]),
        hidden,
        width,
        squeezed,
        _LETTERS[found["letter"]],
        start,
    )
    return [one, *[one._replace(stride=1)] * (times - 1)]


class Conv(nn.Module):
    """A convolution, of all channels or of each by itself, padded as PyTorch or as TensorFlow does.

    Attributes:
      same: whether padding is TensorFlow's `SAME`, which pads more behind than before.
    """

    features: int
    kernel: int
    stride: int = 1
    bias: bool = False
    depthwise: bool = False
    same: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = 1 if self.depthwise else x.shape[-1]
        shape = (self.kernel, self.kernel, channels, self.features)
        kernel = self.param("kernel", _he_normal, shape).astype(self.dtype)
        height, width = (self._padding(side) for side in x.shape[1:3])
        x = x.astype(self.dtype)
        if not self.depthwise:
            x = convolve(x, kernel, (self.stride, self.stride), (height, width))
        elif self.stride == 1:
            x = depthwise(x, kernel)
        else:
            x = strided_depthwise(x, kernel, self.stride, (height, width))
        if self.bias:
            x += self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        return x

    def _padding(self, side: int) -> tuple[int, int]:
        if not self.same:
            return (self.kernel // 2,) * 2
        total = max((-(-side // self.stride) - 1) * self.stride + self.kernel - side, 0)
        return total // 2, total - total // 2


NormLayer = Callable[[str, bool], BatchNorm]  # of a name, and whether to use the batch


class Stem(nn.Module):
    """A 3x3 convolution and a norm; (n, h, w, c) to (n, h / stride, w / stride, width)."""

    width: int
    stride: int
    conv: Callable[..., Conv]
    norm_layer: NormLayer

    @nn.compact
    def __call__(self, x: jax.Array, batch_statistics: bool) -> jax.Array:
        x = self.conv(self.width, 3, self.stride, name="conv")(x)
        return self.norm_layer("bn", batch_statistics)(x)


class SqueezeExcite(nn.Module):
    """Scales channels by what two dense layers make of their means (Hu et al. 2018)."""

    squeezed: int
    activation: str
    gate: str
    conv: Callable[..., Conv]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = x.mean(axis=(1, 2), keepdims=True)
        y = self.conv(self.squeezed, 1, bias=True, name="conv_reduce")(y)
        y = self.conv(x.shape[-1], 1, bias=True, name="conv_expand")(
            _ACTIVATIONS[self.activation](y)
        )
        return x * _ACTIVATIONS[self.gate](y)


class Block(nn.Module):
    """One block of any kind, residual where input and output have the same shape.

    Attributes:
      spec: which.
      squeeze: activation and gate of squeeze-and-excitation.
      conv_skips: whether blocks of one convolution are residual, too.
      conv, norm_layer: constructors of the layers.
    """

    spec: BlockSpec
    squeeze: tuple[str, str]
    conv_skips: bool
    drop_path: float
    conv: Callable[..., Conv]
    norm_layer: NormLayer

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, batch_statistics: bool) -> jax.Array:
        spec, y = self.spec, x
        act = _ACTIVATIONS[spec.activation]

        def norm(name: str, x: jax.Array) -> jax.Array:
            return self.norm_layer(name, batch_statistics)(x)

        def point(features: int, name: str, x: jax.Array) -> jax.Array:
            return self.conv(features, 1, name=name)(x)

        def each(kernel: int, stride: int, name: str, x: jax.Array) -> jax.Array:
            return self.conv(x.shape[-1], kernel, stride, depthwise=True, name=name)(x)

        def squeeze(x: jax.Array) -> jax.Array:
            if not spec.squeezed:
                return x
            return SqueezeExcite(spec.squeezed, *self.squeeze, self.conv, name="se")(x)

        if spec.kind == "conv":
            y = self.conv(spec.width, spec.kernel, spec.stride, name="conv")(y)
            y = act(norm("bn1", y))
        elif spec.kind == "fused":
            y = self.conv(spec.hidden, spec.kernel, spec.stride, name="conv_exp")(y)
            y = squeeze(act(norm("bn1", y)))
            y = norm("bn2", point(spec.width, "conv_pwl", y))
        elif spec.kind == "separable":
            y = squeeze(act(norm("bn1", each(spec.kernel, spec.stride, "conv_dw", y))))
            y = norm("bn2", point(spec.width, "conv_pw", y))
        elif spec.kind == "inverted":
            y = act(norm("bn1", point(spec.hidden, "conv_pw", y)))
            y = squeeze(act(norm("bn2", each(spec.kernel, spec.stride, "conv_dw", y))))
            y = norm("bn3", point(spec.width, "conv_pwl", y))
        else:
            if spec.start:
                stride = 1 if spec.kernel else spec.stride
                y = norm("dw_start_bn", each(spec.start, stride, "dw_start_conv", y))
            y = act(norm("pw_exp_bn", point(spec.hidden, "pw_exp_conv", y)))
            if spec.kernel:
                y = act(norm("dw_mid_bn", each(spec.kernel, spec.stride, "dw_mid_conv", y)))
            y = norm("pw_proj_bn", point(spec.width, "pw_proj_conv", y))
        if x.shape != y.shape or (spec.kind == "conv" and not self.conv_skips):
            return y
        return x + StochasticDepth(self.drop_path)(y, train)


class EfficientNet(nn.Module):
    """Stem, blocks, linear head; one group each.

    The last convolution and the pooling belong to the last block's group: the head's input is
    (n, d).

    Attributes:
      stages: blocks of each stage of the whole network, see `parse_stages`.
      stem_width, stem_stride: of the first convolution, of kernel 3.
      head_width: channels of the last convolution.
      num_classes: size of the head; 0: no head, the output is the pooled features.
      activation: of the first and last convolution.
      head: `conv`: a convolution with a norm, then pooling. `pooled_conv`: pooling, then a dense
        layer, as in MobileNetV3; `pooled_conv_norm`: with a norm, as in V4.
      squeeze: activation and gate of squeeze-and-excitation.
      batch_norm_eps: added to BatchNorm's variances.
      same_padding: whether convolutions are padded as TensorFlow does.
      conv_skips: whether blocks of one convolution are residual.
      last_block: number of blocks that a truncated network keeps; None: all. A truncated network
        pools the output of its last block.
      drop_path: stochastic depth rate of the last block, growing linearly from 0 at the first.
      remat: whether blocks are rematerialised: only their inputs are stored, and their inside is
        computed again for the gradient. Saves memory on an accelerator (not on a CPU, where XLA
        orders operations differently), and takes a third more time.
      dtype: of the computation; parameters and statistics stay float32.
    """

    stages: tuple[tuple[BlockSpec, ...], ...]
    stem_width: int
    head_width: int
    num_classes: int
    stem_stride: int = 2
    activation: Activation = "silu"
    head: Head = "conv"
    squeeze: tuple[str, str] = ("silu", "sigmoid")
    batch_norm_eps: float = 1e-3
    same_padding: bool = False
    conv_skips: bool = False
    last_block: int | None = None
    drop_path: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32

    @property
    def groups(self) -> Groups:
        names = [name for name, _ in self._blocks()[: self.last_block]]
        last = (names[-1], f"({names[-1]}|conv_head|bn2)/")
        blocks = (*((name, f"{name}/") for name in names[:-1]), last)
        return Groups((("stem", "stem/"), *blocks, ("head", "head/")))

    def truncated(self, last_block: int) -> "EfficientNet":
        """The network whose last block is number `last_block`, from 1."""
        whole = last_block == len(self._blocks())
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
        """Runs the groups `start` to `stop - 1`; arguments as `ResNet.__call__` has them."""
        blocks = self._blocks()[: self.last_block]
        use_batch = per_group(
            train if batch_statistics is None else batch_statistics, len(blocks) + 2
        )
        training = per_group(train, len(blocks) + 2)
        rates = linear_rates(self.drop_path, len(blocks))
        conv = functools.partial(Conv, same=self.same_padding, dtype=self.dtype)

        def norm(name: str, batch_statistics: bool) -> BatchNorm:
            return BatchNorm(
                use_running_average=not batch_statistics,
                momentum=0.9,
                epsilon=self.batch_norm_eps,
                dtype=self.dtype,
                name=name,
            )

        block = nn.remat(Block, static_argnums=(2, 3)) if self.remat else Block
        x = images
        for depth in depth_range(start, stop, len(blocks) + 2):
            if depth == 0:
                x = Stem(self.stem_width, self.stem_stride, conv, norm, name="stem")(
                    x, use_batch[depth]
                )
                x = _ACTIVATIONS[self.activation](x)
            elif depth <= len(blocks):
                name, spec = blocks[depth - 1]
                x = block(
                    spec,
                    self.squeeze,
                    self.conv_skips,
                    rates[depth - 1],
                    conv,
                    norm,
                    name=name,
                )(x, training[depth], use_batch[depth])
                if depth == len(blocks):
                    x = self._features(conv, norm, x, use_batch[depth])
            elif self.num_classes:
                x = nn.Dense(self.num_classes, name="head")(x)
        return x

    def _features(
        self, conv: Callable[..., Conv], norm: NormLayer, x: jax.Array, batch: bool
    ) -> jax.Array:
        """(n, h, w, c) to (n, d) float32: the last convolution and the pooling, in either order."""
        act = _ACTIVATIONS[self.activation]

        def pool(x: jax.Array) -> jax.Array:
            return x.mean(axis=(1, 2), keepdims=True, dtype=jnp.float32)

        if self.last_block is None:
            if self.head != "conv":
                x = pool(x)
            x = conv(self.head_width, 1, bias=self.head == "pooled_conv", name="conv_head")(x)
            x = act(x if self.head == "pooled_conv" else norm("bn2", batch)(x))
        return pool(x)[:, 0, 0]

    def _blocks(self) -> list[tuple[str, BlockSpec]]:
        """(name, spec) of each block of the whole network."""
        return [
            (f"stage{s + 1}_{b}", spec)
            for s, stage in enumerate(self.stages)
            for b, spec in enumerate(stage)
        ]
