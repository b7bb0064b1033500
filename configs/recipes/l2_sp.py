r"""L2-SP: everything trains, with a pull to the pretrained weights instead of weight decay.

    tljax train --config configs/recipes/l2_sp.py --workdir runs/l2_sp \
        --config.model=resnet10_32 --config.init_from=runs/glyphs \
        --config.data=embedded:digits --config.train_size=200

Li et al. 2018 ("Explicit inductive bias for transfer learning with convolutional networks"): the
loss has the terms alpha / 2 |w - w0|^2 over the pretrained weights and beta / 2 |w|^2 over the new
head. Both are worth a sweep: alpha over 0.001 to 1, beta over 0.001 to 0.1.

Expected: test accuracy 0.962 [0.960-0.966], the mean [lowest-highest] of seeds 0, 1 and 2
(--config.seed) from one source model (configs/from_scratch.py, seed 0); naive baseline 0.100; a
quarter of a minute on one CPU core. The optimizer keeps one more copy of the weights, as `tljax
plan` shows.
"""

from tljax.config import base


def get_config(arg=None):
    config = base()
    config.scenario = "fine_tune"
    config.l2_sp_alpha = 0.1
    config.l2_sp_beta = 0.01
    config.augment = "crop"
    config.crop_area = (0.6, 1.0)
    config.lr = 0.1
    return config
