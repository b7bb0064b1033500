r"""Small target, unlike the source: how many groups to freeze, and how fast to retrain the rest?

    tljax sweep --config configs/sweep_lr_k.py --workdir runs/sweep_lr_k \
        --config.init_from=runs/glyphs

runs/glyphs is the source model of configs/from_scratch.py.

Expected: 36 runs. Of 12 configurations k=1, lr=0.1 has the highest mean validation accuracy, 0.575
+-0.031; its test accuracy is 0.577 +-0.021 (95 % t intervals over three seeds). Naive baseline
0.108; two to five minutes on two CPU cores.
"""

from tljax.config import base


def get_config(arg=None):
    config = base()
    config.data = "embedded:textures"
    config.train_size = 100
    config.scenario = "freeze_first"
    config.augment = "crop"
    config.crop_area = (0.6, 1.0)
    config.weight_decay = 5e-4
    config.batch_size = 32
    config.steps = 60
    config.eval_every = 10
    return config


def sweep():
    for k in (1, 2, 3, 4):
        for lr in (0.03, 0.1, 0.3):
            for seed in (0, 1, 2):
                yield {"k": k, "lr": lr, "seed": seed}
