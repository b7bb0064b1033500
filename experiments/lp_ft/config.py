r"""Fine-tuning, a linear probe, and one after the other (LP-FT), in and out of distribution.

    tljax sweep --config experiments/lp_ft/config.py:cifar10/lp --workdir runs/lp_ft/cifar10/lp
    tljax sweep --config experiments/lp_ft/config.py:cifar10/ft --workdir runs/lp_ft/cifar10/ft
    tljax sweep --config experiments/lp_ft/config.py:cifar10/lp_ft --workdir \
        runs/lp_ft/cifar10/lp_ft --config.probe_lr=0.1

Kumar et al. 2022 ("Fine-tuning can distort pretrained features and underperform
out-of-distribution"). The data are cifar10 or domainnet, the methods lp, ft and lp_ft. `digits` is
the same study for two CPU cores: digits/METHOD/pilot and digits/METHOD/study, which need
runs/four_scenarios/resnet10_32/source. `run.py` in this folder runs all of them.

Expected for CIFAR-10, from memory, accuracy on CIFAR-10 / STL-10 / CIFAR-10.1: FT 97.3 / 82.4 /
92.3, LP 91.8 / 85.1 / 82.7, LP-FT 97.5 / 90.7 / 93.5, with another network. Not run here.
"""

from tljax.config import base

METHODS = {
    "lp": {"scenario": "feature_extraction"},
    "ft": {"scenario": "fine_tune", "backbone_lr_scale": 1.0},
    "lp_ft": {"scenario": "fine_tune", "backbone_lr_scale": 1.0, "stages": "lp_ft"},
}
# Training data; the rest of `train` is for validation. README.md names the test data.
DATA = {
    "cifar10": {"data": "tfds:cifar10?train=train[:90%],val=train[90%:]", "augment": "none"},
    "domainnet": {
        "data": "tfds:domainnet/sketch?train=train[:90%],val=train[90%:]",
        "augment": "resize_crop_flip",
        "crop_area": ((224 / 256) ** 2, (224 / 256) ** 2),
    },
}
# Six rates of each method; validation images of the training data choose one.
TRIED = {
    "lp": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
    "ft": (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
    "lp_ft": (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
}
# Fine-tuning is as long with a probe before it as without; a probe's steps cost almost nothing.
EPOCHS = {
    "lp": {"epochs": 20.0},
    "ft": {"epochs": 20.0},
    "lp_ft": {"epochs": 25.0, "probe_share": 0.2, "probe_lr": 0.1},
}

# The small form: a ResNet that was trained on letters (SOURCE), on handwritten digits.
SOURCE = "runs/four_scenarios/resnet10_32/source"
DIGITS_TRIED = {
    "lp": (0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
    "ft": (0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
    "lp_ft": (0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
}
DIGITS_STEPS = {
    "lp": {"steps": 160},
    "ft": {"steps": 80},
    "lp_ft": {"steps": 160, "probe_share": 0.5, "probe_lr": 0.1},
}
PILOT_SEED = 100
SEEDS = range(10)


def get_config(arg):
    data, method, *_ = arg.split("/")
    config = base()
    config.head_init = "random"
    config.update(METHODS[method])
    if data == "digits":
        config.data = "embedded:digits"
        config.train_size = 200
        config.model = "resnet10_32"
        config.init_from = SOURCE
        config.augment = "none"
        config.batch_size = 32
        config.eval_every = 20
        config.checkpoint_every = 1000  # a run of seconds: its best weights are enough
        config.update(DIGITS_STEPS[method])
        return config
    config.model = "vit_base_patch16_224"
    config.init_from = "vit_base_patch16_224.dino"
    config.image_size = 224
    config.crop_ratio = 1.0
    config.batch_size = 64
    config.update(DATA[data])
    config.update(EPOCHS[method])
    if method == "lp":
        config.augment = "none"  # its features are computed once
    return config


def sweep(arg):
    data, method, *part = arg.split("/")
    if data != "digits":
        for lr in TRIED[method]:
            for seed in range(3):
                yield {"lr": lr, "seed": seed}
    elif part == ["pilot"]:
        for lr in DIGITS_TRIED[method]:
            yield {"lr": lr, "seed": PILOT_SEED}
    else:
        for seed in SEEDS:
            yield {"seed": seed}
