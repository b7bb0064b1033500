"""Batches for training and for evaluation, read with Grain.

Grain shuffles and batches *indices*; a whole batch is then read in one call. Grain's bookkeeping
costs tens of microseconds an element, more than reading a small image from memory does, so this
doubles the rate for small images and changes nothing for large ones.
"""

import contextlib
import os
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tljax.data.balance import BalancedOrder
from tljax.data.images import Unreadable
from tljax.data.sources import Example, Source
from tljax.data.transforms import Preprocessing, augmentation, resize_and_centre_crop
from tljax.errors import InputError, check_known

if TYPE_CHECKING:
    import grain

Batch = dict[str, np.ndarray]

ON_ERROR = ("fail", "skip")  # what may be done about an image that cannot be read

SAMPLINGS = ("shuffled", "balanced")  # what an epoch may be made of

# In a batch, until it is handed out: the names of images that could not be read for it.
SKIPPED = "skipped"


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
    """Batches without end.

    Shuffled, every epoch has an order of its own and holds every image once; batches run across the
    border of epochs, so sets smaller than a batch work and no image is dropped.

    Args:
      source: The training images.
      preprocessing: The size to bring them to.
      batch_size: Images a batch.
      seed: Of the order and of the augmentation; 0 <= seed < 2**32.
      augment: A key of `tljax.data.transforms.AUGMENTATIONS`.
      crop_area: Smallest and largest share of the image that a random crop covers.
      num_workers: Processes that read; 0 reads in threads of this one. The batches
        are the same whatever the number. As with any multiprocessing by "spawn", the main module
        must then be importable, and guarded by `if __name__ == "__main__"`.
      on_error: What to do about an image that cannot be read: `fail`, or `skip`, which takes the
        next one of the source that can be read instead, after the last the first.
      views: If above 1, the source is `tljax.data.fixed_views` of the images: see `sampled`.
      rows: Which rows of every batch to read, where other processes read the others; None: all. A
        row is the same whoever reads it.
      sampling: `shuffled`, or `balanced`: every class equally often, see
        `tljax.data.balance.BalancedOrder`; what `skip` takes instead may be of another class.

    Returns:
      An iterator over {"image": uint8 (b, s, s, 3), "label": int32 (b,)} that can be resumed.

    Raises:
      InputError: An impossible value; or, while iterating, an image that cannot be read.
    """
    _check_batch_size(batch_size)
    check_known("on_error", on_error, ON_ERROR)
    check_known("sampling", sampling, SAMPLINGS)
    if not 0 < crop_area[0] <= crop_area[1] <= 1:
        raise InputError(
            f"crop_area is {crop_area}; set it to (smallest, largest) with 0 < smallest <= largest "
            "<= 1"
        )
    transform = augmentation(augment)

    def read(indices: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
        skipped: list[str] = []
        # An image's random numbers are its own, and not what those before it have left over: how
        # many these take depends on their sizes, which a process that does not read them lacks.
        seeds = rng.integers(2**63, size=len(indices))
        if rows is not None:
            indices, seeds = indices[rows], seeds[rows]
        if on_error == "fail":
            examples = [source[int(i)] for i in indices]
        else:
            examples = [_first_readable(source, int(i), skipped) for i in indices]
        images = [
            transform(e["image"], preprocessing, np.random.default_rng(seed), crop_area)
            for e, seed in zip(examples, seeds, strict=True)
        ]
        labels = [e["label"] for e in examples]
        batch = {"image": np.stack(images), "label": np.array(labels, np.int32)}
        return {**batch, SKIPPED: tuple(skipped)}

    fingerprint = {
        "images": len(source),
        "labels": zlib.crc32(source.labels.astype(np.int64).tobytes()),
        "image_size": list(preprocessing.height_width),
        "batch_size": batch_size,
        "seed": seed,
        "augment": augment,
        "crop_area": list(crop_area),
        "on_error": on_error,
    }
    labels = source.labels[: len(source) // views]
    return sampled(labels, read, batch_size, seed, num_workers, fingerprint, views, sampling)


def sampled(
    labels: np.ndarray,
    read: Callable[[np.ndarray, np.random.Generator], dict[str, Any]],
    batch_size: int,
    seed: int,
    num_workers: int,
    fingerprint: dict[str, Any],
    views: int = 1,
    sampling: str = "shuffled",
) -> "TrainBatches":
    """Batches of n examples in the order of a seed, whatever `read` makes of their indices.

    With several views of each, view v of example i having the index v * n + i, an example that was
    shown e times before, which shuffled is the number of the epoch, shows view e modulo `views`.

    Args:
      labels: Of the examples, int (n,).
      read: (indices, random numbers) to a batch with SKIPPED, the names of what was left out.
      batch_size, seed, num_workers: As of `train_batches`.
      fingerprint: What the sequence is made from, for `TrainBatches.set_state`.
      views: Of each example.
      sampling: As of `train_batches`.
    """
    import grain  # here, because it takes half a second and a plan needs none of it

    count = len(labels)
    examples = grain.MapDataset.range(count).seed(seed)
    if sampling == "shuffled":
        examples = examples.shuffle()
    batches = examples.repeat(None).batch(batch_size, drop_remainder=True)
    order = BalancedOrder(labels, seed) if sampling == "balanced" else None

    def placed(batch: int, indices: np.ndarray) -> np.ndarray:
        places = batch * batch_size + np.arange(batch_size)
        chosen, shown = order(places) if order else (indices, places // count)
        return chosen + shown % views * count

    if order or views > 1:
        batches = batches.map_with_index(placed)
    fingerprint = {**fingerprint, "sampling": sampling}
    return TrainBatches(batches.random_map(read), num_workers, fingerprint)


class TrainBatches(Iterator[Batch]):
    """An endless iterator that resumes bit-exactly, also with another number of workers.

    Its state is the number of the next batch: batches are random-access, so that is all there
    is to know. Beside it the state names what the sequence was made from.
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
        batch: dict[str, Any] = next(self._reader)
        self._next += 1
        self._skipped.update(batch.pop(SKIPPED))
        return batch

    @property
    def skipped(self) -> tuple[str, ...]:
        """Names of the images that could not be read for the batches handed out so far, sorted."""
        return tuple(sorted(self._skipped))

    def get_state(self) -> dict[str, Any]:
        """Where the iterator stands, as a dict that JSON can hold."""
        return {
            "next_batch": self._next,
            "made_from": self._fingerprint,
            "skipped": list(self.skipped),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Go to where `get_state` was called.

        Raises:
          InputError: The state is of other data, another batch size, seed or augmentation, from
            which another sequence of batches would follow.
        """
        for key, now in self._fingerprint.items():
            if (then := state["made_from"].get(key)) != now:
                raise InputError(
                    f"cannot resume: {key} of the training data was {then} and is now {now}; "
                    "restore it or start in a new folder"
                )
        self.close()
        self._next = state["next_batch"]
        self._skipped = set(state.get("skipped", ()))

    def close(self) -> None:
        """End the threads or processes that read ahead; the next batch starts them again."""
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
    """Every image once, in order; the last batch is filled up with black images and masked.

    Args:
      source: The images.
      preprocessing: The size to bring them to.
      batch_size: Images a batch.
      on_error: What to do about an image that cannot be read: `fail`, or `skip`, which masks it.
      rows: Which rows of every batch to read, where other processes read the others; None: all.

    Returns:
      An iterable, which may be gone through any number of times, over
      {"image": uint8 (b, s, s, 3), "label": int32 (b,), "mask": float32 (b,)} of constant shapes;
      the mask is 1 for an image and 0 for filling, whose label is 0. Its `skipped` names the images
      that are masked because they could not be read.

    Raises:
      InputError: An impossible batch size; or, while iterating, an image that cannot be read.
    """
    _check_batch_size(batch_size)
    check_known("on_error", on_error, ON_ERROR)
    places = np.arange(batch_size) if rows is None else rows

    def read(start: int) -> dict[str, Any]:
        batch: Batch = {
            "image": np.zeros((len(places), *preprocessing.height_width, 3), np.uint8),
            "label": np.zeros(len(places), np.int32),
            "mask": np.zeros(len(places), np.float32),
        }
        skipped = []
        for row, i in enumerate(start + places):
            if i >= len(source):
                continue
            try:
                example = source[int(i)]
            except Unreadable as error:
                if on_error == "fail":
                    raise
                skipped.append(error.name)
                continue
            batch["image"][row] = resize_and_centre_crop(example["image"], preprocessing)
            batch["label"][row] = example["label"]
            batch["mask"][row] = 1
        return {**batch, SKIPPED: tuple(skipped)}

    return in_order(len(source), read, batch_size)


def in_order(count: int, read: Callable[[int], dict[str, Any]], batch_size: int) -> "EvalBatches":
    """Batches of `count` examples in their order; `read` makes one that starts at an index."""
    import grain

    return EvalBatches(_read_ahead(grain.MapDataset.range(0, count, batch_size).map(read)))


class EvalBatches(Iterable[Batch]):
    """What `eval_batches` returns; to close its iterator ends the threads that read ahead."""

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
        """Names of the images that could not be read for the batches handed out so far, sorted."""
        return tuple(sorted(self._skipped))


def _first_readable(source: Source, index: int, skipped: list[str]) -> Example:
    """The image at `index`, or the first after it that can be read; the others' names are noted."""
    for offset in range(len(source)):
        try:
            return source[(index + offset) % len(source)]
        except Unreadable as error:
            skipped.append(error.name)
    raise InputError(f"none of the {len(source)} training images can be read; check {skipped[0]}")


def _read_ahead(batches: "grain.MapDataset[Any]", num_workers: int = 0) -> "grain.IterDataset[Any]":
    """Read batches in the background, a few ahead, in order."""
    import grain

    threads = min(8, os.cpu_count() or 1)  # each holds a batch, and decoding frees the GIL
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    dataset = batches.to_iter_dataset(options)
    if num_workers == 0:
        return dataset
    from absl import flags

    if not flags.FLAGS.is_parsed():  # Grain hands its debugging flags to the workers
        flags.FLAGS.mark_as_parsed()
    workers = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers))
    return workers.map(_out_of_shared_memory)


def _out_of_shared_memory(batch: dict[str, Any]) -> dict[str, Any]:
    """A copy: jax may alias an array on CPU, and Grain unmaps what its workers passed on."""
    return {
        key: np.array(value) if isinstance(value, np.ndarray) else value
        for key, value in batch.items()
    }


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; set it to 1 or more")
