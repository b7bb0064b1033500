"""For imbalanced classes: loss weights, or an order with every class equally often."""

import functools

import numpy as np


def balanced_weights(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns class weights inverse to class frequency: n / (number of classes present * count).

    Their mean over the images is 1, so that a loss keeps its scale. This is scikit-learn's
    `class_weight="balanced"` (King & Zeng 2001, "Logistic Regression in Rare Events Data").

    Args:
      labels: int (n,), of the training images.
      num_classes: Number of all classes, present or not.

    Returns:
      float32 (num_classes,); 0 for a class without images.
    """
    counts = np.bincount(labels, minlength=num_classes)
    present = counts > 0
    weights = np.zeros(num_classes, np.float32)
    weights[present] = len(labels) / (present.sum() * counts[present])
    return weights


def balanced_label_weights(labels: np.ndarray) -> np.ndarray:
    """Returns weights such that images with and without a label have equal total weight.

    As `balanced_weights` of each label by itself: n / (2 * count), of which the mean over the
    images is 1. Where all images have a label, or none, the side that exists has the weight 1.

    Args:
      labels: uint8 (n, classes), 0 or 1, of the training images.

    Returns:
      float32 (2, classes), of 0 and of 1; 0 for a side without images.
    """
    having = labels.sum(axis=0, dtype=np.int64)
    counts = np.stack([len(labels) - having, having])
    sides = (counts > 0).sum(axis=0) * counts
    return np.divide(len(labels), sides, out=np.zeros(counts.shape), where=counts > 0).astype(
        np.float32
    )


class BalancedOrder:
    """An endless sequence of images in which every class occurs equally often.

    The sequence consists of rounds. A round has one image of each class present, and shuffles the
    classes. Each class goes through its own images in a shuffled order, which is drawn again after
    every pass. So images of one class occur equally often, to within one. Positions are random
    access.

    Args:
      labels: int (n,), of the images.
      seed: Of all the orders.
    """

    def __init__(self, labels: np.ndarray, seed: int):
        self._seed = seed
        self._images_by_class = [np.flatnonzero(labels == label) for label in np.unique(labels)]

    def __call__(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Looks up the images at some positions of the sequence.

        Args:
          positions: int (m,), not negative.

        Returns:
          (images, passes), int (m,) both: the indices of the images, and how often each occurred
          before.
        """
        classes = len(self._images_by_class)
        found = []
        for position in positions.tolist():
            turn, slot = divmod(position, classes)
            number = int(_permutation(classes, self._seed, 0, turn)[slot])
            images = self._images_by_class[number]
            passes, row = divmod(turn, len(images))
            order = _permutation(len(images), self._seed, 1, number, passes)
            found.append((images[order[row]], passes))
        images, passes = np.array(found, np.int64).T
        return images, passes


@functools.lru_cache(maxsize=2048)
def _permutation(count: int, *seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(count)
