r"""Small target, similar to the source: pretrained features, new head.

    tljax train --config configs/feature_extraction.py --workdir runs/features \
        --config.init_from=runs/glyphs --config.data=embedded:digits --config.train_size=100

Only the linear head is fitted. Images are not augmented, so that their features never change: the
head is solved, and cross-validation chooses its penalty. What is not set here follows from the
default rule; `tljax plan` shows it.

Expected: test accuracy 0.942 [0.934-0.948], the mean [lowest-highest] of seeds 0, 1 and 2
(--config.seed) from one source model (configs/from_scratch.py, seed 0); naive baseline 0.100;
five seconds on two CPU cores.
"""

from tljax.config import base


def get_config(arg=None):
    config = base()
    config.hyperrule = "default"
    config.scenario = "feature_extraction"
    return config
