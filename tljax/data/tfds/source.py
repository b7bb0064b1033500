"""Loads a data set that TensorFlow Datasets prepared, without TensorFlow.

A prepared folder holds records in shards, each a serialised `tf.train.Example`, and their
description. Shards of array_record (and parquet) are read through TFDS's `as_data_source`,
TFRecords by `tfrecord`; the code of the data set is not imported. Of each record the image and the
label are read. `images.decode` decodes the images, as it does for `folder:PATH`.
"""

import contextlib
import itertools
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from tljax.data.digests import content_digests
from tljax.data.images import Unreadable, as_pixels, decode
from tljax.data.parallel import map_in_threads
from tljax.data.sources import Dataset, Example, Source, Subset, digest
from tljax.data.splits import split_off_test
from tljax.data.tfds import tfrecord
from tljax.data.tfds.prepared import FeatureReader, Prepared, Selection, Shard, open_prepared
from tljax.data.tfds.spec import Spec, parse_spec
from tljax.errors import InputError
from tljax.files import cache_folder, replacing

_VAL_NAMES = ("validation", "val", "valid")


class Records(Protocol):
    """Serialised records, by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> bytes: ...


class TfdsSource(Source):
    """Images of a prepared data set; an image is decoded at each access."""

    def __init__(
        self,
        name: str,
        selection: Selection,
        records: Records,
        labels: np.ndarray,
        read_image: FeatureReader,
        fingerprint: str,
        deep_images: str,
    ):
        self.labels = labels
        self._name, self._selection, self._records = name, selection, records
        self._read_image = read_image
        self._fingerprint, self._deep_images = fingerprint, deep_images

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int, /) -> Example:
        index = range(len(self))[index]
        name = f"{self._name} {self._selection.record_name(index)}"
        try:
            image = self._read_image(self._records[index])
        except Exception as error:  # raised by protobuf or array_record
            raise Unreadable(name, "its record is damaged; copy or prepare it again") from error
        is_file = isinstance(image, bytes)
        pixels = decode(image, name, self._deep_images) if is_file else as_pixels(image)
        return {"image": pixels, "label": int(self.labels[index])}

    def fingerprint(self) -> str:
        """Hashes the names of the features, the selection, and the contents of the shards.

        The path of the data and file dates are not hashed, so a copy has the same fingerprint.
        """
        if self._deep_images == "full_range":
            return self._fingerprint
        return digest(self._fingerprint, self._deep_images)


def load(text: str, data_dir: str | None = None, deep_images: str = "full_range") -> Dataset:
    """Loads the splits of a prepared data set; decodes no image.

    Splits that the spec does not choose have defaults: `train` is the split `train`, `val` is
    `validation`, `val` or `valid`, and `test` is `test`. A default for `val` or `test` is used only
    if it exists and no choice mentions it. If there is no test split, a fifth of each class of
    `train` is split off as test images, always the same ones. Data that has a split `test` and no
    `train` can be evaluated on: it has no training images.

    Args:
      text: The spec after `tfds:`; see `tljax.data.tfds.spec`.
      data_dir: The folder of prepared data sets; None: TFDS's default.
      deep_images: As `deep` of `images.decode`.

    Raises:
      InputError: The data set is not prepared or cannot be read, a split or a feature does not
        exist, or an image would be in two splits.
    """
    prepared = open_prepared(parse_spec(text), data_dir)
    selections = {
        role: prepared.select(split, role)
        for role, split in prepared.spec.choices.items()
        if role in ("train", "val", "test")
    }
    mentioned = {shard.split for selection in selections.values() for shard in selection.shards}
    unmentioned = set(prepared.builder.info.splits) - mentioned
    test_only = "train" not in prepared.builder.info.splits and "test" in unmentioned
    if "train" not in selections and not test_only:
        selections["train"] = prepared.select("train", "train")
    for role, names in (("val", _VAL_NAMES), ("test", ("test",))):
        default = next((name for name in names if name in unmentioned), None)
        if role not in selections and default is not None:
            selections[role] = prepared.select(default, role)
    _refuse_overlap(prepared.spec, selections)
    sources: dict[str, Source] = {
        role: _open_source(prepared, selection, deep_images)
        for role, selection in selections.items()
    }
    if "train" not in sources:  # e.g. ImageNet-V2, to be evaluated on
        sources["train"] = Subset(sources["test"], [])
    if "test" not in sources:
        remedy = "name a split, as in ?test=validation"
        sources["train"], sources["test"] = split_off_test(sources["train"], prepared.spec, remedy)
    train, val, test = (sources.get(role) for role in ("train", "val", "test"))
    assert train is not None
    return Dataset(f"tfds:{text}", prepared.class_names, train, val, test)


def read_class_names(text: str, data_dir: str | None = None) -> tuple[str, ...]:
    """Returns the names of the classes in the order of the labels; reads no record.

    Raises:
      InputError: The data set is not prepared, or its description cannot be read.
    """
    return open_prepared(parse_spec(text), data_dir).class_names


def _open_source(prepared: Prepared, selection: Selection, deep_images: str) -> TfdsSource:
    """The source of a selection. Labels and the places of TFRecords are cached for later runs."""
    shards = selection.shards
    prepared.fetch(shards)
    files = [prepared.folder / shard.file for shard in shards]
    features = [prepared.image, prepared.label, prepared.class_names]
    fingerprint = digest(repr((features, shards)), *content_digests(list(dict.fromkeys(files))))
    cached = _read_cache(fingerprint)
    places = np.empty((0, 2), np.int64)
    if prepared.is_tfrecord:
        places = cached["places"] if cached else np.concatenate([*_scan(prepared.folder, shards)])
        file_numbers = np.repeat(np.arange(len(files)), [shard.count for shard in shards])
        records: Records = tfrecord.TFRecords(files, file_numbers, places)
    else:
        records = _open_records(prepared, selection)
    labels = cached["labels"] if cached else _read_labels(prepared, selection, records)
    if not cached:
        _write_cache(fingerprint, labels, places)
    wrong = np.flatnonzero((labels < 0) | (labels >= len(prepared.class_names)))
    if len(wrong):
        raise InputError(
            f"{prepared.spec} {selection.record_name(int(wrong[0]))} has the label"
            f" {labels[wrong[0]]}, which is none of its {len(prepared.class_names)} classes; choose"
            " splits that are labelled, e.g. ?test=validation"
        )
    read_image = FeatureReader(prepared.builder.info.features, prepared.image)
    return TfdsSource(
        str(prepared.spec), selection, records, labels, read_image, fingerprint, deep_images
    )


def _scan(folder: Path, shards: Sequence[Shard]) -> Iterator[np.ndarray]:
    """The places of the selected records of each shard, int64 (count, 2); see `tfrecord.scan`."""
    for shard in shards:
        places = tfrecord.scan(folder / shard.file)
        if len(places) != shard.total:
            raise InputError(
                f"{folder / shard.file} holds {len(places)} records, not the {shard.total} that are"
                " described; copy or prepare it again"
            )
        yield places[shard.skip : shard.skip + shard.count]


def _open_records(prepared: Prepared, selection: Selection) -> Records:
    import tensorflow_datasets as tfds

    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    try:
        records: Records = prepared.builder.as_data_source(selection.split, deserialize_method=raw)
    except ImportError as error:
        raise InputError(
            f"{prepared.spec} is prepared in a format that needs another package ({error}); pip"
            " install it"
        ) from error
    return records


def _read_labels(prepared: Prepared, selection: Selection, records: Records) -> np.ndarray:
    """Reads all records once, for their labels: int64 (n,)."""
    read_label = FeatureReader(prepared.builder.info.features, prepared.label)

    def read(i: int) -> int:
        try:
            return int(read_label(records[i]))
        except Exception as error:  # raised by protobuf or array_record
            raise InputError(
                f"{prepared.spec} {selection.record_name(i)} cannot be read: its record is damaged;"
                " copy or prepare it again"
            ) from error

    title = f"reading labels of {selection.split}"
    return np.array(map_in_threads(read, range(selection.count), title), np.int64)


def _refuse_overlap(spec: Spec, selections: Mapping[str, Selection]) -> None:
    """Raises InputError if an image is in two selections.

    Or twice in one: it could be in both sides after validation images are split off.
    """
    intervals = sorted(
        (shard.split, shard.first, shard.first + shard.count, role)
        for role, selection in selections.items()
        for shard in selection.shards
    )
    for (split, _, end, role), (other, start, _, other_role) in itertools.pairwise(intervals):
        if split == other and start < end:
            raise InputError(
                f"{spec} {split}[{start}] is in {role}={selections[role].split} and in"
                f" {other_role}={selections[other_role].split}; choose splits that share no image"
            )


# A cache of labels and places, keyed by the fingerprint of the data that they were read from.


def _cache_file(fingerprint: str) -> Path:
    return cache_folder("tfds") / "labels" / f"{fingerprint[:32]}.npz"


def _read_cache(fingerprint: str) -> dict[str, np.ndarray] | None:
    try:
        with np.load(_cache_file(fingerprint)) as arrays:
            return dict(arrays)
    except (OSError, ValueError, zipfile.BadZipFile):
        return None


def _write_cache(fingerprint: str, labels: np.ndarray, places: np.ndarray) -> None:
    """Without disk space or permission nothing is cached, and the next run reads them again."""
    file = _cache_file(fingerprint)
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary, temporary.open("wb") as content:
            np.savez(content, labels=labels, places=places)
