"""The jobs that are timed: the same images, weights, batches and epochs for every contender.

| job | scenario | images | epochs |
|---|---|---|---|
| S1 | feature extraction: a new head on frozen features | 256 | 10 |
| S2 | freeze first: all but the last blocks and the head are frozen | 256 | 10 |
| S3 | from scratch | 64 | 1 |
| S4 | fine-tune: everything is trained, the backbone at a tenth of the rate | 64 | 1 |

Batches of 32, SGD with momentum, float32, no augmentation. Images are in memory as uint8, in the
network's size, so that no contender reads or resizes; each normalises them itself.
"""

import functools
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

BATCH = 32
CLASSES = 10
LEARNING_RATE = 0.01
MOMENTUM = 0.9
BACKBONE_RATE = 0.1  # S4: a fraction of the learning rate


@dataclass(frozen=True)
class Network:
    """A network that every contender has.

    Attributes:
      name: its name in tljax.
      pixels: the side of its images.
      k: the number of groups that S2 freezes.
    """

    name: str
    pixels: int
    k: int


NETWORKS = {
    "vit_small": Network("vit_small_patch14_dinov2", 224, k=10),
    "resnet50": Network("resnet50", 224, k=14),
    "resnet10": Network("resnet10_32", 32, k=3),
}
# Of further families one batch of the forward pass and of the step alone.
FURTHER = {
    "dinov3_small": Network("vit_small_patch16_dinov3", 224, k=10),
    "convnext_tiny": Network("convnext_tiny", 224, k=14),
}
# On a GPU in bfloat16, at the largest batch that fits.
HALF = {
    "vit_base": Network("vit_base_patch16_224", 224, k=10),
    "convnext_tiny": FURTHER["convnext_tiny"],
}
HALF_BATCHES = (512, 256, 128, 64)
ALL_NETWORKS = {**NETWORKS, **FURTHER, **HALF}


@dataclass(frozen=True)
class Job:
    """A whole training run, from images and weights in memory to trained weights."""

    network: Network
    scenario: str
    images: int
    epochs: int


_SCENARIOS = {
    "S1": ("feature_extraction", 256, 10),
    "S2": ("freeze_first", 256, 10),
    "S3": ("from_scratch", 64, 1),
    "S4": ("fine_tune", 64, 1),
}
JOBS = {
    f"{network}/{label}": Job(NETWORKS[network], *_SCENARIOS[label])
    for network in NETWORKS
    for label in _SCENARIOS
}

# Linear heads on kept features: (features, rows, outputs, kind of labels).
HEADS = (
    (384, 2_000, 10, "classes"),
    (768, 20_000, 10, "classes"),
    (768, 20_000, 100, "classes"),
    (768, 20_000, 20, "multi_label"),
    (768, 20_000, 3, "regression"),
)


def head_row(width: int, rows: int, outputs: int, kind: str) -> str:
    """The name of a row of the results."""
    name = f"head/{width}/{rows}/{outputs}"
    return name if kind == "classes" else f"{name}/{kind}"


def make_features(
    width: int, rows: int, outputs: int, kind: str = "classes"
) -> tuple[np.ndarray, np.ndarray]:
    """Draws features as correlated as a network's, and labels of a kind that they tell in part.

    Returns:
      features float32 (rows, width); and labels: int32 (rows,) of classes, uint8 (rows, outputs) of
      several labels, which 2 to 70 % of the rows have, or float32 (rows, outputs) of numbers.
    """
    rng = np.random.default_rng(0)
    labels = rng.integers(outputs, size=rows).astype(np.int32)
    x = 0.15 * rng.normal(size=(outputs, width))[labels] + rng.normal(size=(rows, width))
    hidden = x @ rng.normal(size=(width, outputs)) / np.sqrt(width) if kind != "classes" else None
    # deviations along the principal axes fall from 1 to 1 %, as those of DINOv2-small do
    axes = np.linalg.qr(rng.normal(size=(width, width)))[0]
    x = ((x * np.logspace(0, -2, width)) @ axes).astype(np.float32)
    if hidden is None:
        return x, labels
    numbers = 1.5 * hidden + rng.normal(size=(rows, outputs))
    if kind == "regression":
        return x, numbers.astype(np.float32)
    return x, (numbers > np.linspace(-1, 3.5, outputs)).astype(np.uint8)


@functools.cache
def make_images(pixels: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Enlarges tiles of ten photographs; their content does not change the time they take.

    Returns:
      images uint8 (count, pixels, pixels, 3) and labels int32 (count,).
    """
    from PIL import Image

    from tljax.data import load

    tiles = load("embedded:textures").train
    chosen = np.random.default_rng(0).choice(len(tiles), count, replace=count > len(tiles))
    images = [
        Image.fromarray(tiles[int(i)]["image"]).resize((pixels, pixels), Image.Resampling.BICUBIC)
        for i in chosen
    ]
    return np.stack(images), tiles.labels[chosen].astype(np.int32)


def make_photographs(folder: Path, count: int = 256) -> Path:
    """Writes, once, JPEG files of 500 x 375 pixels (about ImageNet's size) in two classes.

    They are crops of colour photographs that scikit-image ships. Returns their folder.
    """
    from PIL import Image

    from tljax.data.folder import find_in_package

    path = folder / f"photographs_{count}"
    if not path.exists():
        rng = np.random.default_rng(0)
        whole = [
            Image.open(find_in_package("skimage", f"data/{name}")).convert("RGB")
            for name in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
        ]
        making = folder / f".photographs_{count}"
        for i in range(count):
            image = whole[i % len(whole)]
            left, top = (int(rng.integers(side // 4)) for side in image.size)
            box = (left, top, left + image.width * 3 // 4, top + image.height * 3 // 4)
            file = making / "train" / f"class_{i % 2}" / f"{i}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            image.resize((500, 375), box=box).save(file, quality=90)
        making.rename(path)
    return path


def make_weights(network: Network, folder: Path) -> Path:
    """Writes, once, the network's weights under timm's names. Returns the file.

    DINOv2's own weights if `TLJAX_CHECKPOINTS` holds them, else random ones, which take the same
    time.
    """
    from safetensors.numpy import save_file

    import tljax
    from tljax.weights import rules
    from tljax.weights.export import family_of

    path = folder / f"{network.name}_{network.pixels}.safetensors"
    if not path.exists():
        source = Path(os.environ.get("TLJAX_CHECKPOINTS", "")) / "dinov2_small_hf.safetensors"
        known = source.is_file() and network.name == "vit_small_patch14_dinov2"
        model, variables, _ = tljax.load(
            network.name,
            init_from=source if known else None,
            num_classes=CLASSES,
            image_size=network.pixels,
        )
        tensors = rules.unconvert(
            family_of("timm", network.name, model), model, rules.flatten(variables)
        )
        save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, path)
    return path
