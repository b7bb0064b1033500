r"""Large target, unlike the source: the architecture only, every weight random and trained.

    tljax train --config configs/from_scratch.py --workdir runs/scratch \
        --config.data=embedded:textures

A source model is trained in the same way:

    tljax train --config configs/from_scratch.py --workdir runs/glyphs \
        --config.data=embedded:glyphs --config.train_size=5000 --config.epochs=5 \
        --config.val_fraction=0.025

What is not set here follows from the default rule; `tljax plan` shows it.

Expected: test accuracy 0.771 [0.762-0.779] on textures (naive baseline 0.108) and 0.965
[0.961-0.971] on glyphs (naive baseline 0.027), the mean [lowest-highest] of seeds 0, 1 and 2
(--config.seed); one to two minutes each on one busy CPU core.
"""

from tljax.config import base


def get_config(arg=None):
    config = base()
    config.hyperrule = "default"
    config.scenario = "from_scratch"
    return config
