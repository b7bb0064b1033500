"""What a step minimises: softmax cross-entropy of smoothed, weighted or mixed labels.

It is the training's alone. Evaluations always give the plain cross-entropy, so that runs compare.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from tljax.training.mixing import Batch, mixed
from tljax.training.tasks import own_classes, within_task


@dataclass(frozen=True)
class Objective:
    """The options of a loss; by default it is the mean cross-entropy.

    Attributes:
      label_smoothing: share of a label that is spread evenly over all classes (of its task), its
        own included (Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7).
      mixup, cutmix: see `tljax.training.mixing`; 0: off.
    """

    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def shown(self, batch: Batch, key: jax.Array) -> Batch:
        """What the network sees of a step's whole batch: the batch, or a mixture of it."""
        if not (self.mixup or self.cutmix):
            return batch
        return mixed(batch, key, self.mixup, self.cutmix)

    def loss(self, logits: jax.Array, batch: Batch, tasks: Sequence[int] = ()) -> jax.Array:
        """The mean over the images, in nats.

        Args:
          logits: (n, classes).
          batch: `label` (n,); perhaps each image's `weight` (n,), and what `mixed` adds.
          tasks: numbers of classes of several tasks; see `tljax.training.tasks`.
        """

        def losses(prefix: str) -> jax.Array:
            of_each = self._cross_entropy(logits, batch[f"{prefix}label"], tasks)
            return of_each * batch[f"{prefix}weight"] if "weight" in batch else of_each

        if "share" not in batch:
            return losses("").mean()
        share = batch["share"]
        return (share * losses("") + (1 - share) * losses("other_")).mean()

    def _cross_entropy(
        self, logits: jax.Array, labels: jax.Array, tasks: Sequence[int]
    ) -> jax.Array:
        if not self.label_smoothing:
            logits = within_task(logits, labels, tasks)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        own = own_classes(labels, tasks)
        certain = jax.nn.one_hot(labels, logits.shape[-1])
        smooth = optax.smooth_labels(certain, self.label_smoothing, where=own)
        return optax.softmax_cross_entropy(logits, smooth, where=own)


def accuracy(logits: jax.Array, batch: Batch, tasks: Sequence[int] = ()) -> jax.Array:
    """Share of the images whose largest logit is their label's; of two labels the larger counts."""
    label = batch["label"]
    if "share" in batch:
        label = jnp.where(batch["share"] >= 0.5, label, batch["other_label"])
    return jnp.mean(jnp.argmax(within_task(logits, label, tasks), -1) == label)
