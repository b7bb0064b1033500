"""Transferability scores: how well a source model suits a target, without any training on it.

The higher, the better. Each compares models on the same images; values of different targets do not
compare. All compute in float64.
"""

import warnings

import numpy as np
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from tljax.errors import InputError

_RANK = 1e-12  # an axis with less than this share of the largest variance counts as none
_LOGME_EPSILON = 1e-5  # added to both denominators, as in thuml/LogME
_LOGME_STEPS = 200
_NLEEP_VARIANCE = 0.8
_NLEEP_PER_CLASS = 5  # components
_NLEEP_IMAGES = 5  # a component at least
_NLEEP_RIDGE = 1e-3  # added to the variances, relative to that of the first axis
_SFDA_DECAY = 5.0


def logme(features: np.ndarray, labels: np.ndarray) -> float:
    """Returns LogME: the largest log evidence per image of a Bayesian linear model of the labels.

    For each class, y is 1 for its images and 0 for the others, the weights w have the prior
    N(0, 1/alpha) and y given the features F is N(F w, 1/beta). The evidence
    log p(y | F, alpha, beta) / n is maximised over alpha and beta by the fixed-point iteration
    alpha = gamma / |m|^2, beta = (n - gamma) / |F m - y|^2, with m the posterior mean of w and
    gamma the effective number of weights; the mean over classes is the score. Raw features, with
    no bias, as published.

    You et al. 2021, "LogME: Practical Assessment of Pre-trained Models for Transfer Learning",
    section 4; the iteration is that of "Ranking and Tuning Pre-trained Models" (You et al. 2022),
    section 4.3. Unlike their code it also counts the weights that images do not determine where
    there are fewer images than features.

        score = logme(features, labels)  # (n, d) and (n,)
        better = logme(other_features, labels) > score

    Args:
      features: (n, d).
      labels: (n,), integers from 0.
    """
    x, y = _checked(features, labels)
    values, axes = np.linalg.eigh(x @ x.T if len(x) < x.shape[1] else x.T @ x)
    kept = values > _RANK * max(values[-1], 1e-300)
    values, axes = values[kept], axes[:, kept]
    if len(x) >= x.shape[1]:  # axes of the features -> axes of the images
        axes = x @ axes / np.sqrt(values)
    one_hot = np.eye(y.max() + 1)[y]
    along = np.square(axes.T @ one_hot)
    outside = np.maximum(one_hot.sum(axis=0) - along.sum(axis=0), 0)
    scores = [_evidence(len(x), values, *parts) for parts in zip(along.T, outside, strict=True)]
    return float(np.mean(scores))


def _evidence(n: int, values: np.ndarray, along: np.ndarray, outside: float) -> float:
    """The largest log evidence per image for one class.

    Args:
      n: number of images.
      values: (k,), eigenvalues of F F', above 0.
      along: (k,), squares of the labels along its eigenvectors.
      outside: square of the rest of the labels.
    """
    alpha, beta = 1.0, 1.0
    for _ in range(_LOGME_STEPS):
        ratio = alpha / beta
        gamma = (values / (values + ratio)).sum()
        unused = n - len(values) + (ratio / (values + ratio)).sum()  # n - gamma, without a loss
        norm = (values * along / np.square(values + ratio)).sum()
        residual = (along * np.square(ratio / (values + ratio))).sum() + outside
        alpha, beta = gamma / (norm + _LOGME_EPSILON), unused / (residual + _LOGME_EPSILON)
        if abs(alpha / beta - ratio) <= 1e-6 * ratio:
            break
    evidence = n * np.log(beta / (2 * np.pi)) - np.log1p(values * beta / alpha).sum()
    return float((evidence - beta * residual - alpha * norm) / (2 * n))


def h_score(features: np.ndarray, labels: np.ndarray) -> float:
    """Returns the regularised H-score: how much of the features' variance is between classes.

    trace(S^-1 (1 - a) B): B is the covariance of the class means, one for each image, and
    S = (1 - a) C + a (trace C / d) I the features' covariance C, shrunk by the share a of Ledoit
    and Wolf 2004. Between 0 and the number of classes - 1.

    Bao et al. 2019, "An Information-Theoretic Approach to Transferability in Task Transfer
    Learning", section 3; shrinkage: Ibrahim et al. 2022, "Newer is not always better", section 3.

        score = h_score(features, labels)  # (n, d) and (n,)
        share = score / (len(np.unique(labels)) - 1)

    Args:
      features: (n, d).
      labels: (n,), integers from 0.
    """
    x, y = _checked(features, labels)
    projected, variances = _principal(x)
    if not len(variances):
        return 0.0
    shrinkage = float(ledoit_wolf_shrinkage(x)) if x.shape[1] > 1 else 0.0
    counts, means = _class_means(projected, y)
    between = (counts / len(y)) @ np.square(means)
    shrunk = (1 - shrinkage) * variances + shrinkage * variances.sum() / x.shape[1]
    return float((1 - shrinkage) * (between / shrunk).sum())


def nleep(features: np.ndarray, labels: np.ndarray) -> float:
    """Returns NLEEP: LEEP with the clusters of the features in place of source classes.

    The features are reduced to the first principal components with 80 % of the variance. A mixture
    of Gaussians with 5 components a class is fitted to them, and the score is `leep` of the
    components' posterior probabilities. At most 0.

    Li et al. 2021, "Ranking Neural Checkpoints", section 4.2. Here the covariances are diagonal,
    and there is a component for every 5 images at most, so that few images can be clustered too.

        score = nleep(features, labels)  # (n, d) and (n,)
        better = nleep(other_features, labels) > score

    Args:
      features: (n, d).
      labels: (n,), integers from 0.
    """
    x, y = _checked(features, labels)
    projected, variances = _principal(x)
    if not len(variances):
        return leep(np.ones((len(y), 1)), y)
    share = np.cumsum(variances) / variances.sum()
    reduced = projected[:, : 1 + int(np.searchsorted(share, _NLEEP_VARIANCE))]
    components = int(np.clip(len(y) // _NLEEP_IMAGES, 1, _NLEEP_PER_CLASS * (y.max() + 1)))
    mixture = GaussianMixture(
        components, covariance_type="diag", reg_covar=_NLEEP_RIDGE, random_state=0
    )
    with warnings.catch_warnings():  # a mixture that is nearly fitted, or of equal images, will do
        warnings.simplefilter("ignore", ConvergenceWarning)
        reduced = reduced / np.sqrt(variances[0])
        return leep(mixture.fit(reduced).predict_proba(reduced), y)


def sfda(features: np.ndarray, labels: np.ndarray) -> float:
    """Returns SFDA: the mean probability of the right class under a Fisher discriminant.

    The discriminant's covariance within classes W is regularised, (1 - r) W + r (trace W / d) I,
    with r = exp(-5 * largest eigenvalue of W), at least 1e-10. It is fitted twice, the second time
    to features of which each is mixed with the mean of the other classes, the more the less sure
    the first one was of it; how sure is a softmax of its probabilities. Between 0 and 1. Where
    there are hardly more images than features, any features separate the classes and the score is
    near 1 for all models.

    Shao et al. 2022, "Not All Models Are Equal: Predicting Model Transferability in a
    Self-challenging Fisher Space", section 4; that second softmax, and the mean of probabilities,
    not of their logarithms, are those of the authors' code.

        score = sfda(features, labels)  # (n, d) and (n,)
        better = sfda(other_features, labels) > score

    Args:
      features: (n, d).
      labels: (n,), integers from 0.
    """
    x, y = _checked(features, labels)
    width = x.shape[1]
    x, variances = _principal(x)  # along which alone the discriminants of two classes differ
    if not len(variances):
        return float(np.square(np.bincount(y) / len(y)).sum())
    within = _within(x, y)
    shrinkage = max(np.exp(-_SFDA_DECAY * float(np.linalg.eigvalsh(within)[-1])), 1e-10)
    right = np.arange(len(y)), y
    sure = _softmax(_fisher(x, y, within, shrinkage, width))[right][:, None]
    _, means = _class_means(x, y)
    others = (means.sum(axis=0) - means) / (len(means) - 1)
    mixed = sure * x + (1 - sure) * others[y]
    return float(_fisher(mixed, y, _within(mixed, y), shrinkage, width)[right].mean())


def _within(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The covariance within classes."""
    deviations = x - _class_means(x, labels)[1][labels]
    return np.asarray(deviations.T @ deviations / len(x))


def _fisher(
    x: np.ndarray, labels: np.ndarray, within: np.ndarray, shrinkage: float, width: int
) -> np.ndarray:
    """Probabilities of the classes, (n, classes), under a regularised Fisher discriminant.

    `x` may leave out directions without variance; the features have `width` with them.
    """
    counts, means = _class_means(x, labels)
    ridge = shrinkage * np.trace(within) / width
    values, axes = np.linalg.eigh((1 - shrinkage) * within + ridge * np.eye(len(within)))
    floor = max(ridge, np.finfo(float).eps * np.square(x).sum() / len(x))  # above rounding
    weights = axes / np.sqrt(np.maximum(values, floor))
    x, means = x @ weights, means @ weights
    scores = x @ means.T - np.square(means).sum(axis=1) / 2 + np.log(counts / len(labels))
    return _softmax(scores)


def leep(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Returns LEEP: the mean log likelihood of the labels, predicted through the source's classes.

    mean over images of log sum_z P(y | z) p(z | x): p(z | x) are the source head's probabilities,
    and P(y | z) the target classes' shares of source class z, P(y, z) being the mean of p(z | x)
    over images, counted for their class. At most 0.

    Nguyen et al. 2020, "LEEP: A New Measure to Evaluate Transferability of Learned
    Representations", section 3.

        probabilities = np.asarray(jax.nn.softmax(source_logits))
        score = leep(probabilities, labels)  # (n, source classes) and (n,)

    Args:
      probabilities: (n, source classes), whose rows add up to 1.
      labels: (n,), integers from 0.
    """
    p, y = _checked(probabilities, labels)
    joint = np.eye(y.max() + 1)[y].T @ p
    total = joint.sum(axis=0)
    shares = np.divide(joint, total, out=np.zeros_like(joint), where=total > 0)
    likelihood = (p * shares[y]).sum(axis=1) / p.sum(axis=1)
    return float(np.log(np.maximum(likelihood, np.finfo(float).tiny)).mean())


def nce(source_labels: np.ndarray, labels: np.ndarray) -> float:
    """Returns the negative conditional entropy of the labels, given predicted source classes.

    -H(Y | Z) = sum over pairs of P(z, y) log P(y | z), from counts. At most 0; it is `leep` of a
    source head that is sure of all its predictions.

    Tran et al. 2019, "Transferability and Hardness of Supervised Classification Tasks", section 3.

        source_labels = source_logits.argmax(axis=1)
        score = nce(source_labels, labels)  # (n,) and (n,)

    Args:
      source_labels: (n,), integers from 0: the class that the source head predicts.
      labels: (n,), integers from 0.
    """
    _, z = np.unique(source_labels, return_inverse=True)
    return leep(np.eye(z.max() + 1)[z], labels)


def _checked(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The features in float64, and the labels numbered without gaps.

    Raises:
      InputError: if there are not as many labels as rows, numbers are not finite, or all labels are
        the same.
    """
    x = np.asarray(features, np.float64)
    if x.ndim != 2 or not len(x) or np.shape(labels) != (len(x),):
        raise InputError(
            f"features have shape {x.shape} and labels {np.shape(labels)}, but (n, d) and (n,) are"
            " expected; give one row of features for each label"
        )
    if not np.isfinite(x).all():
        bad = int((~np.isfinite(x).all(axis=1)).sum())
        raise InputError(f"{bad:,} of {len(x):,} rows are not finite; check the source's weights")
    present, y = np.unique(labels, return_inverse=True)
    if len(present) < 2:
        raise InputError(
            f"all {len(y):,} images are of one class; give images of two classes or more"
        )
    return x, y


def _principal(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(projections (n, k), variances (k,)) of the principal axes that vary, the largest first."""
    centred = x - x.mean(axis=0)
    wide = len(x) < x.shape[1]
    values, axes = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    scale = max(np.square(x).sum() * np.finfo(float).eps, np.finfo(float).tiny)
    kept = np.flatnonzero(values > max(_RANK * values[-1], scale))[::-1]
    values, axes = values[kept], axes[:, kept]
    projected = axes * np.sqrt(values) if wide else centred @ axes
    return projected, values / len(x)


def _class_means(x: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(images a class (classes,), mean of each class (classes, d))."""
    one_hot = np.eye(labels.max() + 1)[labels]
    counts = one_hot.sum(axis=0)
    return counts, one_hot.T @ x / counts[:, None]


def _softmax(scores: np.ndarray) -> np.ndarray:
    """Probabilities in proportion to exp(scores), a row each."""
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
