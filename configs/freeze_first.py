r"""Small target, unlike the source: freeze the first k groups, retrain the rest.

    tljax train --config configs/freeze_first.py --workdir runs/freeze \
        --config.init_from=runs/glyphs --config.data=embedded:textures --config.train_size=100

`tljax plan --config configs/freeze_first.py` lists the groups. k counts them from the input. The
head starts as the solved one. What is not set here, k too, follows from the default rule; `tljax
plan` shows it.

Expected: test accuracy 0.587 [0.586-0.588], the mean [lowest-highest] of seeds 0, 1 and 2
(--config.seed) from one source model (configs/from_scratch.py, seed 0); naive baseline 0.108;
half a minute on two CPU cores.
"""

from tljax.config import base


def get_config(arg=None):
    config = base()
    config.hyperrule = "default"
    config.scenario = "freeze_first"
    return config
