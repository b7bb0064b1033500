"""Several tasks on one trunk: their heads are neighbouring columns of one layer, the `head` group.

An image's logits count within its own task alone: in the loss, in the accuracy, and in the
probabilities. With the other columns at minus infinity the softmax, its gradient and the largest
logit are those of a head of its own, so this is the same as separate heads, and the plan, the
optimizer, the cache and the checkpoints need not know of it.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from tljax.data import Source
from tljax.models import Model
from tljax.transfer.partition import Tree

if TYPE_CHECKING:
    from tljax.training.evaluation import Evaluation


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


def by_task(
    sizes: Mapping[str, int],
    train: Source,
    val: Source | None,
    validation: Mapping[str, Any] | None,
    test: "Evaluation | None",
) -> dict[str, dict[str, Any]]:
    """What `result.json` says of each task.

    Args:
      sizes: number of classes of each task by its name.
      train, val: the images of all tasks.
      validation: each task's values at the step whose weights are kept.
      test: of those weights.
    """
    trained_on = np.bincount(train.labels, minlength=sum(sizes.values()))
    validated_on = None if val is None else np.bincount(val.labels, minlength=len(trained_on))
    described: dict[str, dict[str, Any]] = {}
    for number, (name, (first, end)) in enumerate(
        zip(sizes, spans(list(sizes.values())), strict=True)
    ):
        accuracies = (validation or {}).get(name, {})
        described[name] = {
            "num_classes": sizes[name],
            "train_size": int(trained_on[first:end].sum()),
            "val_size": 0 if validated_on is None else int(validated_on[first:end].sum()),
            "val_accuracy": accuracies.get("accuracy"),
            "val_balanced_accuracy": accuracies.get("balanced_accuracy"),
        }
        if test is not None:
            part = test.tasks[number]
            commonest = first + int(trained_on[first:end].argmax())
            described[name] |= {
                "test_size": part.count,
                "test_accuracy": part.accuracy,
                "test_balanced_accuracy": part.balanced_accuracy,
                "test_loss": part.loss,
                "naive_accuracy": test.class_counts[commonest] / part.count,
            }
    return described
