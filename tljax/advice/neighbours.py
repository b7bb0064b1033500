"""Nearest neighbours among frozen features: their accuracy, and near-duplicates."""

import numpy as np

from tljax.errors import InputError

_NEIGHBOURS = 20
_TEMPERATURE = 0.07
_BLOCK = 1024  # images whose similarities to all others are in memory at once


def leave_one_out(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None
) -> float:
    """Returns the accuracy of a nearest-neighbour classifier that leaves the image itself out.

    Each of the k most similar images votes for its class with exp(cosine similarity / 0.07). k is
    20, but at most the images of a class (on average), so that a class can win a vote.

    Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination",
    section 3.4; k = 20 as in DINO (Caron et al. 2021, section 3.3).

        accuracy = leave_one_out(features, labels)  # (n, d) and (n,)
        better = leave_one_out(other_features, labels) > accuracy

    Args:
      features: (n, d), n of 2 or more.
      labels: (n,), integers from 0.
      groups: (n,), images that are left out together; None: each is alone.
    """
    unit = _unit(features)
    present, y = np.unique(labels, return_inverse=True)
    if len(y) != len(unit) or len(y) < 2:
        raise InputError(
            f"there are {len(unit)} rows of features and {len(y)} labels; give as many of both, and"
            " two or more"
        )
    k = int(np.clip(len(y) // len(present), 1, min(_NEIGHBOURS, len(y) - 1)))
    alone = np.arange(len(y)) if groups is None else np.asarray(groups)
    right = 0
    for start in range(0, len(y), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(y)))
        similar = unit[rows] @ unit.T
        similar[alone[rows, None] == alone] = -np.inf
        nearest = np.argpartition(-similar, k - 1, axis=1)[:, :k]
        weights = np.exp((np.take_along_axis(similar, nearest, axis=1) - 1) / _TEMPERATURE)
        votes = np.zeros((len(rows), len(present)))
        np.add.at(votes, (np.arange(len(rows))[:, None], y[nearest]), weights)
        right += int((votes.argmax(axis=1) == y[rows]).sum())
    return right / len(y)


def near_duplicates(
    features: np.ndarray, among: np.ndarray | None = None, threshold: float = 0.95
) -> int:
    """Returns how many images have a near-duplicate among the others, or among those of a split.

    That is an image whose features, less the mean of all (or of the split), have a cosine
    similarity above a threshold. The default was measured on four sets of drawings, icons and solar
    cells. Of images and their JPEG of quality 50 all pass it with a small ResNet, and 47 to 97 %
    with DINOv2-small; of images cut by 2 % on each side 22 to 97 % and 3 to 75 %; of images without
    a copy 0 to 12 % and 0 to 8 %. Pictures that all look alike, such as cloth, pass it without
    being copies.

        near_duplicates(features) / len(features)  # a share, of features (n, d)

    Args:
      features: (n, d), from one network.
      among: (m, d), features of other images to compare with; None: the others of the n.
      threshold: between -1 and 1.
    """
    mean = np.mean(features if among is None else among, axis=0, dtype=np.float64)
    unit = _unit(features - mean)
    others = unit if among is None else _unit(among - mean)
    found = 0
    for start in range(0, len(unit), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(unit)))
        similar = unit[rows] @ others.T
        if among is None:
            similar[np.arange(len(rows)), rows] = -np.inf
        found += int((similar.max(axis=1) > threshold).sum())
    return found


def _unit(features: np.ndarray) -> np.ndarray:
    """The rows at length 1, in float64; a row of zeros stays."""
    x = np.asarray(features, np.float64)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return np.divide(x, length, out=np.zeros_like(x), where=length > 0)
