r"""AugReg's ViT-B/32, pretrained on ImageNet-21k, fine-tuned on four data sets at 384 pixels.

    tljax sweep --config experiments/augreg_transfer/config.py --workdir runs/augreg_transfer
    tljax train --config experiments/augreg_transfer/config.py:pets --workdir runs/augreg_pets

Steiner et al. 2022 ("How to train your ViT?"), with the settings of big_vision's
`configs/transfer.py`. The argument of `train` is cifar10 (the default), cifar100, pets or flowers.

Expected, test accuracy, mean [range] of the authors' 5 runs: cifar10 98.55 [98.46-98.60], cifar100
91.35 [91.09-91.62], pets 93.78 [93.62-94.00], flowers 99.43 [99.42-99.45]. Not run here.
"""

from tljax.config import base

# CIFAR: resized to 448, then a random crop of 384. Pets and Flowers: crops of any size.
_CIFAR = {
    "steps": 10_000,
    "warmup": 500,
    "augment": "resize_crop_flip",
    "crop_area": ((384 / 448) ** 2, (384 / 448) ** 2),
}
_SMALL = {
    "steps": 500,
    "warmup": 100,
    "augment": "crop_flip",
    "crop_area": (0.05, 1.0),
}
TASKS = {
    "cifar10": {"data": "tfds:cifar10?train=train[:98%],val=train[98%:]", "lr": 0.003} | _CIFAR,
    "cifar100": {"data": "tfds:cifar100?train=train[:98%],val=train[98%:]", "lr": 0.01} | _CIFAR,
    "pets": {"data": "tfds:oxford_iiit_pet?train=train[:90%],val=train[90%:]", "lr": 0.003}
    | _SMALL,
    "flowers": {"data": "tfds:oxford_flowers102?train=train[:90%],val=train[90%:]", "lr": 0.003}
    | _SMALL,
}


def get_config(arg=None):
    config = base()
    config.model = "vit_base_patch32_224"
    config.init_from = "B_32-i21k-300ep-lr_0.001-aug_light1-wd_0.1-do_0.0-sd_0.0"
    config.image_size = 384
    config.crop_ratio = 384 / 448
    config.scenario = "fine_tune"
    config.backbone_lr_scale = 1.0
    config.batch_size = 512
    config.clip_norm = 1.0
    config.eval_every = 10_000  # the last weights count
    config.checkpoint_every = 500
    config.update(TASKS[arg or "cifar10"])
    return config


def sweep(arg=None):
    for task in [arg] if arg else TASKS:
        for seed in range(5):
            yield {**TASKS[task], "seed": seed}
