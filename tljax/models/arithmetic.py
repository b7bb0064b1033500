"""Product, convolution, attention, GELU, max-pool, in forms fast to compute and differentiate."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

_ONE_BY_ONE = 2**20  # bytes of an image's attention scores from which images are taken in turn
_PIECES = 8  # of attention, at most
_LARGE = 14 * 14  # pixels of a convolution's result from which images are taken in turn


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
    1x1 kernel. Those that skip pixels are so on a CPU alone: XLA for a GPU (jaxlib 0.11.2) aborts
    over the product of a strided slice. To be given to `flax.linen.Conv`, which passes the rest as
    it is by default.
    """
    strides, padding = tuple(strides), tuple(map(tuple, padding))
    height, width, channels, features = kernel.shape
    pads_nothing = all(before == after == 0 for before, after in padding)
    if pads_nothing and (height, width) == (1, 1):

        def as_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
            x = x[:, :: strides[0], :: strides[1]]
            return product(x, kernel.reshape(channels, features))

        if strides == (1, 1):
            return as_product(x, kernel)
        by_xla = functools.partial(_xla_convolution, strides=strides, padding=padding)
        return jax.lax.platform_dependent(x, kernel, cpu=as_product, default=by_xla)
    if pads_nothing and (height, width) == strides:
        n, rows, columns = x.shape[0], x.shape[1] // height, x.shape[2] // width
        x = x[:, : rows * height, : columns * width]
        x = x.reshape(n, rows, height, columns, width, channels).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(n, rows, columns, height * width * channels)
        return product(x, kernel.reshape(-1, features))
    return _convolution(x, kernel, strides, padding)


Padding = tuple[tuple[int, int], ...]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolution(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], padding: Padding
) -> jax.Array:
    """XLA's, on a CPU with gradients of its own where images are large or windows skip pixels."""
    return _xla_convolution(x, kernel, strides, padding)


def _xla_convolution(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], padding: Padding
) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _convolution_forward(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], padding: Padding
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _convolution(x, kernel, strides, padding), (x, kernel)


def _convolution_backward(
    strides: tuple[int, ...], padding: Padding, kept: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept

    def to_x(kernel: jax.Array, g: jax.Array) -> jax.Array:
        return _gradient(lambda x: _xla_convolution(x, kernel, strides, padding), x, g)

    def to_x_by_phase(kernel: jax.Array, g: jax.Array) -> jax.Array:
        return _image_gradient(kernel, g, x.shape, strides, padding)

    def to_kernel(x: jax.Array, g: jax.Array) -> jax.Array:
        return _gradient(lambda kernel: _xla_convolution(x, kernel, strides, padding), kernel, g)

    def to_kernel_by_image(x: jax.Array, g: jax.Array) -> jax.Array:
        return _kernel_gradient(x, g, kernel.shape, strides, padding)

    on_cpu = jax.lax.platform_dependent
    skips, large = strides != (1, 1), g.shape[1] * g.shape[2] >= _LARGE
    return (
        on_cpu(kernel, g, cpu=to_x_by_phase, default=to_x) if skips else to_x(kernel, g),
        on_cpu(x, g, cpu=to_kernel_by_image, default=to_kernel) if large else to_kernel(x, g),
    )


_convolution.defvjp(_convolution_forward, _convolution_backward)


def _gradient(function: Callable[[jax.Array], jax.Array], x: jax.Array, g: jax.Array) -> jax.Array:
    """JAX's own, at x, of a cotangent g of the function's result."""
    gradient: jax.Array = jax.vjp(function, x)[1](g)[0]
    return gradient


def _image_gradient(
    kernel: jax.Array,
    g: jax.Array,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    padding: Padding,
) -> jax.Array:
    """Of a convolution's images (n, h, w, c), by the remainders of a pixel's place by the strides.

    Pixels of one remainder meet every other part of the kernel alone, as in a convolution of that
    part that skips nothing. XLA's own puts zeros between the pixels of g, and multiplies these too.
    """
    n, height, width, channels = shape
    rows, columns = (
        -(-(size + sum(added)) // stride)
        for size, added, stride in zip((height, width), padding, strides, strict=True)
    )

    def phase(i: int, j: int) -> jax.Array:
        part = kernel[i :: strides[0], j :: strides[1]]
        if not part.size:
            return jnp.zeros((n, rows, columns, channels), g.dtype)
        added = (
            (part.shape[0] - 1, rows - g.shape[1]),
            (part.shape[1] - 1, columns - g.shape[2]),
        )
        return _xla_convolution(g, part[::-1, ::-1].swapaxes(2, 3), (1, 1), added)

    phases = [jnp.stack([phase(i, j) for j in range(strides[1])], 3) for i in range(strides[0])]
    x = jnp.stack(phases, 2).reshape(n, rows * strides[0], columns * strides[1], channels)
    (top, _), (left, _) = padding
    return x[:, top : top + height, left : left + width]


def _kernel_gradient(
    x: jax.Array, g: jax.Array, shape: tuple[int, ...], strides: tuple[int, ...], padding: Padding
) -> jax.Array:
    """Of a convolution's kernel (h, w, c, d), as a product of windows and g, image by image.

    XLA's own, a convolution with windows as large as the image, takes a CPU two to four times as
    long.
    """
    height, width, channels, features = shape
    rows, columns = g.shape[1:3]
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))

    def add(total: jax.Array, image: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        pixels, cotangent = image
        shifted = [
            pixels[
                i : i + strides[0] * (rows - 1) + 1 : strides[0],
                j : j + strides[1] * (columns - 1) + 1 : strides[1],
            ]
            for i in range(height)
            for j in range(width)
        ]
        windows = jnp.concatenate(shifted, -1).reshape(rows * columns, -1)
        return total + windows.T @ cotangent.reshape(-1, features), None

    zero = jnp.zeros((height * width * channels, features), g.dtype)
    return jax.lax.scan(add, zero, (padded, g))[0].reshape(shape)


@jax.jit  # traced once for all blocks of a network
def attend(qkv: jax.Array) -> jax.Array:
    """Softmax attention, softmax(q k^T / sqrt(d)) v of every head.

    As plain products of (n, heads, t, d), which XLA runs about 1.4 times as fast on a CPU as an
    einsum over (n, t, heads, d). The softmax's sum divides the result, which is smaller than the
    weights (as in FlashAttention, Dao et al. 2022). XLA computes a batch of small products one
    after another, each on few cores: a CPU therefore gets an operation for every few images and
    heads, and runs those side by side.

    Args:
      qkv: queries, keys and values (n, t, 3, heads, d).

    Returns:
      (n, t, heads, d).
    """

    def by_heads(qkv: jax.Array) -> jax.Array:
        return jnp.concatenate([_attend(part) for part in jnp.split(qkv, of_heads, 3)], 2)

    def in_pieces(qkv: jax.Array) -> jax.Array:
        return jnp.concatenate([by_heads(part) for part in jnp.split(qkv, of_images)])

    n, t, _, heads, _ = qkv.shape
    of_images = _largest_divisor(n, _PIECES)
    of_heads = _largest_divisor(heads, _PIECES // of_images)
    if of_images * of_heads == 1 or 4 * heads * t * t < _ONE_BY_ONE:
        return _attend(qkv)
    return jax.lax.platform_dependent(qkv, cpu=in_pieces, default=_attend)


@jax.jit  # traced once for all pieces
def _attend(qkv: jax.Array) -> jax.Array:
    q, k, v = qkv.transpose(2, 0, 3, 1, 4)
    return _weighted(q * q.shape[-1] ** -0.5, k, v).swapaxes(1, 2)


def attend_alone(q: jax.Array, x: jax.Array, keys: jax.Array, values: jax.Array) -> jax.Array:
    """Softmax attention of one query, whose keys and values are not computed.

    With k = K x + b and v = V x + c of each token x, the scores q k = (K^T q) x + q b differ from
    (K^T q) x by the same number for all tokens, which a softmax does not see, and the sum of the
    v, weighted by w, is V (sum of w x) + c, as weights add up to 1. So two products of all tokens
    with d vectors each become two with as many vectors as there are heads.

    Args:
      q: the query (n, heads, size).
      x: the tokens (n, t, d) that answer.
      keys, values: K and V, (d, heads, size).

    Returns:
      (n, heads, size), to which c is to be added.
    """
    asked = jnp.einsum("nhs,dhs->nhd", q * q.shape[-1] ** -0.5, keys)
    return jnp.einsum("nhd,dhs->nhs", _weighted(asked, x, x), values)


def _weighted(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """softmax(q k^T) v."""
    scores = (q @ k.swapaxes(-2, -1)).astype(jnp.float32)
    highest = jax.lax.stop_gradient(scores.max(-1, keepdims=True))
    weights = jnp.exp(scores - highest)
    scale = 1.0 / weights.sum(-1, keepdims=True)  # whose gradient is cheaper than a quotient's
    return (weights.astype(v.dtype) @ v) * scale.astype(v.dtype)


def _largest_divisor(number: int, most: int) -> int:
    """Of those that are at most `most`."""
    return max(divisor for divisor in range(1, most + 1) if number % divisor == 0)


@jax.custom_jvp
def gelu(x: jax.Array) -> jax.Array:
    """x Phi(x), Phi the cumulative function of the normal distribution, from erf.

    JAX writes it with erfc, whose expansion takes a CPU twice as long.
    """
    return x * _cumulative(x)


@gelu.defjvp
def _gelu_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """d/dx x Phi(x) = Phi(x) + x exp(-x^2 / 2) / sqrt(2 pi)."""
    (x,), (dx,) = primals, tangents
    phi = _cumulative(x)
    return x * phi, (phi + x * jnp.exp(x * x * -0.5) * (2 * math.pi) ** -0.5) * dx


def _cumulative(x: jax.Array) -> jax.Array:
    return 0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5))


def max_pool(x: jax.Array) -> jax.Array:
    """The largest of each 3x3 window, with stride 2 and no padding; of (n, h, w, c).

    As a maximum of nine slices, whose gradient goes to the first that is largest, as that of XLA's
    windowed maximum does, which takes six times as long on a CPU.
    """
    rows, columns = ((side - 1) // 2 * 2 - 1 for side in x.shape[1:3])
    slices = [x[:, i : i + rows : 2, j : j + columns : 2] for i in range(3) for j in range(3)]
    return functools.reduce(lambda a, b: jnp.where(b > a, b, a), slices)
