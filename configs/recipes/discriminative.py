r"""Discriminative learning rates, spread geometrically from lr / 100 at the input to the head's lr.

    tljax train --config configs/recipes/discriminative.py --workdir runs/discriminative \
        --config.model=resnet10_32 --config.init_from=runs/glyphs \
        --config.data=embedded:digits --config.train_size=200

This is fastai's spread, which does not depend on the number of groups. Howard & Ruder 2018 (ULMFiT,
section 3.2) divide the rate by 2.6 from each group to the one below:
--config.lr_spread=None --config.layer_decay=0.385

Expected: test accuracy 0.967 [0.960-0.972], the mean [lowest-highest] of seeds 0, 1 and 2
(--config.seed) from one source model (configs/from_scratch.py, seed 0); naive baseline 0.100; a
quarter of a minute on one CPU core. `tljax plan` shows the rates; nothing is frozen.
"""

from tljax.config import base


def get_config(arg=None):
    config = base()
    config.scenario = "fine_tune"
    config.backbone_lr_scale = 1.0
    config.lr_spread = 100.0
    config.augment = "crop"
    config.crop_area = (0.6, 1.0)
    config.lr = 0.1
    return config
