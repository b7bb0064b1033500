"""A frozen network over all images of a source, with progress."""

from collections.abc import Callable
from contextlib import closing
from typing import Any

import jax
import numpy as np

from tljax.console import progress_bar
from tljax.data import Preprocessing, Source, eval_batches

BATCH = 32  # images at once; the last batch is padded, so that one program serves all


def over_images(
    run: Callable[[dict[str, np.ndarray]], Any],
    source: Source,
    preprocessing: Preprocessing,
    description: str,
    progress: bool = False,
) -> Any:
    """Returns what a function makes of each image, in order.

        features = over_images(lambda batch: step(batch["image"]), source, preprocessing, "photos")

    Args:
      run: of a batch of `tljax.data.eval_batches` to arrays (b, ...), in a tree.
      source: n images.
      preprocessing: of the network.
      description: what the progress bar says.
      progress: whether to show it, on stderr.

    Returns:
      The same tree, of (n, ...) in memory, without the padding of the last batch.
    """
    parts = []
    with (
        closing(iter(eval_batches(source, preprocessing, batch_size=BATCH))) as batches,
        progress_bar() as bar,
    ):
        task = bar.add_task(description, total=len(source), visible=progress)
        for batch in batches:
            parts.append(jax.device_get(run(batch)))
            bar.update(task, completed=min(len(parts) * BATCH, len(source)))
    return jax.tree.map(lambda *arrays: np.concatenate(arrays)[: len(source)], *parts)
