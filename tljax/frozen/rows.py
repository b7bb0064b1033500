"""Standardised features on a device, in blocks of rows, along their principal axes.

Rows are read in blocks, so that (rows, logits) never exist for all rows. Rotating the features to
their principal axes changes neither loss nor penalty. Scaled by its curvature, a problem is then
well conditioned however the features correlate.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tljax.devices.compiler import compiled

_BLOCK = 1 << 21  # logits at once
_WIDEST = 2048  # features; the principal axes of more take longer than they save


class Rows(NamedTuple):
    """Rows in blocks; the last block is padded.

    Attributes:
      x: (blocks, rows, d + 1) float32: features along d axes, and a 1, which the bias multiplies.
      squares: (d + 1,), mean squares of x.
      axes: (features, d), orthonormal columns; None: the features are not rotated.
      number: of rows without the padding.
    """

    x: jax.Array
    squares: jax.Array
    axes: jax.Array | None
    number: int

    def split(self, values: np.ndarray, dtype: Any = np.float32) -> np.ndarray:
        """(n, ...) -> (blocks, rows, ...), padded with zeros."""
        blocks, size = self.x.shape[:2]
        whole = np.zeros((blocks * size, *values.shape[1:]), dtype)
        whole[: self.number] = values
        return whole.reshape(blocks, size, *values.shape[1:])

    def join(self, values: jax.Array) -> np.ndarray:
        """(blocks, rows, ...) -> (n, ...), without the padding."""
        return np.asarray(values).reshape(-1, *values.shape[2:])[: self.number]

    def unrotate(self, kernel: np.ndarray) -> np.ndarray:
        """Returns a kernel (d, logits) as that of the standardised features, float64."""
        exact = np.asarray(kernel, np.float64)
        return exact if self.axes is None else np.asarray(self.axes, np.float64) @ exact


def make_rows(features: np.ndarray, mean: np.ndarray, inverse: np.ndarray, logits: int) -> Rows:
    """Standardises features, rotates them to their principal axes and puts them on a device.

    The axes are no more than there are rows. Very wide features are not rotated.

    Args:
      features: (n, features).
      mean, inverse: (features,), what is subtracted and then multiplied.
      logits: of a row: classes, for all problems together.
    """
    n, width = features.shape
    blocks = -(-n * logits // _BLOCK)
    size = -(-n // blocks)
    x = np.zeros((blocks * size, width), np.float32)
    np.subtract(features, mean.astype(np.float32), out=x[:n])
    x[:n] *= inverse.astype(np.float32)
    device = jax.local_devices()[0]
    rotation = _rotation(blocks, min(x.shape) <= _WIDEST)
    turned, squares, axes = rotation(jax.device_put(x, device), n)
    return Rows(turned, squares, axes, n)


@functools.cache
def _rotation(blocks: int, rotate: bool) -> Callable[..., Any]:
    def rotation(x: jax.Array, n: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        rows, width = x.shape
        span = axes = None
        if rotate:
            if width > rows:
                span = jnp.linalg.qr(x.T)[0]
                x = product("nd,de->ne", x, span)
            axes = jnp.linalg.eigh(product("nd,ne->de", x, x))[1]
            x = product("nd,de->ne", x, axes)
            axes = axes if span is None else product("de,ef->df", span, axes)
        squares = jnp.append(jnp.square(x).sum(axis=0) / n, 1.0)
        x = jnp.append(x, jnp.ones((rows, 1)), axis=1)
        return x.reshape(blocks, rows // blocks, -1), squares, axes

    return compiled(rotation)


def product(subscripts: str, *factors: jax.Array) -> jax.Array:
    """`einsum` in full float32, which a GPU does not multiply in by default."""
    return jnp.einsum(subscripts, *factors, precision="highest")
