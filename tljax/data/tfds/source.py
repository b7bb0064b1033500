"""`tfds:NAME`: data sets that TensorFlow Datasets prepared, read without TensorFlow.

A prepared folder holds records in shards, each a serialised `tf.train.Example`, and says what is in
them. Shards of array_record (and parquet) are read through TFDS's `as_data_source`, TFRecords by
`tfrecord`; the code of the data set is never imported. Of a record two features are read, an
image and a label, and images are decoded by `images.decode`, as those of `folder:PATH` are.
"""

import contextlib
import functools
import hashlib
import itertools
import math
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np

from tljax.console import progress_bar
from tljax.data.images import Unreadable, as_rgb, decode
from tljax.data.sources import Dataset, Example, Source, digest
from tljax.data.splits import split_off_test
from tljax.data.tfds import spec as tfds_spec
from tljax.data.tfds import tfrecord
from tljax.data.tfds.prepared import FeatureReader, Part, Prepared, Shard, open_prepared
from tljax.data.tfds.spec import Spec
from tljax.errors import InputError
from tljax.files import replacing

_VAL_NAMES = ("validation", "val", "valid")
_FINGERPRINTED = 2**28  # bytes of shards that a fingerprint reads
_BLOCK = 2**20  # bytes that it reads at once
_AT_ONCE = 256  # records


class Records(Protocol):
    """Records by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> bytes: ...


class TfdsSource(Source):
    """Records of a prepared data set; an image is decoded whenever it is asked for."""

    def __init__(
        self,
        name: str,
        part: Part,
        records: Records,
        labels: np.ndarray,
        read_image: FeatureReader,
        fingerprint: str,
    ):
        self.labels = labels
        self._name, self._part, self._records = name, part, records
        self._read_image = read_image
        self._fingerprint = fingerprint

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int, /) -> Example:
        index = range(len(self))[index]
        name = f"{self._name} {self._part.place(index)}"
        try:
            image = self._read_image(self._records[index])
        except Exception as error:  # of protobuf, or of array_record
            raise Unreadable(name, "its record is damaged; copy or prepare it again") from error
        pixels = decode(image, name) if isinstance(image, bytes) else as_rgb(image)
        return {"image": pixels, "label": int(self.labels[index])}

    def fingerprint(self) -> str:
        """Over which features of which records are read, and their shards' sizes and contents.

        Of shards of more than 256 MiB together every n-th MiB is read. Neither the folder's place
        nor dates count, so a copy is the same data.
        """
        return self._fingerprint


def load(text: str, data_dir: str | None = None) -> Dataset:
    """The splits of a prepared data set; no image is decoded.

    Unless chosen, `train` is the split of that name, `val` is `validation`, `val` or `valid`, and
    `test` is `test`, if there is one that no choice mentions. Where there is no test split, a fifth
    of each class of `train` is split off as test images, always the same.

    Args:
      text: What stands after `tfds:`; see `tfds_spec`.
      data_dir: Where prepared data sets lie; None: TFDS's own default.

    Raises:
      InputError: It is not prepared, or cannot be read; a split or a feature is not there; or
        an image would be in two splits.
    """
    prepared = open_prepared(tfds_spec.parse(text), data_dir)
    parts = {
        role: prepared.part(split, role)
        for role, split in prepared.spec.choices.items()
        if role in ("train", "val", "test")
    }
    mentioned = {shard.split for part in parts.values() for shard in part.shards}
    free = set(prepared.builder.info.splits) - mentioned
    if "train" not in parts:
        parts["train"] = prepared.part("train", "train")
    for role, names in (("val", _VAL_NAMES), ("test", ("test",))):
        default = next((name for name in names if name in free), None)
        if role not in parts and default is not None:
            parts[role] = prepared.part(default, role)
    _refuse_overlap(prepared.spec, parts)
    sources: dict[str, Source] = {role: _source(prepared, part) for role, part in parts.items()}
    if "test" not in sources:
        instead = "name a split, as in ?test=validation"
        sources["train"], sources["test"] = split_off_test(sources["train"], prepared.spec, instead)
    train, val, test = (sources.get(role) for role in ("train", "val", "test"))
    assert train is not None
    return Dataset(f"tfds:{text}", prepared.class_names, train, val, test)


def read_class_names(text: str, data_dir: str | None = None) -> tuple[str, ...]:
    """Names of the classes, in the order of their labels; reads no record.

    Raises:
      InputError: The data set is not prepared, or its description cannot be read.
    """
    return open_prepared(tfds_spec.parse(text), data_dir).class_names


def _source(prepared: Prepared, part: Part) -> TfdsSource:
    """Labels, and places in TFRecord files, are read once and kept for the next run."""
    prepared.fetch(part.shards)
    shards = [prepared.folder / shard.file for shard in part.shards]
    read = [prepared.image, prepared.label, prepared.class_names]
    known_by = digest(repr((read, part.shards)), *_file_digests(list(dict.fromkeys(shards))))
    kept = _kept(known_by)
    places = np.empty((0, 2), np.int64)
    if prepared.is_tfrecord:
        places = kept["places"] if kept else np.concatenate([*_scan(prepared.folder, part.shards)])
        numbers = np.repeat(np.arange(len(shards)), [shard.count for shard in part.shards])
        records: Records = tfrecord.TFRecords(shards, numbers, places)
    else:
        records = _random_access(prepared, part)
    labels = kept["labels"] if kept else _read_labels(prepared, part, records)
    if not kept:
        _keep(known_by, labels, places)
    wrong = np.flatnonzero((labels < 0) | (labels >= len(prepared.class_names)))
    if len(wrong):
        raise InputError(
            f"{prepared.spec} {part.place(int(wrong[0]))} has the label {labels[wrong[0]]}, which"
            f" is none of its {len(prepared.class_names)} classes; choose splits that are labelled,"
            " e.g. ?test=validation"
        )
    read_image = FeatureReader(prepared.builder.info.features, prepared.image)
    return TfdsSource(str(prepared.spec), part, records, labels, read_image, known_by)


def _scan(folder: Path, shards: Sequence[Shard]) -> Iterator[np.ndarray]:
    for shard in shards:
        places = tfrecord.scan(folder / shard.file)
        if len(places) != shard.total:
            raise InputError(
                f"{folder / shard.file} holds {len(places)} records, not the {shard.total} that are"
                " described; copy or prepare it again"
            )
        yield places[shard.skip : shard.skip + shard.count]


def _random_access(prepared: Prepared, part: Part) -> Records:
    import tensorflow_datasets as tfds

    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    try:
        records: Records = prepared.builder.as_data_source(part.split, deserialize_method=raw)
    except ImportError as error:
        raise InputError(
            f"{prepared.spec} is prepared in a format that needs another package ({error}); pip"
            " install it"
        ) from error
    return records


def _read_labels(prepared: Prepared, part: Part, records: Records) -> np.ndarray:
    """int64 (n,): goes through all records once."""
    read = FeatureReader(prepared.builder.info.features, prepared.label)

    def labels_from(start: int) -> list[int]:
        found = []
        for i in range(start, min(start + _AT_ONCE, part.count)):
            try:
                found.append(int(read(records[i])))
            except Exception as error:  # of protobuf, or of array_record
                raise InputError(
                    f"{prepared.spec} {part.place(i)} cannot be read: its record is damaged; copy"
                    " or prepare it again"
                ) from error
        return found

    labels: list[int] = []
    with ThreadPoolExecutor() as pool, progress_bar() as bar:
        task = bar.add_task(f"reading labels of {part.split}", total=part.count)
        for found in pool.map(labels_from, range(0, part.count, _AT_ONCE)):
            labels += found
            bar.advance(task, len(found))
    return np.array(labels, np.int64)


def _refuse_overlap(spec: Spec, parts: Mapping[str, Part]) -> None:
    """No image may be in two parts, or twice in one, from which validation may be split off."""
    stretches = sorted(
        (shard.split, shard.first, shard.first + shard.count, role)
        for role, part in parts.items()
        for shard in part.shards
    )
    for (split, _, end, role), (other, start, _, other_role) in itertools.pairwise(stretches):
        if split == other and start < end:
            raise InputError(
                f"{spec} {split}[{start}] is in {role}={parts[role].split} and in"
                f" {other_role}={parts[other_role].split}; choose splits that share no image"
            )


def _file_digests(files: Sequence[Path]) -> list[str]:
    states = [file.stat() for file in files]
    stride = max(1, math.ceil(sum(state.st_size for state in states) / _FINGERPRINTED))
    with ThreadPoolExecutor() as pool:
        return list(
            pool.map(
                lambda file, state: _file_digest(file, stride, state.st_size, state.st_mtime_ns),
                files,
                states,
            )
        )


@functools.cache
def _file_digest(file: Path, stride: int, size: int, modified: int) -> str:
    """Over the size of a file and every n-th MiB of it; read once while it stays as it is."""
    sha = hashlib.sha256(str(size).encode())
    with file.open("rb") as content:
        for start in range(0, size, stride * _BLOCK):
            content.seek(start)
            sha.update(content.read(_BLOCK))
    return sha.hexdigest()


# What was read once. It is known by the fingerprint of what it was read from.


def _cache_file(fingerprint: str) -> Path:
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "tljax" / "tfds" / "labels" / f"{fingerprint[:32]}.npz"


def _kept(fingerprint: str) -> dict[str, np.ndarray] | None:
    try:
        with np.load(_cache_file(fingerprint)) as arrays:
            return dict(arrays)
    except (OSError, ValueError, zipfile.BadZipFile):
        return None


def _keep(fingerprint: str, labels: np.ndarray, places: np.ndarray) -> None:
    """Without room or permission the next run reads them again."""
    file = _cache_file(fingerprint)
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary, temporary.open("wb") as content:
            np.savez(content, labels=labels, places=places)
