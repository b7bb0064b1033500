"""Several tasks on one trunk: their heads are neighbouring columns of one layer, the `head` group.

An image's logits count within its own task alone: in the loss, in the accuracy, and in the
probabilities. With the other columns at minus infinity the softmax, its gradient and the largest
logit are those of a head of its own, so this is the same as separate heads, and the plan, the
optimizer, the cache and the checkpoints need not know of it.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tljax.models import Model
from tljax.transfer.partition import Tree


def within_task(logits: jax.Array, labels: jax.Array, sizes: Sequence[int]) -> jax.Array:
    """Logits with minus infinity outside the task of each image.

    Args:
      logits: (n, classes).
      labels: int (n,), which say whose image it is.
      sizes: numbers of classes of the tasks, in the order of their labels; less than two tasks
        leave the logits as they are.
    """
    own = own_classes(labels, sizes)
    return logits if own is None else jnp.where(own, logits, -jnp.inf)


def own_classes(labels: jax.Array, sizes: Sequence[int]) -> jax.Array | None:
    """Which classes are of the task of each image, bool (n, classes); None if there is one task."""
    if len(sizes) < 2:
        return None
    task_of_class = jnp.asarray(np.repeat(np.arange(len(sizes)), sizes))
    return task_of_class[None, :] == task_of_class[labels][:, None]


def spans(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """First class of each task, and the one after its last."""
    ends = np.cumsum(sizes).tolist()
    return [(end - size, end) for size, end in zip(sizes, ends, strict=True)]


def with_head_of(model: Model, variables: Tree, first: int, after_last: int) -> tuple[Model, Tree]:
    """The network whose head has the classes `first` to `after_last - 1` alone."""
    head = jax.tree.map(lambda leaf: leaf[..., first:after_last], variables["params"]["head"])
    params = {**variables["params"], "head": head}
    return model.clone(num_classes=after_last - first), {**variables, "params": params}
