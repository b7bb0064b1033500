r"""Small target, similar to the source: pretrained features, new head.

    tljax train --config configs/feature_extraction.py --workdir runs/features \
        --config.init_from=runs/glyphs --config.data=embedded:digits --config.train_size=100

Only the linear head trains. Images are not augmented, so that their features never change.

Expected: test accuracy 0.905 [0.892-0.918], the mean [lowest-highest] of seeds 0, 1 and 2
(--config.seed) from one source model (configs/from_scratch.py, seed 0); naive baseline 0.100;
about 17 s on two CPU cores.
"""

from tljax.config import base


def get_config(arg=None):
    config = base()
    config.hyperrule = "default"
    config.scenario = "feature_extraction"
    return config
