"""Vision Transformers (Dosovitskiy et al. 2021), with timm's arithmetic.

Pre-norm blocks, GELU from erf (Flax defaults to the tanh approximation), and what families of
checkpoints add: LayerScale (Touvron et al. 2021, "Going deeper with Image Transformers"), rotary
positions and gated MLPs (DINOv3; Simeoni et al. 2025), a norm after the embedding and the quick
GELU (CLIP; Radford et al. 2021), pooling by attention (SigLIP; Zhai et al. 2023).
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tljax.models.arithmetic import attend, attend_one_query, convolve, gelu, product
from tljax.models.groups import Groups, Modes, depth_range, per_group
from tljax.models.lora import Dense, LoRA
from tljax.models.stochastic_depth import StochasticDepth, linear_rates

Pooling = Literal["token", "mean", "attention", "none"]
QkvBias = Literal["all", "query_value", "none"]
Activation = Literal["gelu", "gelu_tanh", "quick_gelu"]
_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": gelu,
    "gelu_tanh": nn.gelu,
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
}

_small_normal = nn.initializers.truncated_normal(0.02)
_xavier = nn.initializers.xavier_uniform()


class Rotary(NamedTuple):
    """Rotary positions of the patches (Su et al. 2021; of two axes as in DINOv3).

    Attributes:
      temperature: the longest period, in units of half an image's side.
      grid: rows and columns of the patches.
    """

    temperature: float
    grid: tuple[int, int]


def rotate(x: jax.Array, rotary: Rotary) -> jax.Array:
    """Turns pairs of a query's or key's numbers by angles that tell where its patch lies.

    Half of the pairs tell the row and half the column, from -1 to 1 whatever the image's size.

    Args:
      x: (n, t, heads, size); the last rows * columns tokens are patches, the others stay.
    """
    rows, columns = rotary.grid
    others, size = x.shape[1] - rows * columns, x.shape[-1]
    periods = rotary.temperature ** (np.arange(size // 4) / (size // 4))
    row, column = ((np.arange(side) + 0.5) / side * 2 - 1 for side in (rows, columns))
    places = np.stack(np.meshgrid(row, column, indexing="ij"), axis=-1).reshape(-1, 2, 1)
    angles = (2 * np.pi * places / periods).reshape(rows * columns, 1, size // 2)
    cos, sin = (jnp.asarray(np.tile(f(angles), 2), jnp.float32) for f in (np.cos, np.sin))
    patches = x[:, others:].astype(jnp.float32)
    a, b = jnp.split(patches, 2, axis=-1)
    turned = patches * cos + jnp.concatenate([-b, a], axis=-1) * sin
    return jnp.concatenate([x[:, :others], turned.astype(x.dtype)], axis=1)


class Attention(nn.Module):
    """Multi-head self-attention over tokens (n, t, d), for all queries or the first one alone."""

    heads: int
    dropout: float
    dtype: Any
    lora: LoRA | None = None
    first_only: bool = False
    qkv_bias: QkvBias = "all"
    rotary: Rotary | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        n, t, d = x.shape
        heads = self.heads, d // self.heads
        qkv = _dense(self, 3 * d, "qkv", self.qkv_bias == "all")
        if self.first_only and self.qkv_bias == "all" and self.rotary is None:
            query = qkv(x[:, :1]).reshape(n, 3, *heads)[:, 0]
            kernel, bias = (leaf.astype(query.dtype) for leaf in qkv.weights())
            _, keys, values = kernel.reshape(d, 3, *heads).swapaxes(0, 1)
            x = attend_one_query(query, x, keys, values) + bias.reshape(3, *heads)[2]
        else:
            x = attend(self._positioned(qkv(x).reshape(n, t, 3, *heads)))
            x = x[:, : 1 if self.first_only else None]
        x = x.reshape(n, -1, d)
        x = _dense(self, d, "proj")(x)
        return nn.Dropout(self.dropout, deterministic=not train)(x)

    def _positioned(self, qkv: jax.Array) -> jax.Array:
        """(n, t, 3, heads, size): with biases of queries and values alone, and rotated."""
        heads = qkv.shape[-2:]
        if self.qkv_bias == "query_value":
            names = ("q_bias", "v_bias")
            query, value = (self.param(name, nn.initializers.zeros, heads) for name in names)
            qkv += jnp.stack([query, jnp.zeros_like(query), value]).astype(qkv.dtype)
        if self.rotary is not None:
            query, key = (rotate(qkv[:, :, i], self.rotary) for i in (0, 1))
            qkv = jnp.stack([query, key, qkv[:, :, 2]], axis=2)
        return qkv


class Mlp(nn.Module):
    """Two dense layers with an activation between them, over tokens (n, t, d).

    A gated one (Shazeer 2020, "GLU Variants Improve Transformer", SwiGLU) multiplies the hidden
    layer by a second one after a SiLU instead.
    """

    hidden: int
    dropout: float
    dtype: Any
    lora: LoRA | None = None
    activation: Activation = "gelu"
    gated: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        d = x.shape[-1]
        y = _dense(self, self.hidden, "fc1")(x)
        if self.gated:
            y *= nn.silu(_dense(self, self.hidden, "gate")(x))
        else:
            y = _ACTIVATIONS[self.activation](y)
        x = nn.Dropout(self.dropout, deterministic=not train)(y)
        x = _dense(self, d, "fc2")(x)
        return nn.Dropout(self.dropout, deterministic=not train)(x)


def _dense(parent: Attention | Mlp, features: int, name: str, bias: bool = True) -> Dense:
    """A dense layer within `parent`."""
    return Dense(
        features,
        use_bias=bias,
        kernel_init=_xavier,
        dtype=parent.dtype,
        dot_general=product,
        lora=parent.lora,
        name=name,
    )


class LayerScale(nn.Module):
    """Per-channel scale of a residual branch."""

    initial: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        gamma = self.param("gamma", nn.initializers.constant(self.initial), (x.shape[-1],))
        return x * gamma.astype(x.dtype)


class Block(nn.Module):
    """Attention and MLP, each pre-normalised and residual, over tokens (n, t, d).

    All tokens are attended to. The output has all tokens, or the first one alone.
    """

    heads: int
    mlp_ratio: float
    layer_scale: float | None
    layer_norm_eps: float
    drop_path: float
    dropout: float
    dtype: Any
    lora: LoRA | None = None
    first_only: bool = False
    qkv_bias: QkvBias = "all"
    rotary: Rotary | None = None
    activation: Activation = "gelu"
    gated: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        def norm(name: str) -> nn.LayerNorm:
            return nn.LayerNorm(epsilon=self.layer_norm_eps, dtype=self.dtype, name=name)

        def residual(branch: jax.Array, scale_name: str) -> jax.Array:
            if self.layer_scale is not None:
                branch = LayerScale(self.layer_scale, name=scale_name)(branch)
            return StochasticDepth(self.drop_path)(branch, train)

        attention = Attention(
            self.heads,
            self.dropout,
            self.dtype,
            self.lora,
            self.first_only,
            self.qkv_bias,
            self.rotary,
            name="attn",
        )
        y = attention(norm("norm1")(x), train)
        x = x[:, : y.shape[1]] + residual(y, "ls1")
        hidden = int(self.mlp_ratio * x.shape[-1])
        mlp = Mlp(
            hidden, self.dropout, self.dtype, self.lora, self.activation, self.gated, name="mlp"
        )
        y = mlp(norm("norm2")(x), train)
        return x + residual(y, "ls2")


# The block's class by (remat, traced once). Tracing one block for all blocks of its kind halves the
# time to trace a step. Blocks that draw random numbers are traced separately, because their numbers
# would change otherwise.
_REMAT = nn.remat(Block, static_argnums=(2,))
_BLOCKS = {
    (False, False): Block,
    (True, False): _REMAT,
    (False, True): nn.jit(Block, static_argnums=(2,)),
    (True, True): nn.jit(_REMAT, static_argnums=(2,)),
}


class Embed(nn.Module):
    """Images (n, h, w, 3) to tokens (n, 1 + registers + h * w / patch^2, dim).

    A class token, registers and the patches, in this order. The learned position embedding is added
    to the class token and the patches; if there are registers, to the patches alone.

    Attributes:
      positions: whether there is a learned position embedding.
      norm_eps: of a norm that comes last, before which patches have no bias; None: there is none.
    """

    dim: int
    patch: int
    class_token: bool
    registers: int
    dropout: float
    dtype: Any
    positions: bool = True
    norm_eps: float | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        x = nn.Conv(
            self.dim,
            (self.patch, self.patch),
            strides=self.patch,
            padding=0,
            use_bias=self.norm_eps is None,
            dtype=self.dtype,
            conv_general_dilated=convolve,
            name="patch",
        )(images)
        x = x.reshape(x.shape[0], -1, self.dim)
        if self.registers:
            x = self._prepend(self.registers, "reg_token", self._positioned(x))
        if self.class_token:
            x = self._prepend(1, "cls_token", x)
        if not self.registers:
            x = self._positioned(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        if self.norm_eps is None:
            return x
        return nn.LayerNorm(epsilon=self.norm_eps, dtype=self.dtype, name="norm")(x)

    def _prepend(self, number: int, name: str, x: jax.Array) -> jax.Array:
        """The tokens x, preceded by `number` learned ones that are the same for all images."""
        tokens = self.param(name, _small_normal, (1, number, self.dim)).astype(x.dtype)
        return jnp.concatenate([jnp.tile(tokens, (x.shape[0], 1, 1)), x], axis=1)

    def _positioned(self, x: jax.Array) -> jax.Array:
        if not self.positions:
            return x
        position = self.param("pos_embed", _small_normal, (1, x.shape[1], self.dim))
        return x + position.astype(x.dtype)


class AttentionPooling(nn.Module):
    """Pools tokens (n, t, d) to (n, d): a learned query attends to them, then a residual MLP.

    Lee et al. 2019, "Set Transformer", section 3.2, as in big_vision's `MAPHead`.
    """

    heads: int
    mlp_ratio: float
    norm_eps: float
    activation: Activation
    dtype: Any

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        n, t, d = tokens.shape
        size = d // self.heads
        latent = self.param("latent", _small_normal, (1, 1, d)).astype(self.dtype)
        query = nn.Dense(d, kernel_init=_xavier, dtype=self.dtype, name="q")(latent)
        kv = nn.Dense(2 * d, kernel_init=_xavier, dtype=self.dtype, dot_general=product, name="kv")(
            tokens
        )
        keys, values = kv.reshape(n, t, 2, self.heads, size).transpose(2, 0, 1, 3, 4)
        query = query.reshape(self.heads, size) * size**-0.5
        weights = nn.softmax(jnp.einsum("hs,nths->nht", query, keys))
        x = jnp.einsum("nht,nths->nhs", weights, values)
        x = nn.Dense(d, kernel_init=_xavier, dtype=self.dtype, name="proj")(x.reshape(n, d))
        y = nn.LayerNorm(epsilon=self.norm_eps, dtype=self.dtype, name="norm")(x)
        mlp = Mlp(int(self.mlp_ratio * d), 0.0, self.dtype, None, self.activation, name="mlp")
        return x + mlp(y, False)


class ViT(nn.Module):
    """Embedding, transformer blocks, linear head; one group each.

    The final norm and the pooling belong to the last block's group: the head's input is (n, d). If
    only the class token is pooled, the last block computes no other token, and no keys or values of
    the tokens attended to. This saves nearly all of that block's work, forward and backward.

    Attributes:
      dim, depth, heads, patch: width, number of blocks, attention heads, patch size in pixels.
      num_classes: size of the head; 0: no head, the output is the pooled features.
      pooling: `token`: the normalised class token; `mean`: the norm of the patch tokens' mean;
        `attention`: `AttentionPooling` of all normalised tokens; `none`: all normalised tokens
        (n, t, dim), for a model without a head.
      class_token: whether there is a class token.
      registers: number of additional learned tokens, whose outputs are not used (Darcet et al.
        2024, "Vision Transformers Need Registers").
      layer_scale: initial value of LayerScale; None: no LayerScale.
      drop_path: stochastic depth rate of the last block, growing linearly from 0 at the first.
      dropout: rate after the embedding and after every dense layer of the blocks except qkv.
      remat: whether blocks are rematerialised: only their inputs are stored, and their inside is
        computed again for the gradient. Saves memory on an accelerator (not on a CPU, where XLA
        orders operations differently), and takes a third more time.
      dtype: of the computation; parameters stay float32.
      lora: low-rank updates of the blocks' dense layers, see `tljax.models.lora`; None: none.
      qkv_bias: which of queries, keys and values have a bias.
      rotary: temperature of rotary positions, in place of a learned position embedding; None: none.
      grid: rows and columns of the patches of images that are no squares, which rotary positions
        need; None: they are squares.
      activation: of the blocks' MLPs.
      gated: whether these are gated, with a SiLU.
      pre_norm: whether a norm follows the embedding, whose patches then have no bias.
    """

    dim: int
    depth: int
    heads: int
    patch: int
    num_classes: int
    mlp_ratio: float = 4.0
    pooling: Pooling = "token"
    class_token: bool = True
    registers: int = 0
    layer_scale: float | None = None
    layer_norm_eps: float = 1e-6
    drop_path: float = 0.0
    dropout: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32
    lora: LoRA | None = None
    qkv_bias: QkvBias = "all"
    rotary: float | None = None
    grid: tuple[int, int] | None = None
    activation: Activation = "gelu"
    gated: bool = False
    pre_norm: bool = False

    @property
    def groups(self) -> Groups:
        names = [f"block{i}" for i in range(self.depth)]
        last = (names[-1], f"({names[-1]}|norm|pool)/")
        blocks = (*((name, f"{name}/") for name in names[:-1]), last)
        return Groups((("embed", "embed/"), *blocks, ("head", "head/")))

    def truncated(self, last_block: int) -> "ViT":
        """The network whose last block is number `last_block`, from 1; it keeps the final norm."""
        return self.clone(depth=last_block)

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
          train: one bool, or one per group: whether dropout and stochastic depth are active there.
          start: first group to run.
          stop: group to stop before; None: run to the logits. Stopping before the head gives the
            head's input: pooled features (n, d).
          batch_statistics: ignored, since there is no BatchNorm; for the same signature as ResNet.

        Returns:
          Logits (n, num_classes) float32, or the output of group `stop - 1`.
        """
        del batch_statistics
        num_groups = self.depth + 2
        training = per_group(train, num_groups)
        rates = linear_rates(self.drop_path, self.depth)
        x = images
        for depth in depth_range(start, stop, num_groups):
            if depth == 0:
                x = Embed(
                    self.dim,
                    self.patch,
                    self.class_token,
                    self.registers,
                    self.dropout,
                    self.dtype,
                    self.rotary is None,
                    self.layer_norm_eps if self.pre_norm else None,
                    name="embed",
                )(x, training[depth])
            elif depth <= self.depth:
                rate = rates[depth - 1] if training[depth] else 0.0
                draws = training[depth] and bool(rate or self.dropout)
                block = _BLOCKS[self.remat, not draws and not self.is_initializing()]
                first_only = depth == self.depth and self.pooling == "token"
                x = block(
                    self.heads,
                    self.mlp_ratio,
                    self.layer_scale,
                    self.layer_norm_eps,
                    rate,
                    self.dropout,
                    self.dtype,
                    self.lora,
                    first_only,
                    self.qkv_bias,
                    self._rotary(x.shape[1]),
                    self.activation,
                    self.gated,
                    name=f"block{depth - 1}",
                )(x, training[depth])
                if depth == self.depth:
                    x = self._norm_and_pool(x)
            elif self.num_classes:
                x = nn.Dense(self.num_classes, name="head")(x)
        return x

    def _rotary(self, tokens: int) -> Rotary | None:
        if self.rotary is None:
            return None
        patches = tokens - int(self.class_token) - self.registers
        side = round(patches**0.5)
        rows, columns = self.grid or (side, side)
        if rows * columns != patches:
            raise ValueError(
                f"there are {patches} patches, but the field grid is {self.grid}; set it to their"
                " rows and columns"
            )
        return Rotary(self.rotary, (rows, columns))

    def _norm_and_pool(self, tokens: jax.Array) -> jax.Array:
        """(n, t, d) to (n, d) float32. The norm of one token does not depend on the others."""
        if self.pooling in ("none", "attention"):
            pooled = tokens
        elif self.pooling == "token":
            pooled = tokens[:, 0]
        else:
            pooled = tokens[:, int(self.class_token) + self.registers :].mean(axis=1)
        x = nn.LayerNorm(epsilon=self.layer_norm_eps, dtype=self.dtype, name="norm")(pooled)
        if self.pooling == "attention":
            x = AttentionPooling(
                self.heads,
                self.mlp_ratio,
                self.layer_norm_eps,
                self.activation,
                self.dtype,
                name="pool",
            )(x)
        return x.astype(jnp.float32)
