"""The training loss: that of a problem, with smoothed, weighted or mixed labels.

Evaluations always report the plain loss, so that runs can be compared.
"""

from dataclasses import dataclass

import jax

from tljax.training.loss.mixing import Batch, mix
from tljax.training.problems import CLASSES, Problem


@dataclass(frozen=True)
class Objective:
    """A loss by its options; by default the mean loss of the problem.

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

    def loss(self, logits: jax.Array, batch: Batch, problem: Problem = CLASSES) -> jax.Array:
        """The mean loss over the images; cross-entropy is in nats.

        Args:
          logits: (n, outputs).
          batch: `label` (n,) or (n, outputs); optionally `weight`, of each image or of each image
            and output; and what `mix` adds.
          problem: what the head learns.
        """

        def losses(prefix: str) -> jax.Array:
            each = problem.losses(logits, batch[f"{prefix}label"], self.label_smoothing)
            if "weight" in batch:
                each = each * batch[f"{prefix}weight"].reshape(len(each), *[-1] * (each.ndim - 1))
            return each.reshape(len(each), -1).mean(axis=1)

        if "share" not in batch:
            return losses("").mean()
        share = batch["share"]
        return (share * losses("") + (1 - share) * losses("other_")).mean()
