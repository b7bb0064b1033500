"""Two settings compared on the same test images: which differences are clear.

An interval over seeds takes the test images as given: with other images of the same kind the same
difference could be gone. On 500 images one or two points are often no more than that. Where it is
known which images each run got right, an interval over seeds and images together shows it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tljax.analysis.statistics import Interval, crossed_interval, mean_interval
from tljax.runs.answers import Answers

Right = Mapping[int, np.ndarray]  # by seed, bool (images,): which were classified correctly


@dataclass(frozen=True)
class Comparison:
    """A difference a - b between two settings, paired by seed.

    Attributes:
      over_seeds: its mean and interval over seeds; the images are taken as given.
      over_both: the same over seeds and test images together; None if the runs' predictions for
        the test images are not known.
    """

    over_seeds: Interval
    over_both: Interval | None = None

    @property
    def mean(self) -> float:
        return self.over_seeds.mean

    @property
    def is_clear(self) -> bool:
        """Whether each interval that there is excludes 0."""
        both = self.over_both
        return self.over_seeds.excludes_zero and (both is None or both.excludes_zero)


def compare(
    a: Mapping[int, float],
    b: Mapping[int, float],
    right_a: Right | None = None,
    right_b: Right | None = None,
) -> Comparison:
    """Compares two settings over the seeds that both have.

    Args:
      a, b: accuracies by seed.
      right_a, right_b: the images that are behind the accuracies, the same ones in the same order
        for every seed of both. None, or without one of the seeds: `over_both` is None.

    Raises:
      ValueError: if they have no seed in common.
    """
    seeds = sorted(a.keys() & b.keys())
    over_seeds = mean_interval([a[seed] - b[seed] for seed in seeds])
    if right_a is None or right_b is None or not set(seeds) <= right_a.keys() & right_b.keys():
        return Comparison(over_seeds)
    gains = np.stack([right_a[seed].astype(float) - right_b[seed] for seed in seeds])
    return Comparison(over_seeds, crossed_interval(gains))


def pack_right(answers: Answers | None) -> str:
    """The images that a run classified correctly as a short text, `COUNT:BITS`; "" without answers.

    The bits are hexadecimal, most significant bit first, so a table can keep them.
    """
    if answers is None:
        return ""
    right = answers.predicted == answers.labels
    return f"{len(right)}:{np.packbits(right).tobytes().hex()}"


def unpack_right(text: str) -> np.ndarray:
    """The bool (images,) of a text by `pack_right` that is not empty."""
    count, bits = text.split(":")
    packed = np.frombuffer(bytes.fromhex(bits), np.uint8)
    return np.unpackbits(packed, count=int(count)).astype(bool)


def right_images(*settings: Mapping[int, Answers | None]) -> list[Right] | None:
    """Finds which test images the runs of each setting classified correctly.

    Args:
      settings: the answers of each run by seed; None where a run kept none.

    Returns:
      One `Right` for each setting; None if a run kept no answers, or if they are not all for the
      same images, as far as the true classes show.
    """
    answers = [run for setting in settings for run in setting.values()]
    first = answers[0]
    for run in answers:
        if run is None or first is None or not np.array_equal(run.labels, first.labels):
            return None
    return [
        {seed: run.predicted == run.labels for seed, run in setting.items() if run is not None}
        for setting in settings
    ]
