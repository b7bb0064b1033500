"""How far a target's features lie from those of the source's own images.

A raw distance says little by itself: `tljax advise` shows it beside those of recorded targets.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tljax.advice.similarity import emd, frechet, mmd, proxy_a
from tljax.experiment import SourceStatistics, source_statistics, source_workdir
from tljax.experiment.statistics import STATISTICS_FILE

NAMES = ("frechet", "mmd", "proxy_a", "emd")


def compute(
    statistics: SourceStatistics, features: np.ndarray, labels: np.ndarray
) -> dict[str, float]:
    """Returns four distances between a source and a target; 0: as if of one distribution.

    `frechet` in units of the source's total variance, `emd` in units of its root, `mmd` and
    `proxy_a` as they are. See `tljax.advice.similarity` for the formulas and papers.

        statistics, _ = experiment.source_statistics(Path("runs/letters"))
        distances.compute(statistics, features, labels)["proxy_a"]  # 1.9

    Args:
      statistics: of the source.
      features: (n, d), what the head of the source's network sees of the target's images.
      labels: (n,), their classes.
    """
    x = np.asarray(features, np.float64)
    variance = float(np.trace(statistics.covariance.astype(np.float64))) or 1.0
    classes, counts = np.unique(labels, return_counts=True)
    means = np.stack([x[labels == label].mean(axis=0) for label in classes])
    present = statistics.counts > 0
    between = frechet(statistics.mean, statistics.covariance, x.mean(axis=0), np.cov(x.T))
    moved = emd(statistics.means[present], statistics.counts[present], means, counts)
    return {
        "frechet": between / variance,
        "mmd": mmd(statistics.sample, x),
        "proxy_a": proxy_a(statistics.sample, x),
        "emd": moved / variance**0.5,
    }


def of_source(
    init_from: str, features: np.ndarray, labels: np.ndarray
) -> tuple[dict[str, float], str, int]:
    """The distances to a source that is a workdir, and else the reason why there are none.

    The third value is the number of the source's images whose features were computed for it.

    Raises:
      InputError: if the workdir holds no weights.
    """
    workdir: Path | None = source_workdir(init_from)
    if workdir is None:
        return {}, "the source is a weights file, which keeps no statistics of its images", 0
    was_kept = (workdir / STATISTICS_FILE).exists()
    statistics, why_not = source_statistics(workdir)
    if statistics is None:
        return {}, why_not, 0
    images = 0 if was_kept else int(statistics.counts.sum())
    if statistics.covariance.shape[-1] != features.shape[1]:
        return {}, "the network ends at another group than the source's", images
    return compute(statistics, features, labels), "", images


def percentiles(
    found: Mapping[str, float], recorded: Mapping[str, list[float]]
) -> dict[str, float]:
    """Of each distance the share of recorded targets that are nearer."""
    return {
        name: float(np.mean(np.array(recorded[name]) < value))
        for name, value in found.items()
        if recorded.get(name)
    }
