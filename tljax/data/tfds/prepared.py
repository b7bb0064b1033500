"""Opens a prepared folder of TFDS: the records of its splits, and the features to read."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tljax.data import remote
from tljax.data.tfds.spec import Spec, find_prepared
from tljax.errors import InputError, check_known
from tljax.files import parse_json

_FORMATS = ("array_record", "parquet", "tfrecord")  # in order of preference
_FEATURES = "features.json"


@dataclass(frozen=True)
class Shard:
    """Consecutive records of a shard. Its repr is part of fingerprints, so keep the field names.

    Attributes:
      file: The shard's file name.
      split: The split it belongs to.
      first: The number of the first record in the split.
      skip: The number of the first record in the shard.
      count: How many records.
      total: How many records the whole shard has.
    """

    file: str
    split: str
    first: int
    skip: int
    count: int
    total: int


@dataclass(frozen=True)
class Selection:
    """The records that `split` selects, an expression in TFDS's syntax, e.g. `train[:80%]`."""

    split: str
    shards: tuple[Shard, ...]

    @property
    def count(self) -> int:
        return sum(shard.count for shard in self.shards)

    def record_name(self, index: int) -> str:
        """The name of a record of the selection in its split, e.g. `train[17]`."""
        for shard in self.shards:
            if index < shard.count:
                return f"{shard.split}[{shard.first + index}]"
            index -= shard.count
        raise IndexError(index)


@dataclass(frozen=True)
class Prepared:
    """A prepared folder, of which only the description has been read.

    Attributes:
      spec: The spec that names it.
      builder: TFDS's read-only builder of the folder.
      copy: If the data is at an address: the local copy that the builder reads.
      image, label: Names of the two features that are read.
    """

    spec: Spec
    builder: Any
    copy: remote.LocalCopy | None
    image: str
    label: str

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.builder.info.features[self.label].names)

    @property
    def folder(self) -> Path:
        return Path(self.builder.data_dir)

    @property
    def is_tfrecord(self) -> bool:
        return self.builder.info.file_format.value == "tfrecord"

    def select(self, split: str, role: str) -> Selection:
        """Returns the records that a split expression in TFDS's syntax selects.

        Args:
          split: The expression.
          role: `train`, `val` or `test`, for errors.

        Raises:
          InputError: The expression is invalid, or selects no record.
        """
        splits = self.builder.info.splits
        first_records: dict[str, tuple[str, int]] = {}
        for name, info in splits.items():
            firsts = np.cumsum([0, *info.shard_lengths])[:-1].tolist()
            for path, first in zip(info.filepaths, firsts, strict=True):
                first_records[_base_name(path)] = name, first
        try:
            instructions = splits[split].file_instructions
        except Exception as error:  # ValueError, KeyError, NotImplementedError, ...
            raise InputError(f"cannot read {role}={split} of {self._describe_splits()}") from error
        shards = []
        for part in instructions:
            file = _base_name(part.filename)
            name, first = first_records[file]
            shards.append(
                Shard(file, name, first + part.skip, part.skip, part.take, part.examples_in_shard)
            )
        if not shards or min(shard.count for shard in shards) < 1:
            raise InputError(f"there is nothing in {role}={split} of {self._describe_splits()}")
        return Selection(split, tuple(shards))

    def fetch(self, shards: Sequence[Shard]) -> None:
        """Makes sure that the shards are in `folder`, by copying them if they are remote.

        Raises:
          InputError: A shard is missing.
        """
        files = list(dict.fromkeys(shard.file for shard in shards))
        if self.copy is not None:
            self.copy.fetch(files)
        elif missing := [file for file in files if not (self.folder / file).is_file()]:
            raise InputError(
                f"{self.folder} lacks {len(missing)} of its files, e.g. {missing[0]}; copy or"
                " prepare it again"
            )

    def _describe_splits(self) -> str:
        splits = self.builder.info.splits.items()
        sizes = ", ".join(f"{name} ({info.num_examples:,})" for name, info in splits)
        return f"{self.spec}; it has {sizes}, and slices look like train[:80%] or train[800:1000]"


class FeatureReader:
    """Reads one feature of a record and skips the others; an encoded image is not decoded."""

    def __init__(self, features: Any, name: str):
        import tensorflow_datasets as tfds

        self._name = name
        self._is_image = isinstance(features[name], tfds.features.Image)
        self._features = tfds.features.FeaturesDict({name: features[name]})

    def __call__(self, record: bytes) -> Any:
        import tensorflow_datasets as tfds

        decoders = {self._name: tfds.decode.SkipDecoding()} if self._is_image else None
        return self._features.deserialize_example_np(record, decoders=decoders)[self._name]


def open_prepared(spec: Spec, data_dir: str | None) -> Prepared:
    """Finds a prepared folder and reads its description, of remote data from a local copy.

    Raises:
      InputError: The folder is missing or cannot be read, or has no labelled images.
    """
    folder = find_prepared(spec, data_dir)
    copy = None
    if remote.is_address(folder):
        copy = remote.LocalCopy(folder)
        copy.fetch(name for name in copy.remote_names() if name.endswith((".json", ".txt")))
        folder = str(copy.folder)
    if not spec.is_custom:
        _refuse_foreign_features(Path(folder))
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(folder)
        formats = {available.value for available in builder.info.available_file_formats()}
        chosen = next((readable for readable in _FORMATS if readable in formats), None)
        if chosen and chosen != builder.info.file_format.value:
            builder = tfds.builder_from_directory(folder, file_format=chosen)
        features, splits = builder.info.features, builder.info.splits
        supervised_keys = builder.info.supervised_keys
    except Exception as error:  # TFDS raises anything for a broken description
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"cannot read the description of {folder} ({why}); copy or prepare it again"
        ) from error
    if chosen is None:
        raise InputError(
            f"{folder} is prepared as {', '.join(formats) or 'nothing'}, which is not read; run"
            f" `tfds convert_format --dataset_version_dir {folder} --out_file_format array_record"
            " --out_dir FOLDER`"
        )
    if not splits:
        raise InputError(f"{folder} holds no splits; copy or prepare it again")
    image, label = _choose_features(spec, features, supervised_keys)
    return Prepared(spec, builder, copy, image, label)


def _choose_features(spec: Spec, features: Any, supervised_keys: Any) -> tuple[str, str]:
    """The names of the features to read: (image, label)."""
    import tensorflow_datasets as tfds

    if not isinstance(features, tfds.features.FeaturesDict):
        raise InputError(f"{spec} holds no named features; wrap it in a builder of your own")
    is_pair = isinstance(supervised_keys, tuple) and len(supervised_keys) == 2
    defaults = supervised_keys if is_pair else (None, None)
    images = [name for name, feature in features.items() if _is_image(feature)]
    labels = [n for n, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
    image = _choose_feature(spec, "image", images, features, defaults[0])
    label = _choose_feature(spec, "label", labels, features, defaults[1])
    if not features[label].num_classes:
        raise InputError(
            f"the label '{label}' of {spec} does not say what its classes are; name another with"
            " ?label="
        )
    return image, label


def _choose_feature(
    spec: Spec, role: str, suitable: list[str], features: Mapping[str, Any], default: Any
) -> str:
    """The feature that the spec names; else the one called like its role, the default, the only."""
    if (chosen := spec.choices.get(role)) is not None:
        check_known(f"feature in {spec}", chosen, features)
        if chosen not in suitable:
            kind = "uint8 images" if role == "image" else "class labels"
            raise InputError(
                f"the feature '{chosen}' of {spec} does not hold {kind}; name another with"
                f" ?{role}=: {', '.join(suitable) or 'there is none'}"
            )
        return chosen
    for name in (role, default):
        if name in suitable:
            return str(name)
    if len(suitable) == 1:
        return suitable[0]
    if not suitable:
        raise InputError(
            f"{spec} has no feature that could be the {role} (it has {', '.join(features)}); choose"
            " a data set of labelled images"
        )
    raise InputError(
        f"{spec} has several {role} features; name one with ?{role}=: {', '.join(suitable)}"
    )


def _is_image(feature: Any) -> bool:
    """Whether it holds encoded images of 8 or 16 bits, or uint8 arrays shaped like an image."""
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.Image):
        return feature.np_dtype != np.float32
    is_tensor = type(feature) is tfds.features.Tensor and feature.np_dtype == np.uint8
    return is_tensor and (len(feature.shape) == 2 or feature.shape[2:] in ((1,), (3,)))


def _refuse_foreign_features(folder: Path) -> None:
    """Raises InputError for feature classes outside TFDS, as it would import any module named."""

    def find_classes(value: Any) -> list[str]:
        if isinstance(value, list):
            return [name for item in value for name in find_classes(item)]
        if not isinstance(value, dict):
            return []
        own = [value[key] for key in ("pythonClassName", "type") if isinstance(value.get(key), str)]
        return own + [name for item in value.values() for name in find_classes(item)]

    try:
        names = find_classes(parse_json((folder / _FEATURES).read_bytes()))
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot read {folder / _FEATURES} ({error}); copy or prepare it again"
        ) from error
    for name in names:
        if "." in name and not name.startswith("tensorflow_datasets."):
            raise InputError(
                f"{folder} has features of the class {name}, whose module would be imported; if you"
                " trust it, name the builder: tfds:package.module.Builder"
            )


def _base_name(path: Any) -> str:
    return os.path.basename(os.fspath(path))
