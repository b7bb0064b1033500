"""Random variables of a network, of all groups or of some."""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from tljax.models import lora
from tljax.models.groups import leaf_paths, map_with_path
from tljax.models.model import Model
from tljax.models.preprocessing import ImageShape, ImageSize, image_shape
from tljax.models.tracing import abstract_output, abstract_variables

_LEVEL = "xla_backend_optimization_level"


def init(
    model: Model,
    key: jax.Array,
    image: ImageSize | ImageShape,
    groups: tuple[bool, ...] | None = None,
) -> dict[str, Any]:
    """Draws random variables: `params` and, for models with BatchNorm, `batch_stats`.

    Args:
      model: a Linen module with `groups`.
      key: of the random numbers.
      image: (height, width, channels) of its images, or the size of RGB images.
      groups: per group, whether its variables are drawn; None: all. The others stay abstract (shape
        and dtype): pretrained weights replace them, so drawing them would cost time for nothing.
        LoRA's variables are always drawn, since a source seldom has them.
    """
    shape = image_shape(image)
    if groups is None:
        return _drawing(key)(model, key, shape, None, 0)
    abstract = abstract_variables(model, shape)
    depths = {path: model.groups.depth(path.split("/", 1)[1]) for path in leaf_paths(abstract)}
    wanted = tuple(p for p, depth in depths.items() if groups[depth] or lora.is_leaf(p))
    drawn = {}
    if wanted:
        start = min(depths[path] for path in wanted)
        drawn = _drawing(key)(model, key, shape, wanted, start)
    return map_with_path(lambda path, leaf: drawn.get(path, leaf), abstract)


def _drawing(key: jax.Array) -> Callable[..., dict[str, Any]]:
    """`_draw`: compiled, or as plain Python while a caller traces it."""
    traced = isinstance(jax.random.key_data(key), jax.core.Tracer)  # even if the key is a constant
    return _draw if traced else _compiled_drawing()


@functools.cache
def _compiled_drawing() -> Callable[..., dict[str, Any]]:
    """`_draw`, compiled on a CPU with little optimisation, since it runs once.

    With full optimisation XLA takes most of a second for each shape; with little, a third of that,
    for the same bits. `XLA_FLAGS` has precedence.
    """
    chosen = jax.default_backend() != "cpu" or _LEVEL in os.environ.get("XLA_FLAGS", "")
    little = None if chosen else {_LEVEL: 1}
    return jax.jit(_draw, static_argnums=(0, 2, 3, 4), compiler_options=little)


def _draw(
    model: Model,
    key: jax.Array,
    image: ImageShape,
    paths: tuple[str, ...] | None,
    start: int,
) -> dict[str, Any]:
    """All variables, or a dictionary of those at `paths`, all of them in groups from `start` up.

    The groups below `start` can be left out, since a variable's numbers depend only on the key and
    on its path.
    """
    inputs = abstract_output(model, image, start)
    variables = dict(model.init(key, jnp.zeros(inputs.shape, inputs.dtype), start=start))
    if paths is None:
        return variables
    flat = traverse_util.flatten_dict(variables, sep="/")
    return {path: flat[path] for path in paths}
