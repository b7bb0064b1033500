r"""LP-FT: a linear probe, then fine-tuning of everything, starting from the probe's head.

    tljax train --config configs/recipes/lp_ft.py --workdir runs/lp_ft \
        --config.model=resnet10_32 --config.init_from=runs/glyphs \
        --config.data=embedded:digits --config.train_size=200

A random or zero head distorts the features while it trains; a fitted head does not. The difference
shows out of distribution (Kumar et al. 2022, "Fine-tuning can distort pretrained features and
underperform out-of-distribution"); `tljax evaluate --data` measures it.

Expected: test accuracy 0.941 [0.936-0.946], the mean [lowest-highest] of seeds 0, 1 and 2
(--config.seed) from one source model (configs/from_scratch.py, seed 0); naive baseline 0.100; a
quarter of a minute on one CPU core. The probe's features are computed once and cached. The
validation accuracy at step 0 of the second stage is the probe's best.
"""

from tljax.config import base


def get_config(arg=None):
    config = base()
    config.scenario = "fine_tune"
    config.backbone_lr_scale = 1.0
    config.stages = "lp_ft"
    config.probe_share = 0.5
    config.probe_lr = 0.1
    config.augment = "crop"
    config.crop_area = (0.6, 1.0)
    config.lr = 0.01
    return config
