"""Batches for training and for evaluation, read with Grain.

Grain shuffles and batches *indices*; a whole batch is then read in one call. Grain's overhead is
tens of microseconds per element, more than reading a small image from memory takes. So this doubles
the throughput for small images and changes nothing for large ones.
"""

import contextlib
import os
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tljax.console import take_deferred_warnings, warn_once
from tljax.data.images import Unreadable
from tljax.data.labels import BalancedOrder, batch_of, kind_of
from tljax.data.sources import Example, Source
from tljax.data.transforms import (
    Augmentation,
    Preprocessing,
    augmentation,
    resize_and_centre_crop,
)
from tljax.devices.workers import check_main_guard, explain_dead_workers, start_worker
from tljax.errors import InputError, check_known

if TYPE_CHECKING:
    import grain

Batch = dict[str, np.ndarray]

ON_ERROR = ("fail", "skip")  # what to do if an image cannot be read

SAMPLINGS = ("shuffled", "balanced")  # every image once per epoch, or every class equally often

# Keys of batches inside the pipeline, which are removed before a batch is returned to the caller:
SKIPPED = "skipped"  # the names of images that could not be read
_WARNINGS = "warnings"  # what a worker process has to say, as of `take_deferred_warnings`


def train_batches(
    source: Source,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    seed: int,
    augment: str = "none",
    crop_area: tuple[float, float] = (0.08, 1.0),
    num_workers: int = 0,
    on_error: str = "fail",
    views: int = 1,
    rows: np.ndarray | None = None,
    sampling: str = "shuffled",
) -> "TrainBatches":
    """Returns an endless iterator over augmented training batches, which can be resumed.

    Each epoch is a new shuffle and has every image once. Batches cross the boundary between epochs,
    so data sets smaller than a batch work and no image is dropped.

    Args:
      source: The training images.
      preprocessing: Its image_size is the size (h, w) of the returned images.
      batch_size: Images per batch.
      seed: Of the order and of the augmentation; 0 <= seed < 2**32.
      augment: A key of `tljax.data.transforms.AUGMENTATIONS`.
      crop_area: Smallest and largest fraction of the image that a random crop covers.
      num_workers: Number of reading processes; 0 reads in threads of this process. The batches do
        not depend on it. If above 0, the main module must be importable and guarded by
        `if __name__ == "__main__"`, as for any multiprocessing by "spawn".
      on_error: What to do if an image cannot be read: `fail`, or `skip`, which uses the next
        readable image of the source instead (after the last, the first).
      views: If above 1, `source` is `tljax.data.fixed_views` of the images, with this many views
        of each; see `sampled_batches`.
      rows: int (b,), the rows of every batch to return, when other processes read the others; None:
        all. A row does not depend on which process reads it.
      sampling: `shuffled`, or `balanced` for every class equally often, see
        `tljax.data.labels.BalancedOrder`. The image that replaces a skipped one may be of another
        class.

    Returns:
      An iterator over {"image": uint8 (b, h, w, channels), "label": int32 (b,) or, of other kinds
      of labels, float32 (b, m)}, where b is `batch_size` or the number of `rows`; with "weight",
      float32 (b,), if the images have weights. Call its `close` to end the reading threads or
      processes.

    Raises:
      InputError: An argument is invalid; or, while iterating, an image cannot be read.

    Example:
      preprocessing = Preprocessing(32, mean=(0.5,) * 3, std=(0.5,) * 3)
      batch = next(train_batches(digits.train, preprocessing, batch_size=8, seed=0))
    """
    _check_batch_size(batch_size)
    check_main_guard(num_workers)
    check_known("on_error", on_error, ON_ERROR)
    check_known("sampling", sampling, SAMPLINGS)
    if not 0 < crop_area[0] <= crop_area[1] <= 1:
        raise InputError(
            f"crop_area is {crop_area}; set it to (smallest, largest) with 0 < smallest <= largest "
            "<= 1"
        )
    transform = augmentation(augment, preprocessing.channels)
    read = _TrainReader(source, preprocessing, transform, crop_area, on_error, rows)
    fingerprint = {
        "images": len(source),
        "labels": zlib.crc32(_bytes_of(source.labels)),
        "image_size": list(preprocessing.height_width),
        "batch_size": batch_size,
        "seed": seed,
        "augment": augment,
        "crop_area": list(crop_area),
        "on_error": on_error,
    }
    labels = source.labels[: len(source) // views]
    return sampled_batches(
        labels, read, batch_size, seed, num_workers, fingerprint, views, sampling
    )


@dataclass(frozen=True)
class _TrainReader:
    """Reads and augments the images of a training batch; the fields are as in `train_batches`."""

    source: Source
    preprocessing: Preprocessing
    transform: Augmentation
    crop_area: tuple[float, float]
    on_error: str
    rows: np.ndarray | None

    def __call__(self, indices: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
        skipped: list[str] = []
        # Each image has its own seed: how many random numbers an augmentation draws depends on the
        # size of its image, which is unknown in processes that do not read that row.
        seeds = rng.integers(2**63, size=len(indices))
        if self.rows is not None:
            indices, seeds = indices[self.rows], seeds[self.rows]
        if self.on_error == "fail":
            examples = [self.source[int(i)] for i in indices]
        else:
            examples = [_first_readable(self.source, int(i), skipped) for i in indices]
        images = [
            self.transform(
                e["image"], self.preprocessing, np.random.default_rng(seed), self.crop_area
            )
            for e, seed in zip(examples, seeds, strict=True)
        ]
        batch = {"image": np.stack(images), "label": batch_of([e["label"] for e in examples])}
        if "weight" in examples[0]:
            batch["weight"] = np.array([e["weight"] for e in examples], np.float32)
        return {**batch, SKIPPED: tuple(skipped)}


def sampled_batches(
    labels: np.ndarray,
    read: Callable[[np.ndarray, np.random.Generator], dict[str, Any]],
    batch_size: int,
    seed: int,
    num_workers: int,
    fingerprint: dict[str, Any],
    views: int = 1,
    sampling: str = "shuffled",
) -> "TrainBatches":
    """Returns endless batches of n examples: samples indices, and calls `read` for each batch.

    View v of example i has the index v * n + i. At the e-th occurrence of an example, from 0 (the
    epoch, if shuffled), its view e modulo `views` is read.

    Args:
      labels: (n,) or (n, m), of the examples.
      read: A function of (indices, random generator) that returns a batch, with the names of
        skipped images under the key SKIPPED.
      batch_size, seed, num_workers: As for `train_batches`.
      fingerprint: Everything that determines the sequence, for `TrainBatches.set_state`.
      views: Number of views of each example.
      sampling: As for `train_batches`.
    """
    import grain  # here, because the import takes half a second, and not every command needs it

    count = len(labels)
    examples = grain.MapDataset.range(count).seed(seed)
    if sampling == "shuffled":
        examples = examples.shuffle()
    batches = examples.repeat(None).batch(batch_size, drop_remainder=True)
    order = BalancedOrder(labels, seed) if sampling == "balanced" else None

    def balance_and_choose_views(batch: int, indices: np.ndarray) -> np.ndarray:
        positions = batch * batch_size + np.arange(batch_size)
        chosen, passes = order(positions) if order else (indices, positions // count)
        return chosen + passes % views * count

    if order or views > 1:
        batches = batches.map_with_index(balance_and_choose_views)
    fingerprint = {**fingerprint, "sampling": sampling}
    return TrainBatches(batches.random_map(read), num_workers, fingerprint)


class TrainBatches(Iterator[Batch]):
    """An endless iterator that resumes bit-identically, also with another number of workers.

    Batches are random access, so the number of the next batch is enough to resume. The state also
    holds the settings that determine the sequence, to detect changes, and the skipped images.
    """

    def __init__(
        self, batches: "grain.MapDataset[Any]", num_workers: int, fingerprint: dict[str, Any]
    ):
        self._batches = batches
        self._num_workers = num_workers
        self._fingerprint = fingerprint
        self._next = 0
        self._skipped: set[str] = set()
        self._reader: grain.DatasetIterator[Any] | None = None

    def __next__(self) -> Batch:
        if self._reader is None:
            self._reader = iter(_read_ahead(self._batches[self._next :], self._num_workers))
        with explain_dead_workers():
            batch: dict[str, Any] = next(self._reader)
        self._next += 1
        self._skipped.update(batch.pop(SKIPPED))
        return batch

    @property
    def skipped(self) -> tuple[str, ...]:
        """Names of the images skipped in the batches returned so far, sorted."""
        return tuple(sorted(self._skipped))

    def get_state(self) -> dict[str, Any]:
        """Returns the position of the iterator, as a dict that JSON can hold."""
        return {
            "next_batch": self._next,
            "made_from": self._fingerprint,
            "skipped": list(self.skipped),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Moves the iterator to the position that `get_state` returned.

        Raises:
          InputError: The state belongs to another sequence of batches: the data, batch size, seed
            or augmentation differs.
        """
        for key, current in self._fingerprint.items():
            if (saved := state["made_from"].get(key)) != current:
                raise InputError(
                    f"cannot resume: {key} of the training data was {saved} and is now {current}; "
                    "restore it or start in a new folder"
                )
        self.close()
        self._next = state["next_batch"]
        self._skipped = set(state.get("skipped", ()))

    def close(self) -> None:
        """Ends the threads or processes that read ahead; the next batch starts them again."""
        if self._reader is not None:
            self._reader.close()
        self._reader = None


def eval_batches(
    source: Source,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    on_error: str = "fail",
    rows: np.ndarray | None = None,
) -> "EvalBatches":
    """Returns batches of every image once, in order; the last batch is padded with black images.

    Args:
      source: The images.
      preprocessing: Images are resized and centre-cropped to its image_size (h, w).
      batch_size: Images per batch.
      on_error: What to do if an image cannot be read: `fail`, or `skip`, which masks it.
      rows: int (b,), the rows of every batch to return, when other processes read the others; None:
        all.

    Returns:
      An iterable over {"image": uint8 (b, h, w, channels), "label": int32 (b,) or, of other kinds
      of labels, float32 (b, m), "mask": float32 (b,)}, which can be iterated any number of times.
      All batches have the same shapes; b is `batch_size` or the number of `rows`. The mask is 1 for
      an image, and 0 for padding and skipped images, whose label is 0. Its attribute `skipped`
      names the skipped images.

    Raises:
      InputError: An argument is invalid; or, while iterating, an image cannot be read.

    Example:
      for batch in eval_batches(digits.test, preprocessing, batch_size=100):
          correct += ((predict(batch["image"]) == batch["label"]) * batch["mask"]).sum()
    """
    _check_batch_size(batch_size)
    check_known("on_error", on_error, ON_ERROR)
    rows = np.arange(batch_size) if rows is None else rows
    label_shape = (len(rows), *source.labels.shape[1:])

    def read(start: int) -> dict[str, Any]:
        batch: Batch = {
            "image": np.zeros((len(rows), *preprocessing.image_shape), np.uint8),
            "label": np.zeros_like(batch_of(source.labels[:1]), shape=label_shape),
            "mask": np.zeros(len(rows), np.float32),
        }
        skipped = []
        for i, index in enumerate((start + rows).tolist()):
            if index >= len(source):
                continue
            try:
                example = source[index]
            except Unreadable as error:
                if on_error == "fail":
                    raise
                skipped.append(error.name)
                continue
            batch["image"][i] = resize_and_centre_crop(example["image"], preprocessing)
            batch["label"][i] = example["label"]
            batch["mask"][i] = 1
        return {**batch, SKIPPED: tuple(skipped)}

    return ordered_batches(len(source), read, batch_size)


def ordered_batches(
    count: int, read: Callable[[int], dict[str, Any]], batch_size: int
) -> "EvalBatches":
    """Returns batches of `count` examples in order; `read(start)` returns the batch from `start`.

    As in `sampled_batches`, a batch has the names of skipped images under the key SKIPPED.
    """
    import grain

    return EvalBatches(_read_ahead(grain.MapDataset.range(0, count, batch_size).map(read)))


class EvalBatches(Iterable[Batch]):
    """What `eval_batches` returns. Closing an iterator of it ends the threads that read ahead."""

    def __init__(self, batches: "grain.IterDataset[Any]"):
        self._batches = batches
        self._skipped: set[str] = set()

    def __iter__(self) -> Generator[Batch, None, None]:
        with contextlib.closing(iter(self._batches)) as reader:
            for batch in reader:
                self._skipped.update(batch.pop(SKIPPED))
                yield batch

    @property
    def skipped(self) -> tuple[str, ...]:
        """Names of the images skipped in the batches returned so far, sorted."""
        return tuple(sorted(self._skipped))


def _bytes_of(labels: np.ndarray) -> bytes:
    return (labels.astype(np.int64) if kind_of(labels) == "classes" else labels).tobytes()


def _first_readable(source: Source, index: int, skipped: list[str]) -> Example:
    """The example at `index`, or else the next readable one; appends skipped names to `skipped`."""
    for offset in range(len(source)):
        try:
            return source[(index + offset) % len(source)]
        except Unreadable as error:
            skipped.append(error.name)
    raise InputError(f"none of the {len(source)} training images can be read; check {skipped[0]}")


def _read_ahead(batches: "grain.MapDataset[Any]", num_workers: int = 0) -> "grain.IterDataset[Any]":
    """Reads batches in the background, a few ahead, and keeps their order."""
    import grain

    if num_workers:
        batches = batches.map(_add_warnings)
    threads = min(8, os.cpu_count() or 1)  # decoding releases the GIL; each thread holds a batch
    reading = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    dataset = batches.to_iter_dataset(reading)
    if num_workers == 0:
        return dataset
    from absl import flags

    if not flags.FLAGS.is_parsed():  # Grain passes its absl flags to the workers
        flags.FLAGS.mark_as_parsed()
    options = grain.MultiprocessingOptions(num_workers=num_workers)
    workers = dataset.mp_prefetch(options, worker_init_fn=start_worker)
    return workers.map(_receive)


def _add_warnings(batch: dict[str, Any]) -> dict[str, Any]:
    """In a worker process: adds what is to be said about the images read so far."""
    return {**batch, _WARNINGS: take_deferred_warnings()}


def _receive(batch: dict[str, Any]) -> dict[str, Any]:
    """In the main process: warns for the worker, and copies the arrays out of shared memory.

    JAX may alias arrays on a CPU, but Grain unmaps its workers' shared memory.
    """
    for key, message in batch.pop(_WARNINGS):
        warn_once(message, key)
    return {
        key: np.array(value) if isinstance(value, np.ndarray) else value
        for key, value in batch.items()
    }


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; set it to 1 or more")
