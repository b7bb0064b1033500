r"""Large target, similar to the source: pretrained weights, everything trains, the backbone slower.

    tljax train --config configs/fine_tune.py --workdir runs/fine_tune \
        --config.init_from=runs/glyphs --config.data=embedded:digits

The backbone trains at `backbone_lr_scale` times the head's learning rate. `layer_decay` below 1
lowers the rate of a group further with its distance from the head. The head starts as the solved
one. What is not set here follows from the default rule; `tljax plan` shows it.

Expected: test accuracy 0.991 [0.988-0.996], the mean [lowest-highest] of seeds 0, 1 and 2
(--config.seed) from one source model (configs/from_scratch.py, seed 0); naive baseline 0.102;
45 s on two CPU cores.
"""

from tljax.config import base


def get_config(arg=None):
    config = base()
    config.hyperrule = "default"
    config.scenario = "fine_tune"
    return config
