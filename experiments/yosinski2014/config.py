r"""How transferable are features: AnB, BnB, AnB+ and BnB+ for every n (Yosinski et al. 2014).

    tljax sweep --config experiments/yosinski2014/config.py:SCALE/source \
        --workdir runs/yosinski2014/SCALE/source
    tljax sweep --config experiments/yosinski2014/config.py:SCALE/study \
        --workdir runs/yosinski2014/SCALE/study

SCALE is paper (ImageNet's classes in two halves, a ResNet-18) or small (drawn capitals in two
halves, a ResNet of ten layers, two CPU cores). small/study/0 runs division 0 alone. `run.py` in
this folder runs all of small. One network is trained on each half. Then the first n groups of A's
network (AnB) or of B's (BnB), with random groups above them, are trained on B. The n groups are
frozen, except in AnB+ and BnB+.

Expected of the paper's AlexNet, n = 1 to 7, base .625: BnB .627 .624 .621 .605 .594 .619 .623, AnB
.628 .624 .619 .600 .578 .581 .543, AnB+ .637 .636 .643 .640 .645 .646 .647. Of small see README.md.
"""

from tljax.commands.sweep.listing import run_name
from tljax.config import base

# The half whose network a treatment copies n groups from, and whether it freezes them.
TREATMENTS = {
    "BnB": ("b", True),
    "BnB+": ("b", False),
    "AnB": ("a", True),
    "AnB+": ("a", False),
}
BASE = "base"  # trained on B from random weights, as the sources are
GROUPS = {"small": 6, "paper": 10}  # with the head, which is always new
DIVISIONS = {"small": (0, 1, 2, 3, 4, 5), "paper": (0, 1, 2, 3)}
# A network of the study has other random weights than its source, also above the n groups.
# Otherwise the upper half of BnB would start from the same weights as that of its source.
STUDY_SEED_OFFSET = 100  # added to the source's seed

# The pilot: base networks on B, with divisions and seeds of its own.
PILOT_SEEDS = (50, 51, 52)
PILOT_RATES = (0.01, 0.03, 0.1, 0.3, 1.0)

SCALES = {
    "small": {
        "model": "resnet10_32",
        "val_fraction": 0.02,  # of 20,000 drawn letters
        "train_size": 520,
        "steps": 160,
        "batch_size": 16,
        "lr": 0.3,  # what the pilot chose
        "weight_decay": 5e-4,
        "augment": "crop",
        "crop_area": (0.6, 1.0),
        "eval_every": 80,
        "checkpoint_every": 1000,  # a run of seconds: its best weights are enough
    },
    # Batch, number of steps, drops of the rate, momentum and crops are the authors'. The rate and
    # weight decay are those of He et al. 2016, since theirs suit a network without BatchNorm.
    "paper": {
        "model": "resnet18",
        "val_fraction": 0.02,
        "steps": 450_000,
        "batch_size": 256,
        "lr": 0.1,
        "schedule": "step",
        "milestones": (2 / 9, 4 / 9, 6 / 9, 8 / 9),  # every 100,000 steps
        "weight_decay": 1e-4,
        "augment": "resize_crop_flip",
        "crop_area": ((224 / 256) ** 2, (224 / 256) ** 2),
        "eval_every": 10_000,
        "num_workers": 32,  # processes that decode images
    },
}
SOURCES = {
    "small": "runs/yosinski2014/small/source",
    "paper": "data/yosinski_source",  # where launch_tpu_vm.sh puts it
}


def get_config(arg):
    scale = arg.split("/")[0]
    config = base()
    config.update(SCALES[scale])
    config.data = data(scale, "b", DIVISIONS[scale][0])
    config.scenario = "from_scratch"
    config.backbone_lr_scale = 1.0
    return config


def sweep(arg):
    scale, part, *division = arg.split("/")
    if part == "pilot":
        for lr in PILOT_RATES:
            for seed in PILOT_SEEDS:
                yield source(scale, "b", seed) | {"lr": lr}
        return
    for number in map(int, division) if division else DIVISIONS[scale]:
        if part == "source":
            for half in "ab":
                yield source(scale, half, number)
        else:
            for treatment, n in arms(scale):
                yield run(scale, treatment, n, number)


def data(scale, half, division):
    if scale == "small":
        return f"embedded:glyphs_{half}"
    return f"tfds:imagenet_halves/{half}{division}?test=validation"


def source(scale, half, division):
    """A network of one half; small's divisions differ in their images, not in their classes."""
    return {"data": data(scale, half, division), "data_seed": division, "seed": division}


def arms(scale):
    """The treatments of a division: (name, n)."""
    yield BASE, 0
    for n in range(1, GROUPS[scale]):
        for treatment in TREATMENTS:
            yield treatment, n


def run(scale, treatment, n, division):
    values = source(scale, "b", division) | {"seed": STUDY_SEED_OFFSET + division}
    if treatment == BASE:
        return values
    half, is_frozen = TREATMENTS[treatment]
    return values | {
        "init_from": f"{SOURCES[scale]}/runs/{run_name(source(scale, half, division))}",
        "init_k": n,
        "scenario": "freeze_first" if is_frozen else "fine_tune",
        "k": n if is_frozen else None,
    }
