"""Random weights that are a function of a parameter's path: the same with and without PyTorch."""

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tljax.models import ImageSize, Model, registry, tracing
from tljax.models.preprocessing import height_width
from tljax.weights import from_variables, rules
from tljax.weights.export import save_converted

KEPT = 24  # numbers kept of each image and group


def count_known(
    family: rules.Family, model: Model, paths: Sequence[str], names: Sequence[str]
) -> int:
    """How many of a file's names, without wrappers, a family knows in a model."""
    planned = rules.spelled_assignments(family, model, paths)
    expected = {source for assignment in planned for source in assignment.sources}
    return len(expected & {rules.spelled(family, name) for name in names})


def draw_all(model: Model, size: ImageSize) -> dict[str, np.ndarray]:
    """Every parameter and statistic of a model, by path without the collection."""
    variables = rules.flatten(tracing.abstract_variables(model, size))
    return {path: draw(path, leaf.shape) for path, leaf in variables.items()}


def draw_file(path: Path, name: str, classes: int = 10) -> Path:
    """Writes random weights of a model to `path`, in the format of `tljax convert`."""
    model, preprocessing = registry.create(name, classes), registry.spec(name).preprocessing
    variables = rules.unflatten(draw_all(model, preprocessing.image_size))
    save_converted(from_variables(variables, "drawn"), name, preprocessing, path)
    return path


def draw(path: str, shape: tuple[int, ...]) -> np.ndarray:
    """Random values whose scale suits a kernel, scale, variance, or other parameter."""
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


def images(size: ImageSize) -> np.ndarray:
    """Two normalised images (2, height, width, 3)."""
    shape = (2, *height_width(size), 3)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def kept(output: np.ndarray) -> np.ndarray:
    """The first numbers of each image's output, then the largest of all, its scale."""
    first = output.reshape(len(output), -1)[:, :KEPT].ravel()
    return np.append(first, np.abs(output).max()).astype(np.float32)
