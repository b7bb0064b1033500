"""WiSE-FT: the weights on the line from those before fine-tuning to those after it.

Wortsman et al. 2022 ("Robust fine-tuning of zero-shot models", section 4): the mean
(1 - alpha) * start + alpha * end of the weights is often more accurate than either end. Here start
are the weights of step 0, e.g. a linear probe's. Validation images choose alpha, or it is given:
the paper recommends 0.5 where there are none. Fine-tuning that went wrong then costs time and not
accuracy, since alpha may be 0.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tljax.runs.resume import validation_rank
from tljax.runs.scores import WORDS, figure
from tljax.training.problems import Evaluation, Problem

_ALPHAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
# Metrics for which the goodness of each answer stands, see `Problem.goodness`.
OF_EACH_IMAGE = ("accuracy", "mean_average_precision", "r2", "rmse", "loss")


def candidates(alpha: float | None) -> tuple[float, ...]:
    """The places on the line to compare: those that validation chooses from, or around `alpha`."""
    return _ALPHAS if alpha is None else tuple(dict.fromkeys((0.0, alpha / 2, alpha)))


@jax.jit
def interpolate(start: Any, end: Any, alpha: float) -> Any:
    """(1 - alpha) * start + alpha * end, leaf by leaf; of integers the end's.

    With alpha 0 and 1 it is the start and the end to the bit.
    """

    def mean(first: jax.Array, last: jax.Array) -> jax.Array:
        if not jnp.issubdtype(last.dtype, jnp.floating):
            return last
        mixed = ((1 - alpha) * first + alpha * last).astype(last.dtype)
        return jnp.where(alpha == 0, first, jnp.where(alpha == 1, last, mixed))

    return jax.tree.map(mean, start, end)


def choose(
    alphas: Sequence[float],
    evaluations: Sequence[Evaluation],
    problem: Problem,
    *,
    is_given: bool,
    decides: str = "accuracy",
    out_of_fold: float | None = None,
    weights: np.ndarray | None = None,
) -> dict[str, Any]:
    """Chooses a place on the line.

    On validation images see `best_of`.

    If alpha is given, see `_checked`.

    Args:
      alphas: of `candidates`.
      evaluations: of each, on the same images; with answers.
      problem: what the answers are to.
      is_given: whether alpha is given, and the images are training images.
      decides: the metric that decides.
      out_of_fold: mean goodness of the start by cross-validation; None: not known, and that on the
        training images stands for it.
      weights: of the images in that mean; None: they count alike.

    Returns:
      What `result.json` says: `alpha`; the number of `images`, and whether they are `validation` or
      `training` images; and `candidates` with `alpha`, the metric that decides, and `loss`.
    """
    good = np.array([problem.goodness(one.answers) for one in evaluations])
    rows = [{**one.figures, "score": decides} for one in evaluations]
    if is_given:
        chosen = _checked(good, out_of_fold, weights)
    else:
        losses = [problem.comparable_loss([one], decides) for one in evaluations]
        chosen = best_of([validation_rank(row)[0] for row in rows], losses, good, decides)
    return {
        "alpha": alphas[chosen],
        "images": evaluations[chosen].count,
        "which": "training" if is_given else "validation",
        "candidates": [
            {"alpha": alpha, decides: row[decides], "loss": row["loss"]}
            for alpha, row in zip(alphas, rows, strict=True)
        ],
    }


def _checked(good: np.ndarray, out_of_fold: float | None, weights: np.ndarray | None) -> int:
    """The candidate to take if alpha is given, which training images can only check.

    It is the largest one whose answers to them are as good as those of the start to images that it
    was not fitted to. Weights that answer worse, although they were fitted to these images, are
    damaged: by fine-tuning, or because they lie where start and end are not connected (Frankle et
    al. 2020, "Linear mode connectivity and the lottery ticket hypothesis"). If only the answers of
    the start to its own images are known, one standard error less is enough.
    """
    means = np.average(good, axis=1, weights=weights)
    if out_of_fold is None:
        variance = means[0] * (1 - means[0]) if good.min() >= 0 else good[0].var()
        out_of_fold = means[0] - np.sqrt(variance / good.shape[1])
    enough = means >= out_of_fold - 1e-6  # which is rounding
    enough[0] = True
    return int(np.flatnonzero(enough).max())


def best_of(
    ranks: Sequence[float],
    losses: Sequence[float],
    goodness: np.ndarray,
    decides: str,
    errors: float = 1.0,
) -> int:
    """Returns the candidate to take.

    Few images cannot tell candidates apart by their accuracy. So of those that are no worse than
    the best one (see `no_worse`), the one with the lowest loss is taken; of equals the first. It is
    the loss after calibration: more steps make a network surer, right or wrong. A
    metric that no image has by itself, such as macro F1, chooses alone.

    Args:
      ranks: of each candidate, by the metric that decides; the highest is the best.
      losses: of each, see `Problem.comparable_loss`.
      goodness: (candidates, images), see `Problem.goodness`.
      decides: the metric.
      errors: number of standard errors.
    """
    best = max(range(len(ranks)), key=lambda number: (ranks[number], -losses[number]))
    if decides not in OF_EACH_IMAGE:
        return best
    equal = no_worse(goodness, than=best, errors=errors)
    return int(np.where(equal, losses, np.inf).argmin())


def no_worse(correct: np.ndarray, than: int, errors: float = 1.0) -> np.ndarray:
    """Whether each candidate is within one standard error of another's accuracy, or above.

        no_worse(np.array([[1, 1, 0, 1], [1, 0, 0, 1], [0, 0, 0, 0]]), than=0)  # True, True, False

    The standard error is that of the number of images on which only one of the two is right, if
    both were equally good (McNemar 1947; the rule of one standard error: Breiman et al. 1984,
    "Classification and Regression Trees", section 3.4.3).

    Args:
      correct: (candidates, images), whether the answer is right, or how good it is.
      than: the candidate to compare with.
      errors: number of standard errors.

    Returns:
      bool (candidates,).
    """
    right = np.asarray(correct, float)
    lost = right[than] - right  # by each candidate, image by image
    return np.asarray(lost.sum(1) <= errors * np.sqrt((lost**2).sum(1)))


def in_words(report: Mapping[str, Any], steps: int) -> str:
    """One sentence about a choice of `choose`."""
    chosen = next(one for one in report["candidates"] if one["alpha"] == report["alpha"])
    decides = next(name for name in chosen if name != "alpha")
    why = "by" if report["which"] == "validation" else "checked on"
    return (
        f"of the line from step 0 (0) to step {steps} (1), {report['alpha']:g} was taken, {why}"
        f" {report['images']:,} {report['which']} images: {WORDS[decides]}"
        f" {figure(chosen[decides], decides, digits=3)}"
    )
