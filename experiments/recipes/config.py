r"""Every recipe of configs/recipes/, and the plain scenarios, on one small folder of photographs.

    tljax sweep --config experiments/recipes/config.py:RECIPE/pilot \
        --workdir runs/recipes/RECIPE/pilot --config.data=folder:IMAGES
    tljax sweep --config experiments/recipes/config.py:RECIPE/study \
        --workdir runs/recipes/RECIPE/study --config.data=folder:IMAGES --config.lr=WHAT_PILOT_CHOSE

RECIPE is a key of RECIPES. `run.py` in this folder runs all of them; README.md has the results.
"""

from tljax.config import base

# The fields that each recipe sets; all others are the same. Recipes are compared with PLAIN.
RECIPES = {
    "linear_probe": {"scenario": "feature_extraction"},
    "fine_tune": {},
    "slower_backbone": {"backbone_lr_scale": 0.1},
    "layer_decay": {"layer_decay": 0.7},
    "discriminative": {"lr_spread": 100.0},
    "gradual_unfreezing": {
        "stages": "gradual_unfreezing",
        "groups_per_stage": 5,
        "lr_spread": 100.0,
    },
    "lp_ft": {"stages": "lp_ft", "probe_share": 0.5, "probe_lr": 3e-3},
    "surgical": {"scenario": "surgical", "k": 5, "k_last": 8},
    "freeze_first": {"scenario": "freeze_first", "k": 10},
    "bitfit": {"train": ".*bias|head/.*"},
    "norm_only": {"train": r"(.*/)?(bn|norm\d*)/.*|head/.*"},
    "lora": {"lora_rank": 8},
    "l2_sp": {"weight_decay": 0.0, "l2_sp_alpha": 0.1, "l2_sp_beta": 0.01},
    "from_scratch": {"scenario": "from_scratch", "init_from": None},
}
PLAIN = "fine_tune"
# Two learning rates for each recipe, a factor of about three apart. The recipe's usual rate, or
# that of its config file in configs/, is one of them or lies between them.
RATES = {
    "linear_probe": (3e-3, 1e-2),
    "fine_tune": (3e-5, 1e-4),
    "slower_backbone": (3e-4, 1e-3),
    "layer_decay": (1e-4, 3e-4),
    "discriminative": (3e-4, 1e-3),
    "gradual_unfreezing": (3e-4, 1e-3),
    "lp_ft": (3e-5, 1e-4),
    "surgical": (1e-4, 3e-4),
    "freeze_first": (1e-4, 3e-4),
    "bitfit": (1e-3, 3e-3),
    "norm_only": (1e-3, 3e-3),
    "lora": (3e-4, 1e-3),
    "l2_sp": (3e-5, 1e-4),
    "from_scratch": (3e-4, 1e-3),
}
PILOT_SEED = 100
SEEDS = (0, 1, 2)


def get_config(arg):
    recipe = arg.split("/")[0]
    config = base()
    config.data = "folder:IMAGES"
    config.train_size = 100
    config.val_fraction = 0.05
    config.model = "vit_small_patch14_dinov2"
    config.init_from = "vit_small_patch14_dinov2.lvd142m"
    config.image_size = 56  # 4 x 4 patches; any multiple of 14
    config.augment = "none"  # defects are small: a crop could cut them off
    config.scenario = "fine_tune"
    config.backbone_lr_scale = 1.0
    config.optimizer = "adamw"
    config.weight_decay = 0.05
    config.clip_norm = 1.0
    config.warmup = 5
    config.batch_size = 16
    config.steps = 40
    config.eval_every = 40
    config.checkpoint_every = 1000  # a short run: its best weights are enough
    config.update(RECIPES[recipe])
    return config


def sweep(arg):
    recipe, part = arg.split("/")
    if part == "pilot":
        for lr in RATES[recipe]:
            yield {"lr": lr, "seed": PILOT_SEED}
    else:
        for seed in SEEDS:
            yield {"seed": seed}
