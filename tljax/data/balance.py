"""Classes of unequal sizes: weights for a loss, or an order that shows each equally often."""

import functools

import numpy as np


def balanced_weights(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """The weight of each class, inverse to its frequency: n / (classes present * images of it).

    Their mean over the images is 1, so that a loss keeps its scale. That is scikit-learn's
    `class_weight="balanced"` (King & Zeng 2001, "Logistic Regression in Rare Events Data").

    Args:
      labels: int (n,), of the training images.
      num_classes: of all, present or not.

    Returns:
      float32 (num_classes,); 0 for a class without images.
    """
    counts = np.bincount(labels, minlength=num_classes)
    present = counts > 0
    weights = np.zeros(num_classes, np.float32)
    weights[present] = len(labels) / (present.sum() * counts[present])
    return weights


class BalancedOrder:
    """An endless sequence of images, in which every class has every C-th place, C classes present.

    The places come in rounds of C, one for each class, in an order of the round's own. Where it is
    a class's turn, its images follow one another in an order drawn anew each time that all of them
    were shown. So each image of a class is shown as often as the others, to within one. Any place
    can be asked for without those before it.

    Args:
      labels: int (n,), of the images.
      seed: of the orders.
    """

    def __init__(self, labels: np.ndarray, seed: int):
        self._seed = seed
        self._of_class = [np.flatnonzero(labels == label) for label in np.unique(labels)]

    def __call__(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(images, how often each was shown before), int (m,) both, at some places, int (m,)."""
        classes = len(self._of_class)
        found = []
        for place in places.tolist():
            turn, within = divmod(place, classes)
            number = int(_permutation(classes, self._seed, 0, turn)[within])
            images = self._of_class[number]
            shown, row = divmod(turn, len(images))
            order = _permutation(len(images), self._seed, 1, number, shown)
            found.append((images[order[row]], shown))
        images, shown = np.array(found, np.int64).T
        return images, shown


@functools.lru_cache(maxsize=2048)
def _permutation(count: int, *drawn_from: int) -> np.ndarray:
    return np.random.default_rng(drawn_from).permutation(count)
