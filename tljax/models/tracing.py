"""Shapes, dtypes and operations of a network, from a trace: nothing here computes an image."""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.extend.core
import jax.numpy as jnp

from tljax.models.model import Model
from tljax.models.preprocessing import ImageShape, ImageSize, image_shape

# Networks are traced for a batch of this many images. An array of the batch is recognised by its
# size, a multiple of this number, because its batch axis may be anywhere or merged with others.
# Arrays without a batch axis are not mistaken for such: as the number is a prime, it divides their
# size only if it divides one of their dimensions, and no kernel size or width is a multiple of it.
_TRACED_IMAGES = 1009


class Operation(NamedTuple):
    """One operation of a traced network.

    Attributes:
      name: of the JAX primitive, e.g. `conv_general_dilated`.
      image_bytes: bytes of its result per image; 0 if the result does not depend on the batch size.
    """

    name: str
    image_bytes: int


def abstract_variables(model: Model, image: ImageSize | ImageShape) -> dict[str, Any]:
    """Shapes and dtypes of the model's variables. The result is cached: do not change it.

    Args:
      model: the network.
      image: (height, width, channels) of its images, or the size of RGB images.
    """
    return _trace_network(model, image_shape(image))[0]


@functools.lru_cache(maxsize=64)  # a large network takes a second to trace
def _trace_network(model: Model, image: ImageShape) -> tuple[dict[str, Any], list[Operation]]:
    """Abstract variables and operations of the whole network, from one trace."""

    def draw(key: jax.Array, images: jax.Array) -> Any:
        # `model.init` would trace each block of a ViT separately, since each draws its own numbers
        collections = ("params", "batch_stats")
        return model.apply({}, images, rngs={"params": key}, mutable=collections)[1]

    images = jax.ShapeDtypeStruct((_TRACED_IMAGES, *image), jnp.float32)
    program, drawn = jax.make_jaxpr(draw, return_shape=True)(jax.random.key(0), images)
    return _without_mesh(drawn), list(_list_operations(program.jaxpr))


def abstract_output(model: Model, image: ImageSize | ImageShape, stop: int) -> jax.ShapeDtypeStruct:
    """Shape (1, ...) and dtype of what the first `stop` groups compute from one image.

    Args:
      model, image: see `abstract_variables`.
      stop: number of groups; 0: the image itself.
    """
    return _trace_output(model, image_shape(image), stop)


@functools.lru_cache(maxsize=64)
def _trace_output(model: Model, image: ImageShape, stop: int) -> jax.ShapeDtypeStruct:
    images = jax.ShapeDtypeStruct((1, *image), jnp.float32)
    if not stop:
        return images
    run = functools.partial(model.apply, train=False, stop=stop)
    output: jax.ShapeDtypeStruct = _without_mesh(
        jax.eval_shape(run, abstract_variables(model, image), images)
    )
    return output


def operations(
    model: Model, image: ImageSize | ImageShape, start: int = 0, stop: int | None = None
) -> list[Operation]:
    """All operations in the groups `start` to `stop - 1`; see `abstract_variables`.

    Operations that draw random variables may be among them. The result is cached: do not change it.
    """
    shape = image_shape(image)
    if start == 0 and stop is None:
        return _trace_network(model, shape)[1]
    return _trace_groups(model, shape, start, stop)


@functools.lru_cache(maxsize=64)
def _trace_groups(model: Model, image: ImageShape, start: int, stop: int | None) -> list[Operation]:
    one = _trace_output(model, image, start)
    x = jax.ShapeDtypeStruct((_TRACED_IMAGES, *one.shape[1:]), one.dtype)
    run = functools.partial(model.apply, train=False, start=start, stop=stop)
    return list(_list_operations(jax.make_jaxpr(run)(abstract_variables(model, image), x).jaxpr))


def _list_operations(jaxpr: Any) -> Iterator[Operation]:
    """All operations of a jaxpr, including nested ones; one for each result."""
    for equation in jaxpr.eqns:
        for result in equation.outvars:
            if hasattr(result.aval, "dtype"):
                yield Operation(equation.primitive.name, _image_bytes(result.aval))
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from _list_operations(inner)


def _image_bytes(array: Any) -> int:
    """Bytes per image of an abstract array; 0 if it has no batch axis."""
    if array.size % _TRACED_IMAGES:
        return 0
    return int(array.size // _TRACED_IMAGES * array.dtype.itemsize)


def _without_mesh(tree: Any) -> Any:
    """Shapes and dtypes alone: the mesh of a caller's trace must not get into the cache."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
