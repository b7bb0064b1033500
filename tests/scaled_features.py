"""How a solved head scales features, by the definition: the reference for scikit-learn's heads."""

import numpy as np


def scales(x):
    """(d,) float64, what a standardised feature is divided by: its deviation, or .3 of their rms.

    A constant feature's is not 0, so that it becomes 0.
    """
    deviation = x.astype(np.float64).std(axis=0)
    return np.maximum(deviation, 0.3 * np.sqrt(np.mean(deviation**2)))


def scaled(x):
    """(n, d) float64."""
    x = x.astype(np.float64)
    return (x - x.mean(axis=0)) / scales(x)
