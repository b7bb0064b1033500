"""A few records in the format of the data sets that experiments/lp_ft/builders.py joins."""

import tensorflow_datasets as tfds

from experiments.lp_ft.builders import CLASSES
from tests.vtab_sources import Source, png

STL10 = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")


class _Labelled(Source):
    LABEL = tfds.features.ClassLabel(num_classes=10)

    def features(self):
        return {"image": tfds.features.Image(), "label": self.LABEL}

    def records(self, split):
        """Two records of each class; the grey level of an image is the number of its record."""
        for number in range(20):
            yield {"image": png(number), "label": number // 2}


class Cifar10(_Labelled):
    VERSION = tfds.core.Version("3.0.2")
    SPLITS = ("train", "test")
    LABEL = tfds.features.ClassLabel(names=CLASSES)


class CifarAnew(_Labelled):
    name = "cifar10_1"
    VERSION = tfds.core.Version("1.1.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="v6")]  # noqa: RUF012 (TFDS wants a list)
    SPLITS = ("test",)


class Stl10(_Labelled):
    VERSION = tfds.core.Version("1.0.0")
    SPLITS = ("test",)
    LABEL = tfds.features.ClassLabel(names=STL10)
