r"""ImageNet's 1,000 classes, divided at random into two halves of 500, four times.

    tljax prepare tfds:imagenet2012
    for half in a0 b0 a1 b1 a2 b2 a3 b3; do
      PYTHONPATH=. tljax prepare tfds:experiments.yosinski2014.builders.ImagenetHalves/$half
    done

Each half of a division is a data set. Once prepared, they are read as tfds:imagenet_halves/a0 and
so on, without this file. The splits `train` and `validation` and their order are ImageNet's. Labels
0 to 499 are the half's classes in ImageNet's order. Images are resized to 256 pixels, as the
authors' are, so that a half fits on a TPU VM's disk. As in the paper the halves are random, so
that dogs, say, are in both. They are those of `half_classes` below, not those of the authors.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from tljax.data.tfds.spec import encoded_records

CLASSES = 1000
DIVISIONS = 4
_SOURCE = "imagenet2012:5.*.*"
_SPLITS = ("train", "validation")  # the third has no labels
_SIDE = 256  # pixels


def half_classes(name: str) -> np.ndarray:
    """The classes of a half, `a0` to `b3`: int (500,), ascending.

    Division d is NumPy's permutation of all classes by seed d; its first half is `a`.
    """
    half, division = name[0], int(name[1:])
    order = np.random.default_rng(division).permutation(CLASSES)
    return np.sort(order[: CLASSES // 2] if half == "a" else order[CLASSES // 2 :])


def shrink(image: bytes) -> bytes:
    """A JPEG whose shorter side is 256 pixels; a JPEG that is not larger is unchanged."""
    opened = Image.open(io.BytesIO(image))
    scale = _SIDE / min(opened.size)
    if scale >= 1:
        return image
    width, height = (round(scale * side) for side in opened.size)
    file = io.BytesIO()
    rgb = opened.convert("RGB")  # some are grey, or CMYK
    rgb.resize((width, height), Image.Resampling.BILINEAR).save(file, "JPEG", quality=95)
    return file.getvalue()


class ImagenetHalves(tfds.core.GeneratorBasedBuilder):
    """Reads the prepared ImageNet, and writes the images of one half's classes."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [  # noqa: RUF012 (TFDS wants a list)
        tfds.core.BuilderConfig(name=f"{half}{division}")
        for division in range(DIVISIONS)
        for half in "ab"
    ]

    def _info(self):
        features = {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(num_classes=CLASSES // 2),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in _SPLITS}

    def _generate_examples(self, split) -> Iterator[tuple[int, dict[str, Any]]]:
        labels = {int(old): new for new, old in enumerate(half_classes(self.builder_config.name))}
        root = Path(self.data_dir).parents[2]  # of name/config/version
        for number, record in enumerate(encoded_records(_SOURCE, split, str(root))):
            label = labels.get(int(record["label"]))
            if label is not None:
                yield number, {"image": shrink(record["image"]), "label": label}
