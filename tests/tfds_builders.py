"""Small data sets as TFDS builders, which are prepared without TensorFlow."""

import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

SIZES = {"train": 24, "test": 9}
CLASSES = ("circle", "square", "star")


def label(i):
    return i * len(CLASSES) // 24 % len(CLASSES)  # class by class, as folders are read


def pixels(i, split="train"):
    """Image i of a split, uint8 (h, w, 3); sizes differ."""
    rng = np.random.default_rng([i, split == "test"])
    return rng.integers(0, 256, (30 + i % 3, 36, 3), np.uint8)


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


class Shapes(tfds.core.GeneratorBasedBuilder):
    """Two splits, a text, two images, two labels; record i is image i."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(),
            "grey": tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8),
            "label": tfds.features.ClassLabel(names=CLASSES),
            "parity": tfds.features.ClassLabel(names=("even", "odd")),
            "name": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in SIZES}

    def _generate_examples(self, split):
        for i in range(SIZES[split]):
            yield (
                i,
                {
                    "image": self.encoded(i, split),
                    "grey": np.full((8, 8, 1), i, np.uint8),
                    "label": label(i),
                    "parity": i % 2,
                    "name": f"image {i} of {split}",
                },
            )

    def encoded(self, i, split):
        return png(pixels(i, split))


class CatsVsDogs(tfds.core.GeneratorBasedBuilder):
    """Like the data set of that name: one split, two classes."""

    VERSION = tfds.core.Version("4.0.1")

    def _info(self):
        features = {
            "image": tfds.features.Image(),
            "image/filename": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=("cat", "dog")),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(20):
            example = {"image": png(pixels(i)), "image/filename": f"{i}.png", "label": i % 2}
            yield i, example


class Damaged(Shapes):
    """Two records of each split are not images."""

    def encoded(self, i, split):
        return b"no image" if i in (3, 8) else super().encoded(i, split)


class Failing(Shapes):
    """A data set whose preparation fails."""

    def encoded(self, i, split):
        if i == 5:
            raise ValueError("no more images")
        return super().encoded(i, split)


class Plain(tfds.core.GeneratorBasedBuilder):
    """Has configs, a split labelled by `kind` instead of `label`, and an unlabelled split."""

    VERSION = tfds.core.Version("2.1.0")
    BUILDER_CONFIGS = [  # noqa: RUF012 (TFDS wants a list)
        tfds.core.BuilderConfig(name="all", description="the default"),
        tfds.core.BuilderConfig(name="half", description="every other class"),
    ]

    def _info(self):
        features = {
            "picture": tfds.features.Image(),
            "kind": tfds.features.ClassLabel(names=CLASSES),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("picture", "kind"),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {"all_of_it": self._generate_examples(20), "unlabelled": self._generate_examples(2)}

    def _generate_examples(self, count):
        for i in range(count):
            kind = i % 3 if count == 20 else -1
            yield i, {"picture": png(pixels(i)), "kind": kind}
