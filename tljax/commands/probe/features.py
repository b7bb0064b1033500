"""Computes the features that the heads of a probe see."""

import functools
from collections.abc import Callable

import jax
import numpy as np

from tljax.data import Preprocessing, Source, normalise
from tljax.devices import micro_batches
from tljax.devices.compiler import compiled
from tljax.frozen.cache import CachedSource
from tljax.frozen.over_images import over_images
from tljax.models import Model
from tljax.models.probing import all_parts
from tljax.transfer.partition import Tree


def compute_features(
    model: Model,
    variables: Tree,
    preprocessing: Preprocessing,
    source: Source,
    name: str,
    progress: bool = False,
) -> CachedSource:
    """Computes what the heads see of a source's images.

    Args:
      model, variables, preprocessing: of the frozen network.
      source: of n images.
      name: of the source, for the progress bar.
      progress: whether to show a progress bar on stderr.

    Returns:
      The features in memory, (n, parts, d), with parts as in `all_parts`.
    """
    compute = _compile(model, preprocessing)
    features = over_images(
        lambda batch: compute(variables, batch["image"], batch["mask"]),
        source,
        preprocessing,
        f"features of {name} images",
        progress,
    )
    return CachedSource(len(model.groups) - 1, features, np.arange(len(source)), source.labels)


@functools.cache
def _compile(model: Model, preprocessing: Preprocessing) -> Callable[..., jax.Array]:
    """Returns the compiled function (variables, images uint8, mask) -> parts."""

    def compute(variables: Tree, images: jax.Array, mask: jax.Array) -> jax.Array:
        def run(images: jax.Array) -> jax.Array:
            return all_parts(model, variables, normalise(images, preprocessing))

        number = micro_batches.choose_parts(model, preprocessing.image_shape, len(images))
        return micro_batches.map_in_parts(run, number, images, mask)

    return compiled(compute)
