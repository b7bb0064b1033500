"""A source that counts reads and simulates kills."""

from collections import Counter

from tljax import data as data_lib
from tljax.data import Source


class Watched(Source):
    """Counts reads of each image, and raises KeyboardInterrupt like a killed process.

    It raises after `fail_at` images, in the order of the reading threads, or at image `fail_on`.
    """

    def __init__(self, source, fail_at=None, fail_on=None):
        self.source, self._fail_at, self._fail_on = source, fail_at, fail_on
        self.labels = source.labels
        self.reads = Counter()

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        self.reads[index] += 1
        if self._fail_at is not None and self.reads.total() > self._fail_at:
            raise KeyboardInterrupt
        if index == self._fail_on:
            raise KeyboardInterrupt
        return self.source[index]

    def fingerprint(self):
        return data_lib.fingerprint(self.source)
