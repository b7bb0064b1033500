r"""ImageNet's 1,000 classes in two halves of 500, four times, at random: two data sets a division.

    tljax prepare tfds:imagenet2012
    for half in a0 b0 a1 b1 a2 b2 a3 b3; do
      PYTHONPATH=. tljax prepare tfds:experiments.yosinski2014.builders.ImagenetHalves/$half
    done

Once prepared, they are read as tfds:imagenet_halves/a0 and so on, without this file. `train` and
`validation`, and the order in them, are ImageNet's; labels 0 to 499 are the half's classes in
ImageNet's order. Images are brought to 256 pixels, as the authors' are, so that a half fits a TPU
VM's disk. As in the paper the halves are drawn at random, so that dogs, say, are in both; which
classes are in which half follows from `half_of` below, and not from the authors' program.
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
_SPLITS = ("train", "validation")  # nobody labelled the third
_SIDE = 256  # pixels


def half_of(name: str) -> np.ndarray:
    """The classes of a half, int (500,), in ascending order: `a0` to `b3`.

    Division d is NumPy's permutation of all classes by seed d; its first half is `a`.
    """
    half, division = name[0], int(name[1:])
    order = np.random.default_rng(division).permutation(CLASSES)
    return np.sort(order[: CLASSES // 2] if half == "a" else order[CLASSES // 2 :])


def shrunk(image: bytes) -> bytes:
    """A JPEG whose shorter side is 256 pixels; one that is no larger is left as it is."""
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
        labels = {int(old): new for new, old in enumerate(half_of(self.builder_config.name))}
        root = Path(self.data_dir).parents[2]  # of name/config/version
        for number, record in enumerate(encoded_records(_SOURCE, split, str(root))):
            label = labels.get(int(record["label"]))
            if label is not None:
                yield number, {"image": shrunk(record["image"]), "label": label}
