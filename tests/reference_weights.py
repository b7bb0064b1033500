"""Random weights that are a function of a parameter's path: the same with and without PyTorch."""

import zlib

import jax
import numpy as np

from tljax.models import create, registry
from tljax.models.groups import path_of

KEPT = 24  # numbers kept of each image's output of a group


def path_shapes(name: str, size: int) -> list[tuple[str, tuple[int, ...]]]:
    """(path without the collection, shape) of every variable of a model with ten classes."""
    model = create(name, 10)
    variables = jax.eval_shape(lambda key: registry.init(model, key, size), jax.random.key(0))
    return [
        (path_of(key_path).split("/", 1)[1], leaf.shape)
        for key_path, leaf in jax.tree_util.tree_leaves_with_path(variables)
    ]


def draw(path: str, shape: tuple[int, ...]) -> np.ndarray:
    """Random values of a sensible scale for a kernel, scale, variance, or anything else."""
    rng = np.random.default_rng(zlib.crc32(path.encode()))
    leaf = path.rsplit("/", 1)[-1]
    values = rng.standard_normal(shape)
    if leaf == "kernel":
        values *= np.sqrt(1.5 / np.prod(shape[:-1]))
    elif leaf in ("scale", "var", "gamma"):
        values = np.exp(0.2 * values)
    else:
        values *= 0.2
    return values.astype(np.float32)


def images(size: int) -> np.ndarray:
    """Two normalised images (2, size, size, 3)."""
    return np.random.default_rng(0).standard_normal((2, size, size, 3)).astype(np.float32)
