r"""Which scenario wins, by size of the target data and similarity to the source.

    tljax train --config experiments/four_scenarios/config.py:MODEL/source \
        --workdir runs/four_scenarios/MODEL/source
    tljax sweep --config experiments/four_scenarios/config.py:MODEL/pilot \
        --workdir runs/four_scenarios/MODEL/pilot --by scenario
    tljax sweep --config experiments/four_scenarios/config.py:MODEL/study \
        --workdir runs/four_scenarios/MODEL/study

MODEL is resnet10_32 or vit_micro_patch4_32. Run the commands from the repository's root, or
`run.py` in this folder, which runs them all. README.md has the results.
"""

from tljax.config import base

TARGETS = {"digits": "similar", "textures": "dissimilar"}  # compared with glyphs, the source
STEPS = {50: 40, 150: 60, 400: 70, 1000: 80}  # by number of training images
SMALL = (50, 150)
K = (1, 2, 3, 4)
SEEDS = (0, 1, 2, 3, 4)
# Scenarios with the number of groups that freeze_first freezes, in the order of the tables.
ARMS = [
    ("feature_extraction", None),
    *(("freeze_first", k) for k in K),
    ("from_scratch", None),
    ("fine_tune", None),
]

# The pilot: each scenario at the same rates, on both targets, with a seed of its own.
PILOT_SIZE, PILOT_SEED, PILOT_K = 150, 100, 2
PILOT_RATES = {
    "resnet10_32": (0.01, 0.03, 0.1, 0.3, 1.0),
    "vit_micro_patch4_32": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1),
}
# The rates that the pilot chose, by mean validation accuracy of the two targets (pilot.csv).
RATES = {
    "resnet10_32": {
        "feature_extraction": 0.1,
        "freeze_first": 0.1,
        "from_scratch": 0.1,
        "fine_tune": 0.3,
    },
    "vit_micro_patch4_32": {
        "feature_extraction": 0.3,
        "freeze_first": 3e-3,
        "from_scratch": 3e-3,
        "fine_tune": 1e-2,
    },
}


def get_config(arg):
    model, part = arg.split("/")
    config = base()
    config.model = model
    config.augment = "crop"
    config.crop_area = (0.6, 1.0)
    if model == "resnet10_32":
        config.weight_decay = 5e-4
        config.lr = 0.1
    else:
        config.optimizer = "adamw"
        config.weight_decay = 0.05
        config.clip_norm = 1.0
        config.warmup = 10
        config.lr = 1e-3
    if part == "source":
        config.scenario = "from_scratch"
        config.data = "embedded:glyphs"
        config.val_fraction = 0.025  # of 20,000 drawn letters
        if model == "resnet10_32":
            config.train_size = 5000
            config.epochs = 5.0
        else:
            config.lr = 3e-3
            config.train_size = 10_000
            config.epochs = 8.0
    else:
        config.init_from = f"runs/four_scenarios/{model}/source"
        config.batch_size = 32
        config.eval_every = 20
        config.eval_dense = True
        config.checkpoint_every = 1000  # a run of seconds: its best weights are enough
    return config


def sweep(arg):
    model, part = arg.split("/")
    if part == "pilot":
        for scenario in RATES[model]:
            k = PILOT_K if scenario == "freeze_first" else None
            for lr in PILOT_RATES[model]:
                for target in TARGETS:
                    yield run(target, PILOT_SIZE, scenario, k, lr, PILOT_SEED)
    else:
        for scenario, k in ARMS:
            for target in TARGETS:
                for size in STEPS:
                    for seed in SEEDS:
                        yield run(target, size, scenario, k, RATES[model][scenario], seed)


def run(target, size, scenario, k, lr, seed):
    return {
        "data": f"embedded:{target}",
        "train_size": size,
        "scenario": scenario,
        "k": k,
        "lr": lr,
        "steps": STEPS[size],
        # Without augmentation, frozen features stay the same and are computed once.
        "augment": "none" if scenario == "feature_extraction" else "crop",
        "seed": seed,
    }
