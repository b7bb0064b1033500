"""The training loss: softmax cross-entropy of smoothed, weighted or mixed labels.

Evaluations always report the plain cross-entropy, so that runs can be compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from tljax.training.loss.mixing import Batch, mix
from tljax.training.loss.tasks import mask_other_tasks, own_classes


@dataclass(frozen=True)
class Objective:
    """A loss by its options; by default the mean cross-entropy.

    Attributes:
      label_smoothing: share of a label that is spread evenly over all classes (of its task),
        including its own (Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7).
      mixup, cutmix: see `tljax.training.loss.mixing`; 0: off.
    """

    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def mix(self, batch: Batch, key: jax.Array) -> Batch:
        """The batch as the network sees it: mixed, if mixup or CutMix is on."""
        if not (self.mixup or self.cutmix):
            return batch
        return mix(batch, key, self.mixup, self.cutmix)

    def loss(self, logits: jax.Array, batch: Batch, tasks: Sequence[int] = ()) -> jax.Array:
        """The mean loss over the images, in nats.

        Args:
          logits: (n, classes).
          batch: `label` (n,); optionally `weight` (n,) of each image, and what `mix` adds.
          tasks: numbers of classes of several tasks; see `tljax.training.loss.tasks`.
        """

        def losses(prefix: str) -> jax.Array:
            each = self._cross_entropy(logits, batch[f"{prefix}label"], tasks)
            return each * batch[f"{prefix}weight"] if "weight" in batch else each

        if "share" not in batch:
            return losses("").mean()
        share = batch["share"]
        return (share * losses("") + (1 - share) * losses("other_")).mean()

    def _cross_entropy(
        self, logits: jax.Array, labels: jax.Array, tasks: Sequence[int]
    ) -> jax.Array:
        if not self.label_smoothing:
            logits = mask_other_tasks(logits, labels, tasks)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        own = own_classes(labels, tasks)
        certain = jax.nn.one_hot(labels, logits.shape[-1])
        smooth = optax.smooth_labels(certain, self.label_smoothing, where=own)
        return optax.softmax_cross_entropy(logits, smooth, where=own)


def accuracy(logits: jax.Array, batch: Batch, tasks: Sequence[int] = ()) -> jax.Array:
    """Share of the images whose largest logit is their label's.

    Of a mixed image the label with the larger share counts.
    """
    label = batch["label"]
    if "share" in batch:
        label = jnp.where(batch["share"] >= 0.5, label, batch["other_label"])
    return jnp.mean(jnp.argmax(mask_other_tasks(logits, label, tasks), -1) == label)
