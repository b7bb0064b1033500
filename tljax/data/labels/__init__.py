"""What the labels of a data set are: one class an image, several, or numbers; and their balance."""

from tljax.data.labels.balance import BalancedOrder, balanced_label_weights, balanced_weights
from tljax.data.labels.kinds import (
    KINDS,
    TOO_CLOSE,
    Kind,
    are_too_close,
    as_given_labels,
    as_labels,
    batch_of,
    constant_labels,
    kind_of,
    label_at,
    mean_and_deviation,
    strata,
)

__all__ = [
    "KINDS",
    "TOO_CLOSE",
    "BalancedOrder",
    "Kind",
    "are_too_close",
    "as_given_labels",
    "as_labels",
    "balanced_label_weights",
    "balanced_weights",
    "batch_of",
    "constant_labels",
    "kind_of",
    "label_at",
    "mean_and_deviation",
    "strata",
]
