r"""Derives the five tasks of VTAB whose labels are not classes in TFDS.

    tljax prepare tfds:clevr; tljax prepare tfds:kitti; tljax prepare tfds:dsprites
    for task in clevr_count clevr_distance kitti_distance dsprites_location dsprites_orientation; do
      PYTHONPATH=. tljax prepare tfds:experiments.vtab1k.builders.Vtab/$task
    done

Once prepared, they are read as tfds:vtab/clevr_count and so on, without this file. Splits and their
order are those of the source data set. The bounds between classes are those of VTAB's repository
(google-research/task_adaptation).
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from tljax.data.tfds.spec import encoded_records

_CLEVR = ("train", "validation")  # the third has no labels
_KITTI = ("train", "validation", "test")
_VEHICLES = 3  # KITTI's first types: car, van, truck
_SIDE = 224  # pixels


def clevr_count(record: dict[str, Any]) -> int:
    """Three to ten objects: classes 0 to 7."""
    return len(record["objects"]["size"]) - 3


def clevr_distance(record: dict[str, Any]) -> int:
    """Distance of the closest object: 0 up to 8, then one class for each half, 5 beyond 10."""
    closest = np.min(_third(record["objects"]["pixel_coords"]))
    return int(np.searchsorted([8.0, 8.5, 9.0, 9.5, 10.0], closest))


def kitti_distance(record: dict[str, Any]) -> int:
    """Distance of the closest car, van or truck: up to 8 m, up to 20 m, beyond, or 3: none."""
    objects = record["objects"]
    distances = _third(objects["location"])[np.asarray(objects["type"]) < _VEHICLES]
    return int(np.searchsorted([8.0, 20.0, 999.0], np.min(distances, initial=1000.0)))


def dsprites_location(record: dict[str, Any]) -> int:
    """32 places from left to right, in 16 classes."""
    return int(record["label_x_position"] // 2)


def dsprites_orientation(record: dict[str, Any]) -> int:
    """40 angles, in 16 classes of two or three."""
    return int(record["label_orientation"] // 2.5)


def _third(points: Any) -> np.ndarray:
    """The distances of points (n, 3), where n may be 0: (n,)."""
    return np.reshape(points, (-1, 3))[:, 2]


def squash(image: bytes) -> bytes:
    """Resizes the whole image to a square, since a central crop may miss the closest vehicle."""
    return _png(Image.open(io.BytesIO(image)).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR))


def stretch_contrast(image: bytes) -> bytes:
    """Makes dSprites' 0 and 1 black and white."""
    return _png(Image.open(io.BytesIO(image)).point(lambda value: 255 * value))


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@dataclass
class TaskConfig(tfds.core.BuilderConfig):
    """How a task is derived from a data set.

    Attributes:
      source: the data set, in the newest matching version that is prepared.
      splits: its labelled splits.
      label: maps a record, with its image encoded, to a class.
      num_classes: the number of classes.
      image: maps an encoded image to an encoded image; None leaves it unchanged.
    """

    source: str = ""
    splits: tuple[str, ...] = ()
    label: Callable[[dict[str, Any]], int] = clevr_count
    num_classes: int = 0
    image: Callable[[bytes], bytes] | None = None


class Vtab(tfds.core.GeneratorBasedBuilder):
    """Reads a prepared data set and writes its images, in order, with the task's labels."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [  # noqa: RUF012 (TFDS wants a list)
        TaskConfig(
            name="clevr_count",
            source="clevr:3.*.*",
            splits=_CLEVR,
            label=clevr_count,
            num_classes=8,
        ),
        TaskConfig(
            name="clevr_distance",
            source="clevr:3.*.*",
            splits=_CLEVR,
            label=clevr_distance,
            num_classes=6,
        ),
        TaskConfig(
            name="kitti_distance",
            source="kitti:3.*.*",
            splits=_KITTI,
            label=kitti_distance,
            num_classes=4,
            image=squash,
        ),
        TaskConfig(
            name="dsprites_location",
            source="dsprites:2.*.*",
            splits=("train",),
            label=dsprites_location,
            num_classes=16,
            image=stretch_contrast,
        ),
        TaskConfig(
            name="dsprites_orientation",
            source="dsprites:2.*.*",
            splits=("train",),
            label=dsprites_orientation,
            num_classes=16,
            image=stretch_contrast,
        ),
    ]

    def _info(self):
        features = {
            "image": tfds.features.Image(),
            "label": tfds.features.ClassLabel(num_classes=self.builder_config.num_classes),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        root = str(Path(self.data_dir).parents[2])  # of name/config/version
        return {split: self._generate_examples(split, root) for split in self.builder_config.splits}

    def _generate_examples(self, split, root) -> Iterator[tuple[int, dict[str, Any]]]:
        task = self.builder_config
        for number, record in enumerate(encoded_records(task.source, split, root)):
            image = record["image"]
            yield (
                number,
                {"image": task.image(image) if task.image else image, "label": task.label(record)},
            )
