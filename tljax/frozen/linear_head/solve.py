"""Solves a linear head for labels of any kind."""

import math

import numpy as np

from tljax.data.labels import kind_of, strata
from tljax.errors import InputError
from tljax.frozen.cross_validation import assign_folds
from tljax.frozen.linear_head.logistic import solve_logistic
from tljax.frozen.linear_head.problem import HeadProblem, SolvedHead, standardisation
from tljax.frozen.linear_head.ridge import solve_ridge
from tljax.frozen.linear_head.softmax import solve_softmax

_FEWEST = 3  # images, of which a fold leaves two to fit on
_SOLVERS = {"classes": solve_softmax, "multi_label": solve_logistic, "regression": solve_ridge}


def solve_head(
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    *,
    l2: float | None = None,
    weights: np.ndarray | None = None,
    views: int = 1,
    seed: int = 0,
    groups: np.ndarray | None = None,
) -> SolvedHead:
    """Solves a linear head: the minimum of a convex loss + l2 / 2 * |kernel|^2.

    The kernel in the penalty is that of standardised features (mean 0, deviation 1 over the rows;
    less for those that hardly vary, see `standardisation`). A constant feature gets weight 0; the
    bias is not penalised. The loss is a mean over the rows, and follows from the kind of labels:

    classes: cross-entropy. This is scikit-learn's `LogisticRegression` with C = 1 / (l2 * n), or
      2 / (l2 * n) of two classes, for which it has one logit. `report["loss"]` has the penalty
      in it.
    multi_label: the sum over the classes of the sigmoid cross-entropy, so that the strength means
      the same however many classes there are. Each class is scikit-learn's `LogisticRegression`
      with C = 1 / (l2 * n); all have the same strength. A class that all rows have, or none (of
      those with a weight), gets a constant logit, log(2n + 1) or its negative, as if half an image
      differed. `report["loss"]` is the minimum divided by the number of classes: the mean over
      classes, with the penalty.
    regression: half the sum over the outputs of the squared error of standardised numbers
      ((y - mean) / deviation over the images; deviation 1 of a constant), which the head predicts.
      This is scikit-learn's `Ridge` with alpha = l2 * n. `report["loss"]` is twice the minimum
      divided by the number of outputs: the mean squared error, with the penalty.

    The folds of the cross-validation are stratified by `tljax.data.strata` of the labels. Of
    classes it chooses by accuracy, otherwise by loss. The same input gives the same bits; what
    computes is one device of the process, or of regression its processor, so the result does not
    depend on how many devices there are.

    Args:
      features: (n, d).
      labels: of one of the kinds in `tljax.data.labels.kinds`: (n,) classes below `num_classes`, or
        (n, num_classes).
      num_classes: outputs of the head; a class may be without images.
      l2: strength of the penalty; None: chosen from a grid by cross-validation.
      weights: (n,), of the rows in the loss; only their ratios count. Of multi_label also
        (n, num_classes), of which the ratios within a class count. None: all the same.
      views: of each image: row r is of image r % (n // views). The views of an image are in the
        same fold.
      seed: of the folds.
      groups: (n // views,), images that are held out together; None: each is alone. A class of a
        single group is held out whole, so that cross-validation is wrong on it.

    Raises:
      InputError: if all images have the same labels, all features are constant or some not finite,
        `l2` is not a number above 0, or `l2` is to be chosen and a class has a single image, or
        there are fewer than three images.
    """
    x, labels = np.asarray(features, np.float32), np.asarray(labels)
    images = len(x) // views
    _check(x, labels[:images], l2, groups)
    mean, inverse = standardisation(x)
    folds = None
    if l2 is None:
        folds = assign_folds(strata(labels[:images]), seed, groups=groups)
    problem = HeadProblem(x, labels, num_classes, mean, inverse, weights, images, folds, l2)
    return _SOLVERS[kind_of(labels)](problem)


def _check(x: np.ndarray, labels: np.ndarray, l2: float | None, groups: np.ndarray | None) -> None:
    """Raises InputError if no head can be solved, or no strength chosen."""
    if l2 is not None and not 0 < l2 < math.inf:
        raise InputError(f"l2 is {l2}; set it to a number above 0, e.g. 0.1, or leave it out")
    if not (np.isfinite(x.min()) and np.isfinite(x.max())):
        bad = int((~np.isfinite(x).all(axis=1)).sum())
        raise InputError(
            f"the features of {bad:,} of {len(x):,} rows are not finite, so no head can be solved;"
            " check the weights that init_from names, or set dtype to float32"
        )
    kind = kind_of(labels)
    if kind == "classes":
        _check_classes(labels, alone=l2 is None and groups is None)
        return
    if kind == "multi_label":
        _check_several(labels)
    else:
        _check_numbers(labels)
    if l2 is None and len(labels) < _FEWEST:
        raise InputError(
            f"there are {len(labels)} training images, too few for a cross-validation; add images,"
            " or set l2, e.g. to 0.1, which needs none"
        )


def _check_classes(labels: np.ndarray, alone: bool) -> None:
    """`alone`: whether each image is held out by itself."""
    present, counts = np.unique(labels, return_counts=True)
    if len(present) < 2:
        raise InputError(
            f"all {len(labels):,} training images are of one class, so there is nothing to solve;"
            " give images of two classes or more"
        )
    single = present[counts < 2]
    if alone and len(single):
        raise InputError(
            f"{len(single)} of {len(present)} classes have a single training image (the first is"
            f" number {single[0]}), which cross-validation cannot hold out; add images, or set l2,"
            " e.g. to 0.1, which needs no cross-validation"
        )


def _check_several(labels: np.ndarray) -> None:
    if not labels.any():
        raise InputError(
            f"none of the {len(labels):,} training images has a label, so there is nothing to"
            " solve; check the labels"
        )
    if labels.min(axis=0).tobytes() == labels.max(axis=0).tobytes():
        raise InputError(
            f"all {len(labels):,} training images have the same labels, so there is nothing to"
            " solve; give images that differ in one"
        )


def _check_numbers(labels: np.ndarray) -> None:
    if bad := int((~np.isfinite(labels).all(axis=1)).sum()):
        raise InputError(
            f"the numbers of {bad:,} of {len(labels):,} training images are not finite; leave these"
            " images out"
        )
    if (labels == labels[0]).all():
        raise InputError(
            f"all {len(labels):,} training images have the same numbers, so there is nothing to"
            " solve; give images that differ in one"
        )
