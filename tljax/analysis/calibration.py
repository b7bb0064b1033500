"""Calibration: how well a network's confidence agrees with its accuracy."""

from typing import NamedTuple

import numpy as np

BINS = 15  # as in Guo et al. 2017


class Reliability(NamedTuple):
    """Predictions in bins of equal width, by confidence from 0 to 1.

    Attributes:
      counts: int (bins,), predictions in each bin.
      confidence: (bins,), their mean confidence; nan in an empty bin.
      accuracy: (bins,), their accuracy; nan in an empty bin.
    """

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def ece(self) -> float:
        """Expected calibration error: sum over bins of n_b / n |accuracy_b - confidence_b|.

        C. Guo, G. Pleiss, Y. Sun and K. Weinberger, "On calibration of modern neural networks",
        2017, equation 3; after M. Naeini, G. Cooper and M. Hauskrecht, 2015.
        """
        filled = self.counts > 0
        gaps = np.abs(self.accuracy[filled] - self.confidence[filled])
        return float(self.counts[filled] @ gaps / self.counts.sum())


def reliability(confidences: np.ndarray, right: np.ndarray, bins: int = BINS) -> Reliability:
    """Bins predictions by confidence; bin i holds (i / bins, (i + 1) / bins], as in Guo et al.

        reliability(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels).ece

    Args:
      confidences: (n,), probabilities of the predicted classes.
      right: bool (n,), whether each prediction is correct.
      bins: number of bins.
    """
    index = np.clip(np.ceil(np.asarray(confidences, np.float64) * bins) - 1, 0, bins - 1)
    index = index.astype(int)
    counts = np.bincount(index, minlength=bins)
    divisor = np.where(counts > 0, counts, np.nan)
    return Reliability(
        counts,
        np.bincount(index, np.asarray(confidences, np.float64), bins) / divisor,
        np.bincount(index, np.asarray(right, np.float64), bins) / divisor,
    )
