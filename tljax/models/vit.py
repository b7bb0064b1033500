"""Vision Transformers (Dosovitskiy et al. 2021), with timm's arithmetic.

Pre-norm blocks, GELU from erf (Flax defaults to the tanh approximation), and LayerScale (Touvron et
al. 2021, "Going deeper with Image Transformers") where the checkpoint has it.
"""

from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from tljax.models.arithmetic import attend, attend_one_query, convolve, gelu, product
from tljax.models.groups import Groups, Modes, depth_range, per_group
from tljax.models.lora import Dense, LoRA
from tljax.models.stochastic_depth import StochasticDepth, linear_rates

Pooling = Literal["token", "mean", "none"]
POOLINGS: tuple[str, ...] = get_args(Pooling)

_small_normal = nn.initializers.truncated_normal(0.02)
_xavier = nn.initializers.xavier_uniform()


class Attention(nn.Module):
    """Multi-head self-attention over tokens (n, t, d), for all queries or the first one alone."""

    heads: int
    dropout: float
    dtype: Any
    lora: LoRA | None = None
    first_only: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        n, t, d = x.shape
        heads = self.heads, d // self.heads
        qkv = _dense(self, 3 * d, "qkv")
        if self.first_only:
            query = qkv(x[:, :1]).reshape(n, 3, *heads)[:, 0]
            kernel, bias = (leaf.astype(query.dtype) for leaf in qkv.weights())
            _, keys, values = kernel.reshape(d, 3, *heads).swapaxes(0, 1)
            x = attend_one_query(query, x, keys, values) + bias.reshape(3, *heads)[2]
        else:
            x = attend(qkv(x).reshape(n, t, 3, *heads))
        x = x.reshape(n, -1, d)
        x = _dense(self, d, "proj")(x)
        return nn.Dropout(self.dropout, deterministic=not train)(x)


class Mlp(nn.Module):
    """Two dense layers with an erf GELU between them, over tokens (n, t, d)."""

    hidden: int
    dropout: float
    dtype: Any
    lora: LoRA | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        d = x.shape[-1]
        x = _dense(self, self.hidden, "fc1")(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(gelu(x))
        x = _dense(self, d, "fc2")(x)
        return nn.Dropout(self.dropout, deterministic=not train)(x)


def _dense(parent: Attention | Mlp, features: int, name: str) -> Dense:
    """A dense layer within `parent`."""
    return Dense(
        features,
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

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        def norm(name: str) -> nn.LayerNorm:
            return nn.LayerNorm(epsilon=self.layer_norm_eps, dtype=self.dtype, name=name)

        def residual(branch: jax.Array, scale_name: str) -> jax.Array:
            if self.layer_scale is not None:
                branch = LayerScale(self.layer_scale, name=scale_name)(branch)
            return StochasticDepth(self.drop_path)(branch, train)

        attention = Attention(
            self.heads, self.dropout, self.dtype, self.lora, self.first_only, name="attn"
        )
        y = attention(norm("norm1")(x), train)
        x = x[:, : y.shape[1]] + residual(y, "ls1")
        hidden = int(self.mlp_ratio * x.shape[-1])
        mlp = Mlp(hidden, self.dropout, self.dtype, self.lora, name="mlp")
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
    """

    dim: int
    patch: int
    class_token: bool
    registers: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        x = nn.Conv(
            self.dim,
            (self.patch, self.patch),
            strides=self.patch,
            padding=0,
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
        return nn.Dropout(self.dropout, deterministic=not train)(x)

    def _prepend(self, number: int, name: str, x: jax.Array) -> jax.Array:
        """The tokens x, preceded by `number` learned ones that are the same for all images."""
        tokens = self.param(name, _small_normal, (1, number, self.dim)).astype(x.dtype)
        return jnp.concatenate([jnp.tile(tokens, (x.shape[0], 1, 1)), x], axis=1)

    def _positioned(self, x: jax.Array) -> jax.Array:
        position = self.param("pos_embed", _small_normal, (1, x.shape[1], self.dim))
        return x + position.astype(x.dtype)


class ViT(nn.Module):
    """Embedding, transformer blocks, linear head; one group each.

    The final norm and the pooling belong to the last block's group: the head's input is (n, d). If
    only the class token is pooled, the last block computes no other token, and no keys or values of
    the tokens attended to. This saves nearly all of that block's work, forward and backward.

    Attributes:
      dim, depth, heads, patch: width, number of blocks, attention heads, patch size in pixels.
      num_classes: size of the head; 0: no head, the output is the pooled features.
      pooling: `token`: the normalised class token; `mean`: the norm of the patch tokens' mean;
        `none`: all normalised tokens (n, t, dim), for a model without a head.
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

    @property
    def groups(self) -> Groups:
        names = [f"block{i}" for i in range(self.depth)]
        last = (names[-1], f"({names[-1]}|norm)/")
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
                    name=f"block{depth - 1}",
                )(x, training[depth])
                if depth == self.depth:
                    x = self._norm_and_pool(x)
            elif self.num_classes:
                x = nn.Dense(self.num_classes, name="head")(x)
        return x

    def _norm_and_pool(self, tokens: jax.Array) -> jax.Array:
        """(n, t, d) to (n, d) float32. The norm of one token does not depend on the others."""
        if self.pooling == "none":
            pooled = tokens
        elif self.pooling == "token":
            pooled = tokens[:, 0]
        else:
            pooled = tokens[:, int(self.class_token) + self.registers :].mean(axis=1)
        norm = nn.LayerNorm(epsilon=self.layer_norm_eps, dtype=self.dtype, name="norm")
        return norm(pooled).astype(jnp.float32)
