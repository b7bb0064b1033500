"""WiSE-FT: the weights on the line from those before fine-tuning to those after it.

Wortsman et al. 2022 ("Robust fine-tuning of zero-shot models", section 4): the mean
(1 - alpha) * start + alpha * end of the weights is often more accurate than either end. Here start
are the weights of step 0, e.g. a linear probe's, and validation images choose alpha. Fine-tuning
that went wrong then costs time and not accuracy, since alpha may be 0.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tljax.training.evaluation import Evaluation

ALPHAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@jax.jit
def interpolate(start: Any, end: Any, alpha: float) -> Any:
    """(1 - alpha) * start + alpha * end, leaf by leaf; of integers the end's."""

    def mean(first: jax.Array, last: jax.Array) -> jax.Array:
        if not jnp.issubdtype(last.dtype, jnp.floating):
            return last
        return ((1 - alpha) * first + alpha * last).astype(last.dtype)

    return jax.tree.map(mean, start, end)


def choose(correct: np.ndarray, losses: Sequence[float]) -> int:
    """The candidate to take, by its answers on validation images.

    Few images cannot tell candidates apart by their accuracy. So of those whose accuracy is within
    one standard error of the highest one's (of the difference, counted on the images that only one
    of the two answers right; Breiman et al. 1984, "Classification and Regression Trees", section
    3.4.3), the one with the lowest loss is taken; of
    equals the first.

        choose(np.array([[1, 1, 0], [1, 0, 0]]), [0.9, 0.7])  # 1: too few images to tell

    Args:
      correct: (candidates, images), whether the answer is right.
      losses: the candidates' mean losses, in nats.
    """
    right = np.asarray(correct, float)
    lost = right[right.mean(1).argmax()] - right  # by each candidate, image by image
    noise = np.sqrt((lost**2).sum(1))  # of the number lost, if both were equally good (McNemar)
    equal = lost.sum(1) <= noise
    return int(np.where(equal, losses, np.inf).argmin())


def choose_by(evaluations: Sequence[Evaluation]) -> int:
    """The candidate to take, from evaluations with answers on the same images."""
    answers = [evaluation.answers for evaluation in evaluations]
    correct = np.array([one.predicted == one.labels for one in answers if one is not None])
    return choose(correct, [evaluation.loss for evaluation in evaluations])


def describe(evaluations: Sequence[Evaluation], chosen: int) -> dict[str, Any]:
    """What `result.json` says: `alpha`, `images` that decided, and every candidate's values."""
    return {
        "alpha": ALPHAS[chosen],
        "images": evaluations[chosen].count,
        "candidates": [
            {"alpha": alpha, "accuracy": one.accuracy, "loss": one.loss}
            for alpha, one in zip(ALPHAS, evaluations, strict=True)
        ],
    }
