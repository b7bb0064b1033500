"""scikit-learn, for linear heads on kept features."""

import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegressionCV
from sklearn.preprocessing import StandardScaler

from benchmarks import jobs
from benchmarks.timing import time_call
from tljax.frozen.cross_validation import assign_folds
from tljax.frozen.linear_head import strengths


def head(folder: Path, width: int, rows: int, classes: int) -> dict[str, Any]:
    """Times `LogisticRegressionCV` on tljax's grid and folds, with its own defaults."""
    features, labels = jobs.make_features(width, rows, classes)
    (folds,) = assign_folds(labels, seed=0)
    splits = [(np.flatnonzero(folds != k), np.flatnonzero(folds == k)) for k in range(5)]
    model = LogisticRegressionCV(
        Cs=[1 / (l2 * rows) for l2 in strengths(width)],
        cv=splits,
        scoring="accuracy",
        use_legacy_attributes=False,
    )

    def fit() -> None:
        model.fit(StandardScaler().fit_transform(features), labels)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # at weak penalties
        began = time.process_time()
        seconds, _ = time_call(fit)
    found = {"seconds": seconds, "processor_seconds": time.process_time() - began}
    return found | {"l2": float(1 / (model.C_ * rows))}
