"""Computes the features that the heads of a probe see."""

import functools
from collections.abc import Callable
from contextlib import closing

import jax
import numpy as np

from tljax.console import progress_bar
from tljax.data import Preprocessing, Source, eval_batches, normalise
from tljax.devices import micro_batches
from tljax.devices.compiler import compiled
from tljax.frozen.cache import CachedSource
from tljax.models import Model
from tljax.models.probing import all_parts
from tljax.transfer.partition import Tree

_BATCH = 32  # images at once


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
    compute, parts, done = _compile(model, preprocessing), [], 0
    batches = eval_batches(source, preprocessing, batch_size=_BATCH)
    with closing(iter(batches)) as reader, progress_bar() as bar:
        task = bar.add_task(f"features of {name} images", total=len(source), visible=progress)
        for batch in reader:
            parts.append(np.asarray(compute(variables, batch["image"], batch["mask"])))
            done += len(parts[-1])
            bar.update(task, completed=min(done, len(source)))
    features = np.concatenate(parts)[: len(source)]  # without the padding of the last batch
    return CachedSource(len(model.groups) - 1, features, np.arange(len(source)), source.labels)


@functools.cache
def _compile(model: Model, preprocessing: Preprocessing) -> Callable[..., jax.Array]:
    """Returns the compiled function (variables, images uint8, mask) -> parts."""

    def compute(variables: Tree, images: jax.Array, mask: jax.Array) -> jax.Array:
        def run(images: jax.Array) -> jax.Array:
            return all_parts(model, variables, normalise(images, preprocessing))

        number = micro_batches.choose_parts(model, preprocessing.image_size, len(images))
        return micro_batches.map_in_parts(run, number, images, mask)

    return compiled(compute)
