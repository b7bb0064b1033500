"""Which source model suits a target: scores of their frozen features, ranks and agreement."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import weightedtau

from tljax import data as data_lib
from tljax.advice.neighbours import leave_one_out
from tljax.advice.sources import (
    Candidate,
    SourceNetwork,
    check_image_size,
    errors_name,
    fetch,
    load_network,
)
from tljax.advice.target import choose_images
from tljax.advice.transferability import h_score, leep, logme, nce, nleep, sfda
from tljax.console import console
from tljax.data import Source, groups_of
from tljax.errors import InputError, printable
from tljax.frozen.cache import cached, find_folder
from tljax.frozen.linear_head import solve_head
from tljax.models import ImageSize
from tljax.models.flops import flops

IMAGES = 5000  # at most, by default

# Scores in the order in which they are printed; of each, the higher the better.
SCORES = ("probe", "knn", "logme", "h_score", "nleep", "sfda", "leep", "nce")
PRIORS = ("top1", "parameters")


@dataclass(frozen=True)
class Scored:
    """A source model and its scores on the target's training images.

    Attributes:
      candidate: the model.
      parameters: number of them, without the head.
      image_size: of the images, in pixels.
      width: number of features.
      gflops: 1e9 floating-point operations for the features of an image, by XLA's count; None
        where JAX may not use the CPU, which counts.
      feature_seconds: to read the weights and to compute the features, or to read kept ones.
      score_seconds: to compute the scores.
      scores: by the names in `SCORES`; LEEP and NCE only of models with the source's head.
      right: (images,) whether cross-validated probes classified an image correctly.
    """

    candidate: Candidate
    parameters: int
    image_size: ImageSize
    width: int
    gflops: float | None
    feature_seconds: float
    score_seconds: float
    scores: dict[str, float]
    right: np.ndarray

    @property
    def figures(self) -> dict[str, float]:
        """The scores and the prior, as far as they are known."""
        top1 = {} if self.candidate.top1 is None else {"top1": self.candidate.top1}
        return {**self.scores, **top1, "parameters": float(self.parameters)}


@dataclass(frozen=True)
class Ranking:
    """Source models with their scores on one target.

    Attributes:
      data: the target.
      images: number of its training images that were used.
      available: number of its training images.
      num_classes: of the target.
      models: in the order in which they were named.
    """

    data: str
    images: int
    available: int
    num_classes: int
    models: tuple[Scored, ...]

    def ranks(self) -> list[dict[str, int]]:
        """The rank of each model in each figure, from 1, among the models of which it is known."""
        tables = [model.figures for model in self.models]
        return [
            {
                name: 1 + sum(other.get(name, -np.inf) > value for other in tables)
                for name, value in figures.items()
            }
            for figures in tables
        ]

    def mean_ranks(self, without: str | None = None) -> list[float]:
        """The mean of each model's ranks in the scores that are known of all models.

        Published accuracy and size are left out: they do not depend on the target.

        Args:
          without: a score to leave out; if no other one is known of all, all models are level.
        """
        common = [name for name in SCORES if all(name in model.scores for model in self.models)]
        common = [name for name in common if name != without]
        return [sum(ranks[name] for name in common) / max(len(common), 1) for ranks in self.ranks()]

    def agreement(self) -> dict[str, dict[str, float]]:
        """Weighted Kendall tau of each pair of figures over the models of which both are known.

        1: the same order, -1: the opposite; the best models count most (Vigna 2015). Pairs with
        fewer than three models, or with a figure that is the same for all, are left out.
        """
        tables = [model.figures for model in self.models]
        found: dict[str, dict[str, float]] = {}
        for a in (*SCORES, *PRIORS):
            for b in (*SCORES, *PRIORS):
                pairs = [(table[a], table[b]) for table in tables if a in table and b in table]
                if a == b or len(pairs) < 3:
                    continue
                tau = float(weightedtau(*np.array(pairs).T).statistic)
                if np.isfinite(tau):
                    found.setdefault(a, {})[b] = tau
        return found

    def cost(self) -> dict[str, float | None]:
        """What the ranking took: images, seconds and, where they can be counted, GFLOPs."""
        counts = [model.gflops for model in self.models]
        known = [count for count in counts if count is not None]
        return {
            "images": self.images,
            "feature_seconds": sum(model.feature_seconds for model in self.models),
            "score_seconds": sum(model.score_seconds for model in self.models),
            "gflops": self.images * sum(known) if len(known) == len(counts) else None,
        }


def rank(
    data: str,
    candidates: Sequence[Candidate],
    *,
    images: int = IMAGES,
    image_size: ImageSize | None = None,
    data_dir: str | None = None,
    seed: int = 0,
) -> Ranking:
    """Scores source models on the training images of a target; test images are never used.

    The features are kept on the disk: a later ranking, or a run that freezes the whole network,
    reads them instead of computing them.

        ranking = rank("folder:PETS", find_candidates(["resnet50.*"]))
        choice = choose(ranking)

    Args:
      data: the target, as in a config's `data`.
      candidates: from `find_candidates`.
      images: how many training images to use at most; they are drawn by class, two of each at
        least.
      image_size: of the images; None: each model's own.
      data_dir: where `tfds:` data lies.
      seed: of the drawn images and of the folds.

    Raises:
      InputError: if the target cannot be read or has too few images or classes, or a model's
        weights cannot be fetched or do not fit.
    """
    dataset = data_lib.load(data, val_fraction=0.0, data_dir=data_dir, seed=seed)
    train = choose_images(dataset, data, images, seed)
    for candidate in candidates:
        check_image_size(candidate, image_size)
    for candidate in candidates:
        fetch(candidate)
    scored = []
    for number, candidate in enumerate(candidates, 1):
        progress = f"{number} of {len(candidates)}: {printable(candidate.name)}"
        console.print(progress, markup=False, soft_wrap=True)
        with errors_name(candidate):
            scored.append(_score(candidate, train, dataset.num_classes, image_size, seed))
    classes = len(np.unique(train.labels))
    return Ranking(data, len(train), len(dataset.train), classes, tuple(scored))


def _score(
    candidate: Candidate,
    train: Source,
    num_classes: int,
    image_size: ImageSize | None,
    seed: int,
) -> Scored:
    """Computes a model's features and all its scores."""
    begin = time.monotonic()
    network = load_network(candidate, image_size)
    features = compute_features(network, train)
    done = time.monotonic()
    if not np.isfinite(features).all():
        bad = int((~np.isfinite(features).all(axis=1)).sum())
        raise InputError(
            f"its features of {bad:,} of {len(features):,} images are not finite; check its weights"
        )
    scores, right = score_features(
        features, train.labels, num_classes, network.head, seed, groups_of(train)
    )
    return Scored(
        candidate,
        network.parameters,
        network.preprocessing.image_size,
        features.shape[1],
        _gflops(network),
        done - begin,
        time.monotonic() - done,
        scores,
        right,
    )


def compute_features(network: SourceNetwork, source: Source) -> np.ndarray:
    """What the head sees of a source's images, (n, d) float32; rows are kept on the disk."""
    groups = len(network.model.groups) - 1
    folder = find_folder("auto", on_disk=True)
    kept = cached(network.model, network.variables, network.preprocessing, groups, source, folder)
    return np.array(kept.features[kept.rows])


def score_features(
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    head: tuple[np.ndarray, np.ndarray] | None,
    seed: int = 0,
    groups: np.ndarray | None = None,
) -> tuple[dict[str, float], np.ndarray]:
    """Computes all scores of a model's features.

    Args:
      features: (n, d).
      labels: (n,), below `num_classes`.
      num_classes: of the target.
      head: kernel and bias of the source's head; None: without LEEP and NCE.
      seed: of the folds.
      groups: (n,), images that are held out together; None: each is alone.

    Returns:
      The scores by name; and (n,) whether a probe that was not fitted on the image was right.
    """
    solved = solve_head(features, labels, num_classes, seed=seed, groups=groups)
    right = np.asarray(solved.out_of_fold == labels)
    scores = {
        "probe": float(right.mean()),
        "knn": leave_one_out(features, labels, groups),
        "logme": logme(features, labels),
        "h_score": h_score(features, labels),
        "nleep": nleep(features, labels),
        "sfda": sfda(features, labels),
    }
    if head is not None:
        logits = np.asarray(features, np.float64) @ head[0] + head[1]
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores["leep"] = leep(powers / powers.sum(axis=1, keepdims=True), labels)
        scores["nce"] = nce(logits.argmax(axis=1), labels)
    return scores, right


def _gflops(network: SourceNetwork) -> float | None:
    """1e9 operations for the features of one image; None where they cannot be counted."""
    image = jax.ShapeDtypeStruct((1, *network.preprocessing.image_shape), jnp.float32)
    run = partial(network.model.apply, train=False, stop=len(network.model.groups) - 1)
    try:
        return flops(run, network.variables, image) / 1e9
    except InputError:
        return None


def to_json(ranking: Ranking) -> dict[str, Any]:
    """Everything that a ranking found, for a JSON file."""
    rows = zip(ranking.models, ranking.ranks(), ranking.mean_ranks(), strict=True)
    return {
        "data": ranking.data,
        "images": ranking.images,
        "training_images": ranking.available,
        "classes": ranking.num_classes,
        "models": [_row(model, ranks, mean) for model, ranks, mean in rows],
        "agreement": ranking.agreement(),
        "cost": ranking.cost(),
    }


def _row(model: Scored, ranks: Mapping[str, int], mean_rank: float) -> dict[str, Any]:
    candidate = model.candidate
    return {
        "name": candidate.name,
        "model": candidate.model,
        "top1": candidate.top1,
        "parameters": model.parameters,
        "image_size": model.image_size,
        "features": model.width,
        "gflops": model.gflops,
        "feature_seconds": model.feature_seconds,
        "score_seconds": model.score_seconds,
        "scores": model.scores,
        "ranks": dict(ranks),
        "mean_rank": mean_rank,
    }
