r"""CIFAR-10's training images with test images of other data sets: a distribution shift.

    tljax prepare tfds:cifar10; tljax prepare tfds:cifar10_1/v6; tljax prepare tfds:stl10
    for shift in cifar10_1 stl10; do
      PYTHONPATH=. tljax prepare tfds:experiments.lp_ft.builders.Shifted/$shift
    done

Once prepared, they are read as tfds:shifted/cifar10_1 and tfds:shifted/stl10, without this file.
`train` has CIFAR-10's training images, so that the naive baseline is computed from the data that a
run was trained on. `test` has the test images of the other data set. STL-10's monkeys are left out,
and it has no frogs (French et al. 2018, as in Kumar et al. 2022).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from tljax.data.tfds.spec import encoded_records

CLASSES = ("airplane", "automobile", "bird", "cat", "deer")
CLASSES += ("dog", "frog", "horse", "ship", "truck")
# STL-10's classes in the order of its labels, with CIFAR-10's names.
STL10 = ("airplane", "bird", "automobile", "cat", "deer")
STL10 += ("dog", "horse", "monkey", "ship", "truck")
_CIFAR10 = "cifar10:3.*.*"


@dataclass
class ShiftConfig(tfds.core.BuilderConfig):
    """Where the test images come from.

    Attributes:
      source: the data set, in the newest matching version that is prepared.
      labels: its classes; images of classes that CIFAR-10 does not have are left out.
    """

    source: str = ""
    labels: tuple[str, ...] = CLASSES


class Shifted(tfds.core.GeneratorBasedBuilder):
    """Reads two prepared data sets and writes their images with CIFAR-10's labels."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [  # noqa: RUF012 (TFDS wants a list)
        ShiftConfig(name="cifar10_1", source="cifar10_1/v6:1.*.*"),
        ShiftConfig(name="stl10", source="stl10:1.*.*", labels=STL10),
    ]

    def _info(self):
        features = {
            "image": tfds.features.Image(),
            "label": tfds.features.ClassLabel(names=CLASSES),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        shift = self.builder_config
        return {
            "train": self._generate_examples(_CIFAR10, "train", CLASSES),
            "test": self._generate_examples(shift.source, "test", shift.labels),
        }

    def _generate_examples(self, source, split, labels) -> Iterator[tuple[int, dict[str, Any]]]:
        root = Path(self.data_dir).parents[2]  # of name/config/version
        for number, record in enumerate(encoded_records(source, split, str(root))):
            if labels[record["label"]] in CLASSES:
                label = CLASSES.index(labels[record["label"]])
                yield number, {"image": record["image"], "label": label}
