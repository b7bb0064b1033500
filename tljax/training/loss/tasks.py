"""Several tasks on one trunk: their heads are neighbouring columns of one layer, the `head` group.

Only the logits of an image's own task count in its loss, accuracy and probabilities: those of other
tasks are set to minus infinity. The softmax, its gradient and the largest logit are then those of a
separate head, and the plan, the optimizer, the cache and checkpoints need not know about tasks.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tljax.models import Model
from tljax.transfer.partition import Tree


def mask_other_tasks(logits: jax.Array, labels: jax.Array, sizes: Sequence[int]) -> jax.Array:
    """Logits with minus infinity outside the task of each image.

    Args:
      logits: (n, classes).
      labels: int (n,), which say which task an image belongs to.
      sizes: numbers of classes of the tasks, in the order of their labels. With less than two
        tasks the logits are returned unchanged.
    """
    own = own_classes(labels, sizes)
    return logits if own is None else jnp.where(own, logits, -jnp.inf)


def own_classes(labels: jax.Array, sizes: Sequence[int]) -> jax.Array | None:
    """Whether a class belongs to an image's task, bool (n, classes); None if there is one task."""
    if len(sizes) < 2:
        return None
    task_of_class = jnp.asarray(np.repeat(np.arange(len(sizes)), sizes))
    return task_of_class[None, :] == task_of_class[labels][:, None]


def class_ranges(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """(first class, last class + 1) of each task."""
    ends = np.cumsum(sizes).tolist()
    return [(end - size, end) for size, end in zip(sizes, ends, strict=True)]


def select_task_head(
    model: Model, variables: Tree, first: int, after_last: int
) -> tuple[Model, Tree]:
    """The network and its variables, with the classes `first` to `after_last - 1` of the head."""
    head = jax.tree.map(lambda leaf: leaf[..., first:after_last], variables["params"]["head"])
    params = {**variables["params"], "head": head}
    return model.clone(num_classes=after_last - first), {**variables, "params": params}
