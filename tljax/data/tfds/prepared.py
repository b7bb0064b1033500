"""A prepared folder of TFDS: which records its splits are, and which features are read of them."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tljax.data import remote
from tljax.data.tfds import spec as tfds_spec
from tljax.data.tfds.spec import Spec
from tljax.errors import InputError, check_known
from tljax.files import parse_json

_FORMATS = ("array_record", "parquet", "tfrecord")  # the first that is there is read
_FEATURES = "features.json"


@dataclass(frozen=True)
class Shard:
    """Some records of a shard that follow each other.

    Attributes:
      file: The shard's name.
      split: Its split.
      first: The number of the first record in the split.
      skip: And in the shard.
      count: How many records.
      total: How many the shard has.
    """

    file: str
    split: str
    first: int
    skip: int
    count: int
    total: int


@dataclass(frozen=True)
class Part:
    """What is meant by a split in TFDS's syntax, e.g. `train[:80%]`."""

    split: str
    shards: tuple[Shard, ...]

    @property
    def count(self) -> int:
        return sum(shard.count for shard in self.shards)

    def place(self, index: int) -> str:
        """Where the record of that number in the part stands, e.g. `train[17]`."""
        for shard in self.shards:
            if index < shard.count:
                return f"{shard.split}[{shard.first + index}]"
            index -= shard.count
        raise IndexError(index)


@dataclass(frozen=True)
class Prepared:
    """A prepared folder, as far as its description goes.

    Attributes:
      spec: Which it was found by.
      builder: TFDS's, which reads the folder.
      copy: Where it is a copy from, if it lies behind an address.
      image, label: Names of the two features.
    """

    spec: Spec
    builder: Any
    copy: remote.Copy | None
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

    def part(self, split: str, role: str) -> Part:
        """The records that a split in TFDS's syntax means.

        Raises:
          InputError: It is no such split, or there is nothing in it.
        """
        splits = self.builder.info.splits
        begins: dict[str, tuple[str, int]] = {}
        for name, info in splits.items():
            numbers = np.cumsum([0, *info.shard_lengths])[:-1].tolist()
            for file, first in zip(_names(info.filepaths), numbers, strict=True):
                begins[file] = name, first
        try:
            found = splits[split].file_instructions
        except Exception as error:  # ValueError, KeyError, NotImplementedError, ...
            raise InputError(f"cannot read {role}={split} of {self._told_splits()}") from error
        shards = []
        for at, file in zip(found, _names([at.filename for at in found]), strict=True):
            name, first = begins[file]
            shards.append(
                Shard(file, name, first + at.skip, at.skip, at.take, at.examples_in_shard)
            )
        if not shards or min(shard.count for shard in shards) < 1:
            raise InputError(f"there is nothing in {role}={split} of {self._told_splits()}")
        return Part(split, tuple(shards))

    def fetch(self, shards: Sequence[Shard]) -> None:
        """Sees to it that the shards lie in `folder`.

        Raises:
          InputError: They are not there.
        """
        files = list(dict.fromkeys(shard.file for shard in shards))
        if self.copy is not None:
            self.copy.fetch(files)
        elif missing := [file for file in files if not (self.folder / file).is_file()]:
            raise InputError(
                f"{self.folder} lacks {len(missing)} of its files, e.g. {missing[0]}; copy or"
                " prepare it again"
            )

    def _told_splits(self) -> str:
        told = ", ".join(f"{n} ({i.num_examples:,})" for n, i in self.builder.info.splits.items())
        return f"{self.spec}; it has {told}, and slices look like train[:80%] or train[800:1000]"


class FeatureReader:
    """Reads one feature of a record, and passes over the others; an encoded image stays encoded."""

    def __init__(self, features: Any, name: str):
        import tensorflow_datasets as tfds

        self._name, self._skip = name, isinstance(features[name], tfds.features.Image)
        self._features = tfds.features.FeaturesDict({name: features[name]})

    def __call__(self, record: bytes) -> Any:
        import tensorflow_datasets as tfds

        decoders = {self._name: tfds.decode.SkipDecoding()} if self._skip else None
        return self._features.deserialize_example_np(record, decoders=decoders)[self._name]


def open_prepared(spec: Spec, data_dir: str | None) -> Prepared:
    """Finds a prepared folder, and reads its description; of a remote one a copy is made.

    Raises:
      InputError: It is not there, cannot be read, or has no labelled images.
    """
    place = tfds_spec.find(spec, data_dir)
    copy = None
    if remote.is_address(place):
        copy = remote.Copy(place)
        copy.fetch(name for name in copy.names() if name.endswith((".json", ".txt")))
        place = str(copy.folder)
    if not spec.is_custom:
        _refuse_foreign_features(Path(place))
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(place)
        formats = {known.value for known in builder.info.available_file_formats()}
        chosen = next((known for known in _FORMATS if known in formats), None)
        if chosen and chosen != builder.info.file_format.value:
            builder = tfds.builder_from_directory(place, file_format=chosen)
        features, splits = builder.info.features, builder.info.splits
        keys = builder.info.supervised_keys
    except Exception as error:  # whatever TFDS makes of a broken description
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"cannot read the description of {place} ({why}); copy or prepare it again"
        ) from error
    if chosen is None:
        raise InputError(
            f"{place} is prepared as {', '.join(formats) or 'nothing'}, which is not read; run"
            f" `tfds convert_format --dataset_version_dir {place} --out_file_format array_record"
            " --out_dir FOLDER`"
        )
    if not splits:
        raise InputError(f"{place} holds no splits; copy or prepare it again")
    if not isinstance(features, tfds.features.FeaturesDict):
        raise InputError(f"{spec} holds no named features; wrap it in a builder of your own")
    pair = keys if isinstance(keys, tuple) and len(keys) == 2 else (None, None)
    images = [name for name, feature in features.items() if _is_image(feature)]
    labels = [n for n, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
    image = _feature(spec, "image", images, features, pair[0])
    label = _feature(spec, "label", labels, features, pair[1])
    if not features[label].num_classes:
        raise InputError(f"the label '{label}' of {spec} says nothing of its classes; name another")
    return Prepared(spec, builder, copy, image, label)


def _feature(
    spec: Spec, role: str, fitting: list[str], features: Mapping[str, Any], supervised: Any
) -> str:
    """The feature that is chosen, or else meant: by its name, the builder's word, or as the one."""
    if (chosen := spec.choices.get(role)) is not None:
        check_known(f"feature in {spec}", chosen, features)
        if chosen not in fitting:
            kind = "uint8 images" if role == "image" else "class labels"
            raise InputError(
                f"the feature '{chosen}' of {spec} does not hold {kind}; name another with"
                f" ?{role}=: {', '.join(fitting) or 'there is none'}"
            )
        return chosen
    for name in (role, supervised):
        if name in fitting:
            return str(name)
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise InputError(
            f"{spec} has no feature that could be the {role} (it has {', '.join(features)}); choose"
            " a data set of labelled images"
        )
    raise InputError(
        f"{spec} has several {role} features; name one with ?{role}=: {', '.join(fitting)}"
    )


def _is_image(feature: Any) -> bool:
    """Encoded images of 8 or 16 bits, or arrays of bytes in the shape of an image."""
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.Image):
        return feature.np_dtype != np.float32
    is_tensor = type(feature) is tfds.features.Tensor and feature.np_dtype == np.uint8
    return is_tensor and (len(feature.shape) == 2 or feature.shape[2:] in ((1,), (3,)))


def _refuse_foreign_features(folder: Path) -> None:
    """TFDS would import whatever module a feature's class is said to be in."""

    def classes(value: Any) -> list[str]:
        if isinstance(value, list):
            return [name for item in value for name in classes(item)]
        if not isinstance(value, dict):
            return []
        own = [value[key] for key in ("pythonClassName", "type") if isinstance(value.get(key), str)]
        return own + [name for item in value.values() for name in classes(item)]

    try:
        named = classes(parse_json((folder / _FEATURES).read_bytes()))
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot read {folder / _FEATURES} ({error}); copy or prepare it again"
        ) from error
    for name in named:
        if "." in name and not name.startswith("tensorflow_datasets."):
            raise InputError(
                f"{folder} has features of the class {name}, whose module would be imported; if you"
                " trust it, name the builder: tfds:package.module.Builder"
            )


def _names(files: Sequence[Any]) -> list[str]:
    return [os.path.basename(os.fspath(file)) for file in files]
