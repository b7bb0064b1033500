"""A fine-tuning step of a ViT, written by hand in plain JAX: no modules, no plan, no optax.

It leaves out what tljax adds (weight decay, the gradient's norm, the accuracy), so the difference
in cost is tljax's overhead. How the same arithmetic is written is a matter of XLA and not of the
framework, so both write it alike. Attention and the compiler options are tljax's. The norm's terms
are in Flax's order: with the mean before the squares XLA counts a third more bytes, because it sums
the residual branches again in every block.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import tljax
from benchmarks import jobs
from benchmarks.jobs import Network
from tljax.devices.compiler import compiled
from tljax.models.arithmetic import attend, attend_one_query
from tljax.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD

Params = dict[str, Any]
HEADS, EPS = 6, 1e-6


def dense(p: Params, x: jax.Array) -> jax.Array:
    rows = x.reshape(-1, x.shape[-1]) @ p["kernel"]
    return rows.reshape(*x.shape[:-1], -1) + p["bias"]


def norm(p: Params, x: jax.Array) -> jax.Array:
    squares = jnp.square(x)
    mean = x.mean(-1)
    variance = jnp.maximum(squares.mean(-1) - jnp.square(mean), 0.0)
    mean, variance = mean[..., None], variance[..., None]
    return (x - mean) * (jax.lax.rsqrt(variance + EPS) * p["scale"]) + p["bias"]


def attention(p: Params, x: jax.Array) -> jax.Array:
    n, t, d = x.shape
    return attend(dense(p, x).reshape(n, t, 3, HEADS, d // HEADS)).reshape(n, t, d)


def attention_of_first_token(p: Params, x: jax.Array) -> jax.Array:
    """Attention of the first token alone, (n, 1, d)."""
    n, _, d = x.shape
    kernel, bias = p["kernel"].reshape(d, 3, HEADS, -1), p["bias"].reshape(3, HEADS, -1)
    query = dense(p, x[:, :1]).reshape(n, 3, HEADS, -1)[:, 0]
    return (attend_one_query(query, x, kernel[:, 1], kernel[:, 2]) + bias[2]).reshape(n, 1, d)


def block(p: Params, x: jax.Array, first_token_only: bool = False) -> jax.Array:
    attend_tokens = attention_of_first_token if first_token_only else attention
    attended = attend_tokens(p["attn"]["qkv"], norm(p["norm1"], x))
    x = x[:, : attended.shape[1]] + dense(p["attn"]["proj"], attended) * p["ls1"]["gamma"]
    y = dense(p["mlp"]["fc1"], norm(p["norm2"], x))
    y = 0.5 * y * (1 + jax.lax.erf(y * 2**-0.5))
    return x + dense(p["mlp"]["fc2"], y) * p["ls2"]["gamma"]


def logits(p: Params, images: jax.Array) -> jax.Array:
    x = (images.astype(jnp.float32) / 255 - jnp.array(IMAGENET_MEAN)) / jnp.array(IMAGENET_STD)
    kernel = p["embed"]["patch"]["kernel"]
    side, n = kernel.shape[0], x.shape[0]
    rows, columns = x.shape[1] // side, x.shape[2] // side
    x = x.reshape(n, rows, side, columns, side, 3).transpose(0, 1, 3, 2, 4, 5)
    flat = {"kernel": kernel.reshape(-1, kernel.shape[-1]), "bias": p["embed"]["patch"]["bias"]}
    x = dense(flat, x.reshape(n, rows * columns, -1))
    token = jnp.broadcast_to(p["embed"]["cls_token"], (n, 1, x.shape[-1]))
    x = jnp.concatenate([token, x], axis=1) + p["embed"]["pos_embed"]
    depth = sum(name.startswith("block") for name in p)
    for b in range(depth - 1):
        x = block(p[f"block{b}"], x)
    x = block(p[f"block{depth - 1}"], x, first_token_only=True)  # all that the head reads
    return dense(p["head"], norm(p["norm"], x[:, 0]))


def loss(p: Params, images: jax.Array, labels: jax.Array) -> jax.Array:
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits(p, images)), labels[:, None], axis=1)
    return -chosen.mean()


def make_step(network: Network, folder: Path, batch: int, parts: int) -> Any:
    """Returns a function that takes one step of SGD with momentum, and waits for it.

    The batch goes through the network in `parts`, whose gradients are added up. The function's
    attribute `compiled` is the program.
    """
    _, variables, _ = tljax.load(
        network.name,
        init_from=jobs.make_weights(network, folder),
        num_classes=jobs.CLASSES,
        image_size=network.pixels,
    )

    def gradient(p: Params, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, Params]:
        if parts == 1:
            return jax.value_and_grad(loss)(p, images, labels)

        def add(total: Any, part: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, jax.value_and_grad(loss)(p, *part)), None

        split = [x.reshape(parts, -1, *x.shape[1:]) for x in (images, labels)]
        zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, p))
        total, _ = jax.lax.scan(add, zero, split)
        return jax.tree.map(lambda x: x / parts, total)

    def step(p: Params, velocity: Params, images: jax.Array, labels: jax.Array) -> Any:
        value, g = gradient(p, images, labels)
        velocity = jax.tree.map(lambda v, g: jobs.MOMENTUM * v + g, velocity, g)
        p = jax.tree.map(lambda p, v: p - jobs.LEARNING_RATE * v, p, velocity)
        return p, velocity, value

    images, labels = (jnp.asarray(x) for x in jobs.make_images(network.pixels, batch))
    params = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), variables["params"])
    velocity = jax.tree.map(jnp.zeros_like, params)
    jitted = compiled(step, donate_argnums=(0, 1))
    program = jitted.lower(params, velocity, images, labels).compile()

    def run() -> None:
        nonlocal params, velocity
        params, velocity, value = program(params, velocity, images, labels)
        jax.block_until_ready((params, value))

    run.compiled = program  # type: ignore[attr-defined]
    return run
