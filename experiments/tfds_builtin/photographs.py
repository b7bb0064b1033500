"""Writes crops of scikit-image's photographs as NWPU-RESISC45, for 4 of its 45 classes.

The layout is the data set's own, so that its builder reads the files; the images are not.
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
