"""Distances between the features of two sets of images, e.g. of the source's and the target's.

Raw values depend on the network and on the number of images; compare them with those of other
targets, from the same network. All compute in float64.
"""

import numpy as np
from scipy import sparse
from scipy.optimize import linprog
from scipy.spatial.distance import cdist
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import recall_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tljax.data.sources import evenly_spaced
from tljax.errors import InputError

_MOST = 1000  # images of a set that `mmd` compares with all others
_GAMMA = 0.01  # of Cui et al.
_FOLDS = 5


def frechet(mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray) -> float:
    """Returns the squared Fréchet distance between two Gaussians.

    |mean1 - mean2|^2 + trace(cov1 + cov2 - 2 (cov1^1/2 cov2 cov1^1/2)^1/2).

    Dowson & Landau 1982, "The Fréchet distance between multivariate normal distributions"; for
    features of images: Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule", section
    3.

        x, y = source_features, target_features
        distance = frechet(x.mean(0), np.cov(x.T), y.mean(0), np.cov(y.T))

    Args:
      mean1, mean2: (d,).
      cov1, cov2: (d, d).
    """
    means = [np.asarray(mean, np.float64) for mean in (mean1, mean2)]
    covs = [np.atleast_2d(np.asarray(cov, np.float64)) for cov in (cov1, cov2)]
    values, axes = np.linalg.eigh(covs[0])
    root = (axes * np.sqrt(np.maximum(values, 0))) @ axes.T
    between = np.linalg.eigvalsh(root @ covs[1] @ root)
    common = np.sqrt(np.maximum(between, 0)).sum()
    distance = np.square(means[0] - means[1]).sum() + sum(map(np.trace, covs)) - 2 * common
    return float(max(distance, 0.0))


def mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Returns the squared maximum mean discrepancy of two samples, unbiased.

    mean k(x, x') + mean k(y, y') - 2 mean k(x, y), the first two over pairs of different images,
    with k = exp(-distance^2 / (2 median^2)) and the median distance of all pairs. About 0, and as
    often below, for two samples of one distribution. Of more than 1,000 images, 1,000 evenly
    spaced ones are used.

    Gretton et al. 2012, "A Kernel Two-Sample Test", section 2.2 (lemma 6) and section 8 (median).

        distance = mmd(source_features, target_features)  # (n, d) and (m, d)
        noise = mmd(source_features[::2], source_features[1::2])

    Args:
      x: (n, d), n of 2 or more.
      y: (m, d), m of 2 or more.
    """
    x, y = (_evenly(np.asarray(rows, np.float64)) for rows in (x, y))
    both = np.concatenate([x, y])
    squares = cdist(both, both, "sqeuclidean")
    different = squares[np.triu_indices(len(both), 1)]
    median = float(np.median(different)) or 1.0  # the square's median is the median's square
    kernel = np.exp(-squares / (2 * median))
    n, m = len(x), len(y)
    within_x = (kernel[:n, :n].sum() - n) / (n * (n - 1))
    within_y = (kernel[n:, n:].sum() - m) / (m * (m - 1))
    return float(within_x + within_y - 2 * kernel[:n, n:].mean())


def proxy_a(x: np.ndarray, y: np.ndarray) -> float:
    """Returns the proxy A-distance: how well a linear classifier tells two samples apart.

    2 (1 - 2 e), with e its cross-validated error, to which both samples count the same: from 0
    (not at all; chance may make e larger than 1/2, which is 0 too) to 2 (perfectly). The
    classifier is a ridge regression on standardised features.

    Ben-David et al. 2007, "Analysis of Representations for Domain Adaptation", section 4.

        distance = proxy_a(source_features, target_features)  # (n, d) and (m, d)
        alike = distance < 0.5

    Args:
      x: (n, d), n of 2 or more.
      y: (m, d), m of 2 or more.
    """
    both = np.concatenate([np.asarray(rows, np.float64) for rows in (x, y)])
    sample = np.repeat([0, 1], [len(x), len(y)])
    ridge = RidgeClassifier(alpha=both.shape[1], class_weight="balanced")
    folds = StratifiedKFold(min(_FOLDS, len(x), len(y)), shuffle=True, random_state=0)
    found = cross_val_predict(make_pipeline(StandardScaler(), ridge), both, sample, cv=folds)
    error = 1 - float(recall_score(sample, found, average="macro"))
    return max(0.0, 2 * (1 - 2 * error))


def emd(
    means_x: np.ndarray, counts_x: np.ndarray, means_y: np.ndarray, counts_y: np.ndarray
) -> float:
    """Returns the earth mover's distance between two sets of classes.

    The least cost of moving the images of the first set to the second, each class at its mean,
    with the Euclidean distance between means as the cost of all images of a set, in proportion.

    Cui et al. 2018, "Large Scale Fine-Grained Categorization and Domain-Specific Transfer
    Learning", section 4.1.

        distance = emd(source_means, source_counts, target_means, target_counts)
        similarity = cui_similarity(distance)

    Args:
      means_x: (classes, d), of one set.
      counts_x: (classes,), images of each class; only their ratios count.
      means_y, counts_y: of the other set.
    """
    cost = cdist(np.asarray(means_x, np.float64), np.asarray(means_y, np.float64))
    masses = [np.asarray(counts, np.float64) for counts in (counts_x, counts_y)]
    if not all(len(mass) and (mass >= 0).all() and mass.sum() > 0 for mass in masses):
        raise InputError("a set of classes has no images; give counts that are not all 0")
    rows, columns = cost.shape
    leaving = sparse.kron(sparse.eye(rows), np.ones((1, columns)))
    arriving = sparse.kron(np.ones((1, rows)), sparse.eye(columns))
    moved = np.concatenate([mass / mass.sum() for mass in masses])
    plan = linprog(cost.ravel(), A_eq=sparse.vstack([leaving, arriving]), b_eq=moved)
    if not plan.success:
        raise RuntimeError(f"the transport problem was not solved: {plan.message}")
    return float(plan.fun)


def cui_similarity(distance: float) -> float:
    """Returns exp(-0.01 * distance), between 0 and 1, for a distance of `emd`.

    Cui et al. 2018, "Large Scale Fine-Grained Categorization and Domain-Specific Transfer
    Learning", equation 3. Published values span only .53 to .69.

        similarity = cui_similarity(emd(means_x, counts_x, means_y, counts_y))

    Args:
      distance: 0 or more.
    """
    return float(np.exp(-_GAMMA * distance))


def _evenly(rows: np.ndarray) -> np.ndarray:
    """The rows, or 1,000 of them, evenly spaced."""
    if len(rows) < 2:
        raise InputError(f"a sample has {len(rows)} images; give two or more of each")
    return rows[evenly_spaced(len(rows), _MOST)]
