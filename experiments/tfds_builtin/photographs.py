"""Fills the folders of NWPU-RESISC45 with crops of scikit-image's photographs: 4 of 45 classes.

The layout is the data set's own, the images are not: they are there to go through its builder.
"""

import sys
from pathlib import Path

import numpy as np
import skimage
from PIL import Image

CROPS = 60  # a class
SIDE = 256  # pixels, as in the data set
PHOTOGRAPHS = {"cloud": "hubble_deep_field.jpg", "desert": "gravel.png"}
PHOTOGRAPHS |= {"dense_residential": "brick.png", "meadow": "grass.png"}


def main(root: Path) -> None:
    rng = np.random.default_rng(0)
    for name, file in PHOTOGRAPHS.items():
        photograph = Image.open(Path(skimage.__file__).parent / "data" / file).convert("RGB")
        (root / name).mkdir(parents=True)
        for i in range(1, CROPS + 1):
            left, top = (int(rng.integers(side - SIDE + 1)) for side in photograph.size)
            crop = photograph.crop((left, top, left + SIDE, top + SIDE))
            crop.save(root / name / f"{name}_{i:03}.jpg", quality=90)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
