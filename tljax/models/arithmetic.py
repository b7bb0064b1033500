"""Matrix product, convolution, attention, GELU and max-pool, written so that XLA runs them fast."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

_SPLIT_SCORES = 2**20  # bytes of an image's attention scores; from here on attention is split
_MOST_PIECES = 8  # into which attention is split
_LARGE = 14 * 14  # pixels of a convolution's result; from here on its gradient goes image by image


def product(x: jax.Array, kernel: jax.Array, *_: Any, **__: Any) -> jax.Array:
    """x (..., c) times kernel (c, d), to (..., d). For `flax.linen.Dense`, as its `dot_general`.

    x is reshaped to two dimensions: with more, XLA for a CPU takes three times as long for the
    gradient of `kernel`, since it transposes the larger factor. The other arguments of
    `dot_general` are ignored, as Dense passes their defaults.
    """
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], -1)


def convolve(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **_: Any) -> jax.Array:
    """A convolution of x (n, h, w, c) with a kernel (h, w, c, d), to (n, h, w, d). For
    `flax.linen.Conv`, as its `conv_general_dilated`.

    Where windows share no pixel (1x1 kernels, the patches of a ViT) the convolution is written as a
    matrix product with a row for each window: XLA's convolutions on a CPU take up to ten times as
    long for the gradient of a 1x1 kernel. 1x1 kernels with a stride become products on a CPU only:
    XLA for a GPU (jaxlib 0.11.2) aborts on the product of a strided slice. The other arguments of
    `conv_general_dilated` are ignored, as Conv passes their defaults.
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
    """XLA's convolution; on a CPU with own gradients for large images and for strides."""
    return _xla_convolution(x, kernel, strides, padding)


def _xla_convolution(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], padding: Padding, groups: int = 1
) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
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
    """JAX's gradient of a function at x, for a cotangent g of the function's result."""
    gradient: jax.Array = jax.vjp(function, x)[1](g)[0]
    return gradient


def _image_gradient(
    kernel: jax.Array,
    g: jax.Array,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    padding: Padding,
) -> jax.Array:
    """Gradient with respect to a strided convolution's images (n, h, w, c), phase by phase.

    A pixel's phase is its row and column modulo the strides. Pixels of one phase meet only the
    kernel's entries of one phase, so that their gradient is a convolution of g with that part of
    the kernel, with stride 1. XLA's gradient puts zeros between the pixels of g, and multiplies
    them too.
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
    """Gradient with respect to a convolution's kernel (h, w, c, d), image by image.

    Each image adds the matrix product of its windows and g. XLA's gradient, a convolution with
    windows as large as the image, takes a CPU two to four times as long.
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
    """Softmax attention, softmax(q k^T / sqrt(d)) v for each head.

    Written as plain products over (n, heads, t, d), which XLA runs about 1.4 times as fast on a CPU
    as an einsum over (n, t, heads, d). The result is divided by the softmax's sum, since it is
    smaller than the weights (as in FlashAttention, Dao et al. 2022). XLA computes a batch of small
    products one after another, each on few cores. On a CPU attention is therefore split into pieces
    of some images and heads, which run in parallel.

    Args:
      qkv: queries, keys and values (n, t, 3, heads, d).

    Returns:
      (n, t, heads, d).
    """

    def by_heads(qkv: jax.Array) -> jax.Array:
        return jnp.concatenate([_attend(part) for part in jnp.split(qkv, head_pieces, 3)], 2)

    def in_pieces(qkv: jax.Array) -> jax.Array:
        return jnp.concatenate([by_heads(part) for part in jnp.split(qkv, image_pieces)])

    n, t, _, heads, _ = qkv.shape
    image_pieces = _largest_divisor(n, _MOST_PIECES)
    head_pieces = _largest_divisor(heads, _MOST_PIECES // image_pieces)
    if image_pieces * head_pieces == 1 or 4 * heads * t * t < _SPLIT_SCORES:
        return _attend(qkv)
    return jax.lax.platform_dependent(qkv, cpu=in_pieces, default=_attend)


@jax.jit  # traced once for all pieces
def _attend(qkv: jax.Array) -> jax.Array:
    q, k, v = qkv.transpose(2, 0, 3, 1, 4)
    return _weighted(q * q.shape[-1] ** -0.5, k, v).swapaxes(1, 2)


def attend_one_query(q: jax.Array, x: jax.Array, keys: jax.Array, values: jax.Array) -> jax.Array:
    """Softmax attention of a single query, without computing the keys and values of the tokens.

    For each token x, k = K x + b and v = V x + c. The score q k = (K^T q) x + q b differs from
    (K^T q) x by the same number for all tokens, which the softmax cancels. The sum of v weighted by
    w is V (sum of w x) + c, since the weights add up to 1. So the two products of all tokens with d
    vectors become two products with as many vectors as there are heads.

    Args:
      q: the query (n, heads, size).
      x: the tokens attended to, (n, t, d).
      keys, values: K and V, (d, heads, size).

    Returns:
      (n, heads, size); the caller adds c.
    """
    token_query = jnp.einsum("nhs,dhs->nhd", q * q.shape[-1] ** -0.5, keys)
    return jnp.einsum("nhd,dhs->nhs", _weighted(token_query, x, x), values)


def _weighted(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """softmax(q k^T) v."""
    scores = (q @ k.swapaxes(-2, -1)).astype(jnp.float32)
    highest = jax.lax.stop_gradient(scores.max(-1, keepdims=True))
    weights = jnp.exp(scores - highest)
    scale = 1.0 / weights.sum(
        -1, keepdims=True
    )  # a product's gradient is cheaper than a quotient's
    return (weights.astype(v.dtype) @ v) * scale.astype(v.dtype)


def _largest_divisor(number: int, most: int) -> int:
    """The largest divisor of `number` that is at most `most`."""
    return max(divisor for divisor in range(1, most + 1) if number % divisor == 0)


@jax.custom_jvp
def gelu(x: jax.Array) -> jax.Array:
    """x Phi(x), where Phi is the cumulative distribution function of the normal distribution.

    Computed from erf: JAX's GELU uses erfc, whose expansion takes a CPU twice as long.
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
    """Max-pool of (n, h, w, c) with 3x3 windows, stride 2 and no padding.

    Written as the maximum of nine slices: XLA's windowed maximum takes six times as long on a CPU.
    As with XLA's, the gradient goes to the first of several equal maxima.
    """
    rows, columns = ((side - 1) // 2 * 2 - 1 for side in x.shape[1:3])
    slices = [x[:, i : i + rows : 2, j : j + columns : 2] for i in range(3) for j in range(3)]
    return functools.reduce(lambda a, b: jnp.where(b > a, b, a), slices)


@jax.custom_vjp
def depthwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A convolution of each channel by itself, padded with zeros to the same size.

    On a CPU it is a sum of shifted images, one for each entry of the kernel: XLA's convolutions
    there take up to thirty times as long, and their gradients seven times (7x7, 28x28 pixels).

    Args:
      x: (n, h, w, c).
      kernel: (k, k, 1, c), k odd.

    Returns:
      (n, h, w, c).
    """
    by_xla = functools.partial(_xla_depthwise, stride=1, padding=_around(kernel.shape[0]))
    return jax.lax.platform_dependent(x, kernel, cpu=_by_shifts, default=by_xla)


def _by_shifts(x: jax.Array, kernel: jax.Array) -> jax.Array:
    size, (height, width) = kernel.shape[0], x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), *_around(size), (0, 0)))
    result = jnp.zeros_like(x)
    for i in range(size):
        rows = padded[:, i : i + height]
        result += sum(rows[:, :, j : j + width] * kernel[i, j, 0] for j in range(size))
    return result


def _xla_depthwise(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    return _xla_convolution(x, kernel, (stride, stride), padding, groups=x.shape[-1])


def _around(size: int) -> Padding:
    """The zeros that keep an image's size under a kernel of `size`, which is odd."""
    return ((size // 2,) * 2,) * 2


def _depthwise_backward(
    kept: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    size, (height, width) = kernel.shape[0], x.shape[1:3]

    def by_shifts(x: jax.Array, g: jax.Array) -> jax.Array:
        padded = jnp.pad(x, ((0, 0), *_around(size), (0, 0)))

        def of_row(i: jax.Array) -> jax.Array:
            rows = jax.lax.dynamic_slice_in_dim(padded, i, height, axis=1)
            sums = [(rows[:, :, j : j + width] * g).sum((0, 1, 2)) for j in range(size)]
            return jnp.stack(sums)[:, None]

        return jax.lax.map(of_row, jnp.arange(size))

    def by_xla(x: jax.Array, g: jax.Array) -> jax.Array:
        return _gradient(lambda kernel: _xla_depthwise(x, kernel, 1, _around(size)), kernel, g)

    turned = kernel[::-1, ::-1]
    return depthwise(g, turned), jax.lax.platform_dependent(x, g, cpu=by_shifts, default=by_xla)


depthwise.defvjp(lambda x, kernel: (depthwise(x, kernel), (x, kernel)), _depthwise_backward)


def strided_depthwise(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    """A depthwise convolution with a stride; on a CPU as a sum of shifted images, see `depthwise`.

    Args:
      x: (n, h, w, c).
      kernel: (k, k, 1, c).
      stride: of rows and columns.
      padding: zeros before and behind rows, and columns.

    Returns:
      (n, rows, columns, c).
    """

    def by_shifts(x: jax.Array, kernel: jax.Array) -> jax.Array:
        padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
        size = kernel.shape[0]
        height, width = (stride * ((side - size) // stride) + 1 for side in padded.shape[1:3])
        parts = [
            padded[:, i : i + height : stride, j : j + width : stride] * kernel[i, j, 0]
            for i in range(size)
            for j in range(size)
        ]
        return functools.reduce(jnp.add, parts)

    by_xla = functools.partial(_xla_depthwise, stride=stride, padding=padding)
    return jax.lax.platform_dependent(x, kernel, cpu=by_shifts, default=by_xla)
