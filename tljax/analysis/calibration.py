"""Whether a network is right as often as it says it is."""

from typing import NamedTuple

import numpy as np

BINS = 15  # as in Guo et al. 2017


class Reliability(NamedTuple):
    """Of answers, by confidence in bins of equal width from 0 to 1.

    Attributes:
      counts: int (bins,), answers in each bin.
      confidence: (bins,), their mean confidence; nan in an empty bin.
      accuracy: (bins,), the share of them that is right; nan in an empty bin.
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
    """Bins answers; bin i holds the confidences in (i / bins, (i + 1) / bins], as Guo et al. do.

    Args:
      confidences: (n,), probabilities of the predicted classes.
      right: bool (n,).
      bins: their number.
    """
    place = np.clip(np.ceil(np.asarray(confidences, np.float64) * bins) - 1, 0, bins - 1)
    place = place.astype(int)
    counts = np.bincount(place, minlength=bins)
    divisor = np.where(counts > 0, counts, np.nan)
    return Reliability(
        counts,
        np.bincount(place, np.asarray(confidences, np.float64), bins) / divisor,
        np.bincount(place, np.asarray(right, np.float64), bins) / divisor,
    )
