r"""The textbook's example: cats and dogs, from a ResNet-50 that knows ImageNet's thousand classes.

    tljax prepare tfds:cats_vs_dogs
    tljax train --config configs/cats_vs_dogs.py --workdir runs/cats_vs_dogs

The data set has one split, `train` (23,262 photographs), which this config divides in three. The
weights are fetched from the Hugging Face hub on first use; a new zero head of two classes replaces
their head of 1,000. Among ImageNet's classes are 118 breeds of dogs and five kinds of cats, so the
target is similar and large.

Expected: not measured, because the data were not available; such a similar target needs few steps.
"""

from tljax.config import base


def get_config(arg=None):
    config = base()
    config.augment = "crop_flip"
    config.data = "tfds:cats_vs_dogs?train=train[:80%],val=train[80%:90%],test=train[90%:]"
    config.model = "resnet50"
    config.init_from = "resnet50.a1_in1k"
    config.scenario = "fine_tune"
    config.backbone_lr_scale = 0.1
    config.lr = 0.01
    config.batch_size = 64
    config.epochs = 2.0
    config.clip_norm = 1.0
    config.warmup = 50
    config.eval_every = 100
    return config
