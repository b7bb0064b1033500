r"""VTAB-1k: 19 tasks of 1,000 training images, in three groups, and five ways to adapt to them.

    tljax sweep --config experiments/vtab1k/config.py:ARM/tune --workdir runs/vtab1k/ARM/tune
    tljax sweep --config experiments/vtab1k/config.py:ARM/final --workdir runs/vtab1k/ARM/final
    python experiments/vtab1k/table.py runs/vtab1k/ARM/final

Zhai et al. 2019 ("A large-scale study of representation learning with the Visual Task Adaptation
Benchmark"). ARM is imagenet or scratch, of a ResNet-50; or full, linear or bias, of a ViT-B/16, as
Jia et al. 2022 ("Visual prompt tuning") compare them. `tune` trains on 800 images and validates on
200. The rates that it chooses go into RATES, and `final` trains on all 1,000.

Expected, mean test accuracy natural / specialized / structured: scratch 27.9 / 68.9 / 43.6,
imagenet 73.5 / 82.5 / 52.1; mean of the three groups' means: full 68.97, linear 57.64, bias 65.22.
Not run here.
"""

from tljax.config import base

# For each task: the data set, the 200 images that `tune` validates on, and the test images. The
# first 800 images of `train` are always the training images. builders.py derives the data sets
# vtab/...
GROUPS = {
    "natural": {
        "caltech101": ("caltech101", "train[2754:2954]", "test"),
        "cifar100": ("cifar100", "train[45000:45200]", "test"),
        "dtd": ("dtd", "validation[:200]", "test"),
        "flowers": ("oxford_flowers102", "validation[:200]", "test"),
        "pets": ("oxford_iiit_pet", "train[2944:3144]", "test"),
        "sun397": ("sun397/tfds", "validation[:200]", "test"),
        "svhn": ("svhn_cropped", "train[65931:66131]", "test"),
    },
    "specialized": {
        "patch_camelyon": ("patch_camelyon", "validation[:200]", "test"),
        "eurosat": ("eurosat/rgb", "train[16200:16400]", "train[21600:]"),
        "resisc45": ("resisc45", "train[18900:19100]", "train[25200:]"),
        "retinopathy": (
            "diabetic_retinopathy_detection/btgraham-300",
            "validation[:200]",
            "test",
        ),
    },
    "structured": {
        "clevr_count": ("vtab/clevr_count", "train[63000:63200]", "validation"),
        "clevr_distance": ("vtab/clevr_distance", "train[63000:63200]", "validation"),
        "dmlab": ("dmlab", "validation[:200]", "test"),
        "kitti_distance": ("vtab/kitti_distance", "validation[:200]", "test"),
        "dsprites_location": (
            "vtab/dsprites_location",
            "train[589824:590024]",
            "train[663552:]",
        ),
        "dsprites_orientation": (
            "vtab/dsprites_orientation",
            "train[589824:590024]",
            "train[663552:]",
        ),
        "smallnorb_azimuth": ("smallnorb", "test[:200]", "test[50%:],label=label_azimuth"),
        "smallnorb_elevation": ("smallnorb", "test[:200]", "test[50%:],label=label_elevation"),
    },
}
TASKS = {task: parts for group in GROUPS.values() for task, parts in group.items()}

_RESNET = {
    "model": "keras_resnet50v2",
    "init_from": "keras_resnet50v2.imagenet",
    "steps": 1000,
    "warmup": 80,
    "schedule": "step",
    "eval_every": 1000,  # the last weights count, not the best on some images
}
_VIT = {
    "model": "vit_base_patch16_224",
    "init_from": "imagenet21k/ViT-B_16",
    "backbone_lr_scale": 1.0,
    "steps": 1563,  # 100 epochs of 1,000 images
    "warmup": 156,
    "weight_decay": 1e-4,
    "eval_every": 1563,
}
ARMS = {
    "imagenet": _RESNET | {"scenario": "fine_tune", "backbone_lr_scale": 1.0},
    "scratch": _RESNET | {"scenario": "from_scratch", "init_from": None},
    "full": _VIT | {"scenario": "fine_tune", "optimizer": "adamw"},
    "linear": _VIT | {"scenario": "feature_extraction"},
    "bias": _VIT | {"scenario": "fine_tune", "train": ".*bias|head/.*"},
}
# The rates that `tune` tries. The ViT's are a quarter of the authors' for batches of 256.
TRIED = {
    "imagenet": (0.1, 0.01),
    "scratch": (0.1, 0.01),
    "full": (0.00125, 0.00025, 0.000125, 0.000025),
    "linear": (12.5, 6.25, 2.5, 1.25, 0.625, 0.25, 0.125, 0.0625, 0.025, 0.0125),
    "bias": (12.5, 6.25, 2.5, 1.25, 0.625, 0.25, 0.125, 0.0625, 0.025, 0.0125),
}
# The rates that it chose for each task. It has not been run: one rate of TRIED stands for all.
RATES = {
    "imagenet": dict.fromkeys(TASKS, 0.01),
    "scratch": dict.fromkeys(TASKS, 0.01),
    "full": dict.fromkeys(TASKS, 0.00025),
    "linear": dict.fromkeys(TASKS, 0.25),
    "bias": dict.fromkeys(TASKS, 0.25),
}
SEEDS = (0, 1, 2)


def get_config(arg):
    arm, part = arg.split("/")
    config = base()
    config.image_size = 224
    config.crop_ratio = 1.0
    config.augment = "none"
    config.batch_size = 64
    config.update(ARMS[arm])
    config.data = data("cifar100", part)
    config.lr = RATES[arm]["cifar100"]
    return config


def sweep(arg):
    arm, part = arg.split("/")
    for task in TASKS:
        if part == "tune":
            for lr in TRIED[arm]:
                yield {"data": data(task, part), "lr": lr}
        else:
            for seed in SEEDS:
                yield {"data": data(task, part), "lr": RATES[arm][task], "seed": seed}


def data(task, part):
    name, tuning, test = TASKS[task]
    if part == "tune":
        return f"tfds:{name}?train=train[:800],val={tuning},test={test}"
    # Some of the remaining images are evaluated at the start and at the end; they choose nothing.
    return f"tfds:{name}?train=train[:800]+{tuning},val=train[800:1000],test={test}"
