"""scikit-learn, for linear heads on kept features."""

import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegressionCV, RidgeCV
from sklearn.preprocessing import StandardScaler

from benchmarks import jobs
from benchmarks.timing import time_call
from tljax.data.labels import strata
from tljax.frozen.cross_validation import assign_folds
from tljax.frozen.linear_head import strengths


def head(folder: Path, width: int, rows: int, outputs: int, kind: str) -> dict[str, Any]:
    """Times a head on tljax's grid and folds, with scikit-learn's own defaults.

    Of several labels each is a fit by itself: the one in the middle is timed and counted for all.
    """
    features, labels = jobs.make_features(width, rows, outputs, kind)
    (folds,) = assign_folds(strata(labels), seed=0)
    splits = [(np.flatnonzero(folds != k), np.flatnonzero(folds == k)) for k in range(5)]
    if kind == "regression":
        alphas = [l2 * rows for l2 in strengths(width)]
        model = RidgeCV(alphas, cv=splits, scoring="neg_mean_squared_error")
    else:
        model = LogisticRegressionCV(
            Cs=[1 / (l2 * rows) for l2 in strengths(width)],
            cv=splits,
            scoring="accuracy" if kind == "classes" else "neg_log_loss",
            use_legacy_attributes=False,
        )
    times = outputs if kind == "multi_label" else 1
    targets = labels[:, outputs // 2] if kind == "multi_label" else labels

    def fit() -> None:
        model.fit(StandardScaler().fit_transform(features), targets)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # at weak penalties
        began = time.process_time()
        seconds, _ = time_call(fit)
    found = {"seconds": times * seconds, "processor_seconds": times * (time.process_time() - began)}
    l2 = model.alpha_ / rows if kind == "regression" else 1 / (model.C_ * rows)
    return found | {"l2": float(l2)}
