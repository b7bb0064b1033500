"""Matrix product, convolution and max-pool of the networks, in forms fast to differentiate."""

import functools
from typing import Any

import jax
import jax.numpy as jnp


def product(x: jax.Array, kernel: jax.Array, *_: Any, **__: Any) -> jax.Array:
    """x (..., c) times kernel (c, d), to (..., d).

    Of two dimensions each, since XLA for a CPU takes three times as long for the gradient of
    `kernel` where x has more: it transposes the larger factor. To be given to `flax.linen.Dense`,
    which passes the rest as it is by default.
    """
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], -1)


def convolve(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **_: Any) -> jax.Array:
    """A convolution of x (n, h, w, c) with a kernel (h, w, c, d), to (n, h, w, d).

    Windows that share no pixel (1x1 kernels, the patches of a ViT) are rows of one matrix product,
    and written so: XLA's convolutions on a CPU take up to ten times as long for the gradient of a
    1x1 kernel. To be given to `flax.linen.Conv`, which passes the rest as it is by default.
    """
    height, width, channels, features = kernel.shape
    pads_nothing = all(before == after == 0 for before, after in padding)
    if pads_nothing and (height, width) == (1, 1):
        x = x[:, :: strides[0], :: strides[1]]
        return product(x, kernel.reshape(channels, features))
    if pads_nothing and (height, width) == tuple(strides):
        n, rows, columns = x.shape[0], x.shape[1] // height, x.shape[2] // width
        x = x[:, : rows * height, : columns * width]
        x = x.reshape(n, rows, height, columns, width, channels).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(n, rows, columns, height * width * channels)
        return product(x, kernel.reshape(-1, features))
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def max_pool(x: jax.Array) -> jax.Array:
    """The largest of each 3x3 window, with stride 2 and no padding; of (n, h, w, c).

    As a maximum of nine slices, whose gradient goes to the first that is largest, as that of XLA's
    windowed maximum does, which takes six times as long on a CPU.
    """
    rows, columns = ((side - 1) // 2 * 2 - 1 for side in x.shape[1:3])
    slices = [x[:, i : i + rows : 2, j : j + columns : 2] for i in range(3) for j in range(3)]
    return functools.reduce(lambda a, b: jnp.where(b > a, b, a), slices)
