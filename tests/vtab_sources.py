"""A few records in the format of the data sets of experiments/vtab1k/builders.py."""

import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

# The third coordinate of each image's objects, the kind of object, and the tasks' classes.
CLEVR = [([7.5, 9, 12], 0), ([8.0, 11, 12], 0), ([8.1] * 10, 1), ([10.5, 11, 10.1, 12], 5)]
KITTI = [([4.0], [0], 0), ([4.0, 30.0], [3, 1], 2), ([9.0, 8.5], [2, 7], 1), ([], [], 3)]
DSPRITES = [(0, 0, 0, 0), (1, 2, 0, 0), (31, 39, 15, 15), (16, 5, 8, 2)]  # place, angle, classes


def png(value, channels=3, height=6):
    file = io.BytesIO()
    pixels = np.full((height, 8, channels), value, np.uint8)
    Image.fromarray(pixels.squeeze()).save(file, "PNG")
    return file.getvalue()


class Source(tfds.core.GeneratorBasedBuilder):
    """Subclasses define the features, and the records of a split."""

    SPLITS = ("train", "validation", "test")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(self.features()),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self.SPLITS}

    def _generate_examples(self, split):
        yield from enumerate(self.records(split))


class Clevr(Source):
    VERSION = tfds.core.Version("3.1.0")

    def features(self):
        tensor = tfds.features.Tensor(shape=(3,), dtype=np.float32)
        objects = {
            "size": tfds.features.ClassLabel(names=["small", "large"]),
            "pixel_coords": tensor,
        }
        return {"image": tfds.features.Image(), "objects": tfds.features.Sequence(objects)}

    def records(self, split):
        for number, (distances, _) in enumerate(CLEVR):
            known = [] if split == "test" else distances
            objects = [{"size": 0, "pixel_coords": [1, 2, distance]} for distance in known]
            yield {"image": png(number), "objects": objects}


class Kitti(Source):
    VERSION = tfds.core.Version("3.3.0")

    def features(self):
        objects = {
            "type": tfds.features.ClassLabel(num_classes=8),
            "location": tfds.features.Tensor(shape=(3,), dtype=np.float32),
        }
        return {"image": tfds.features.Image(), "objects": tfds.features.Sequence(objects)}

    def records(self, split):
        for number, (distances, kinds, _) in enumerate(KITTI):
            objects = [
                {"type": kind, "location": [1, 2, distance]}
                for distance, kind in zip(distances, kinds, strict=True)
            ]
            yield {"image": png(number), "objects": objects}


class Dsprites(Source):
    VERSION = tfds.core.Version("2.0.0")
    SPLITS = ("train",)

    def features(self):
        return {
            "image": tfds.features.Image(shape=(6, 8, 1)),
            "label_x_position": tfds.features.ClassLabel(num_classes=32),
            "label_orientation": tfds.features.ClassLabel(num_classes=40),
        }

    def records(self, split):
        for place, angle, *_ in DSPRITES:
            yield {"image": png(1, 1), "label_x_position": place, "label_orientation": angle}
