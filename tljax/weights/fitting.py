"""Fits pretrained weights to the model that will use them: image size, channels, depth."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from tljax.errors import InputError, check_known

Grid = tuple[int, int]


def fit(
    arrays: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    grid: Grid | None,
    resampling: str,
    origin: str,
) -> dict[str, np.ndarray]:
    """Returns pretrained arrays, by path, fitted to a model.

    Resamples position embeddings to the model's grid, adapts the first layer's input channels, and
    drops groups that a truncated model lacks. A head is returned unchanged: the plan decides
    whether it is kept.

    Args:
      arrays: by path, as `rules.convert` returns them.
      shapes: of the model's variables, by path.
      grid: (rows, columns) of its patches; None for a network without position embeddings.
      resampling: a key of `RESAMPLINGS`.
      origin: of the weights, for error messages.

    Raises:
      InputError: if the position embeddings are not those of a square grid.
    """
    fitted = {path: array for path, array in arrays.items() if path in shapes}
    if grid is not None and "embed/pos_embed" in fitted:
        extra = shapes["embed/pos_embed"][1] - grid[0] * grid[1]
        fitted["embed/pos_embed"] = resample_positions(
            fitted["embed/pos_embed"], grid, extra, resampling, origin
        )
    for path in ("stem/conv/kernel", "embed/patch/kernel"):
        if path in fitted:
            fitted[path] = adapt_channels(fitted[path], shapes[path][2])
    return fitted


def resample_positions(
    embedding: np.ndarray, grid: Grid, extra: int, resampling: str, origin: str
) -> np.ndarray:
    """Resamples position embeddings (1, extra + N, d) of a square grid to another grid.

    Args:
      embedding: first of `extra` tokens, e.g. the class token, which are kept, then of N = s * s
        patches, row by row.
      grid: the new (rows, columns).
      extra: number of tokens before the patches.
      resampling: a key of `RESAMPLINGS`.
      origin: of the weights, for error messages.

    Returns:
      (1, extra + rows * columns, d); the same array if it already has this grid.
    """
    check_known("position_resampling", resampling, RESAMPLINGS)
    before, patches = embedding[:, :extra], embedding[:, extra:]
    side = round(patches.shape[1] ** 0.5)
    if side * side != patches.shape[1]:
        raise InputError(
            f"'{origin}' has position embeddings for {patches.shape[1]} patches, which is not a"
            " square grid; give weights that were trained on square images"
        )
    if grid == (side, side):
        return embedding
    square = patches.reshape(side, side, -1)
    resampled = RESAMPLINGS[resampling](square.astype(np.float32), grid)
    return np.concatenate([before, resampled.reshape(1, grid[0] * grid[1], -1)], axis=1)


def adapt_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Adapts a first convolution's kernel (h, w, in, out) to another number of input channels.

    For one channel, sums over the old ones, so that a grey image gives the same result as its three
    equal channels did. Otherwise repeats the old ones and scales them, to keep the scale of the
    activations (timm's `adapt_input_conv`).
    """
    old = kernel.shape[2]
    if channels == old:
        return kernel
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    repeated = kernel[:, :, [c % old for c in range(channels)]]
    return (repeated * (old / channels)).astype(kernel.dtype)


def _antialiased_bicubic(square: np.ndarray, grid: Grid) -> np.ndarray:
    """timm's `resample_abs_pos_embed`: PyTorch's bicubic with antialiasing, a = -0.5."""
    shape = (*grid, square.shape[-1])
    return np.asarray(jax.image.resize(jnp.asarray(square), shape, "bicubic", antialias=True))


def _bicubic(square: np.ndarray, grid: Grid) -> np.ndarray:
    """transformers' `interpolate_pos_encoding`: PyTorch's bicubic without antialiasing, a = -0.75.

    Pixel centres at half-integers, borders repeated.
    """
    for axis, size in enumerate(grid):
        weights = _cubic_weights(square.shape[axis], size)
        square = np.moveaxis(np.tensordot(weights, square, axes=(1, axis)), 0, axis)
    return square.astype(np.float32)


def _cubic_weights(old: int, new: int, a: float = -0.75) -> np.ndarray:
    """(new, old) matrix of cubic convolution (Keys 1981)."""
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(centres).astype(int) - 1
    weights = np.zeros((new, old))
    for tap in range(4):
        x = np.abs(centres - (first + tap))
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        column = np.clip(first + tap, 0, old - 1)
        np.add.at(weights, (np.arange(new), column), np.where(x <= 1, near, far))
    return weights


def _zoom(square: np.ndarray, grid: Grid) -> np.ndarray:
    """Google's vision_transformer and big_vision: `scipy.ndimage.zoom` of order 1."""
    import scipy.ndimage  # here: a sixth of the time of all imports, and few models need it

    factors = (grid[0] / square.shape[0], grid[1] / square.shape[1], 1)
    return scipy.ndimage.zoom(square, factors, order=1)


RESAMPLINGS: dict[str, Callable[[np.ndarray, Grid], np.ndarray]] = {
    "antialiased_bicubic": _antialiased_bicubic,
    "bicubic": _bicubic,
    "zoom": _zoom,
}
