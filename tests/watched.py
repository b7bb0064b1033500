"""A source that keeps an eye on what is read."""

from collections import Counter

from tljax import data as data_lib
from tljax.data import Source


class Watched(Source):
    """Counts what is read, and fails like a killed process.

    After `fail_at` images, whichever a thread that reads ahead is at; or at the image `fail_on`.
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
