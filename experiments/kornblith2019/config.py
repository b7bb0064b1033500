r"""An ImageNet ResNet-50 on ten data sets: fixed features, fine-tuned, or random weights.

    tljax sweep --config experiments/kornblith2019/config.py:ARM --workdir runs/kornblith2019/ARM

Kornblith et al. 2019 ("Do better ImageNet models transfer better?"). ARM is logistic, fine_tuned or
random. TFDS does not have FGVC Aircraft, so it is run separately: see README.md.

Expected, in the order of the arms, from memory, to be checked: Food 72.3 / 88.3 / 86.9, CIFAR-10
93.6 / 97.5 / 95.9, CIFAR-100 78.3 / 86.4 / 80.2, SUN397 61.9 / 64.3 / 53.6, Cars 66.7 / 92.1 /
91.4, Aircraft 61.0 / 86.0 / 85.9, DTD 74.9 / 74.6 / 64.8, Pets 91.5 / 92.1 / 81.5, Caltech-101
94.5 / 93.3 / 72.6, Flowers 94.7 / 97.6 / 92.0. Not run here.
"""

from tljax.config import base

TASKS = {
    "food101": "tfds:food101?test=validation",
    "cifar10": "tfds:cifar10",
    "cifar100": "tfds:cifar100",
    "sun397": "tfds:sun397/standard-part1-120k",
    "cars": "tfds:cars196",
    "dtd": "tfds:dtd",
    "pets": "tfds:oxford_iiit_pet",
    "caltech101": "tfds:caltech101",
    "flowers": "tfds:oxford_flowers102",
}
ARMS = {
    "logistic": {"scenario": "feature_extraction", "augment": "none"},
    "fine_tuned": {"scenario": "fine_tune", "backbone_lr_scale": 1.0},
    "random": {"scenario": "from_scratch", "init_from": None},
}
# Seven rates in equal factors; validation accuracy chooses one.
TRIED = {
    "logistic": (0.01, 0.0316, 0.1, 0.316, 1.0, 3.16, 10.0),
    "fine_tuned": (0.0001, 0.000316, 0.001, 0.00316, 0.01, 0.0316, 0.1),
    "random": (0.001, 0.00316, 0.01, 0.0316, 0.1, 0.316, 1.0),
}


def get_config(arg):
    config = base()
    config.augment = "crop_flip"
    config.data = TASKS["pets"]
    config.model = "resnet50"
    config.init_from = "resnet50.tv_in1k"
    config.image_size = 224
    config.batch_size = 256
    config.steps = 20_000
    config.eval_every = 1000
    config.val_fraction = 0.2
    config.update(ARMS[arg])
    return config


def sweep(arg):
    for task in TASKS.values():
        for lr in TRIED[arg]:
            yield {"data": task, "lr": lr}
