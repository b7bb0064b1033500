r"""Gradual unfreezing: the head first, then one group more in each stage, from the top.

    tljax train --config configs/recipes/gradual_unfreezing.py --workdir runs/gradual_unfreezing \
        --config.model=resnet10_32 --config.init_from=runs/glyphs \
        --config.data=embedded:digits --config.train_size=200

Howard & Ruder 2018 (ULMFiT, section 3.3), with their discriminative rates. There is a stage for
each group, and each stage compiles a program: for a network of many groups,
--config.groups_per_stage=4 makes fewer stages.

Expected: test accuracy 0.947 [0.940-0.952], the mean [lowest-highest] of seeds 0, 1 and 2
(--config.seed) from one source model (configs/from_scratch.py, seed 0); naive baseline 0.100; half
a minute on one CPU core. `tljax plan` shows a table for each stage. Each stage but the last has a
workdir of its own, in `stages/` of the run's workdir.
"""

from tljax.config import base


def get_config(arg=None):
    config = base()
    config.scenario = "fine_tune"
    config.backbone_lr_scale = 1.0
    config.layer_decay = 1 / 2.6
    config.stages = "gradual_unfreezing"
    config.augment = "crop"
    config.crop_area = (0.6, 1.0)
    config.lr = 0.1
    return config
