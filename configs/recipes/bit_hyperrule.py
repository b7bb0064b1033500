r"""BiT-HyperRule: length, schedule, resolution and MixUp from the data alone; nothing is tuned.

    tljax train --config configs/recipes/bit_hyperrule.py --workdir runs/bit_hyperrule \
        --config.model=resnetv2_50x1_bit --config.init_from=resnetv2_50x1_bit.goog_in21k \
        --config.data=folder:PETS

Kolesnikov et al. 2020 ("Big Transfer"). `tljax.experiment.hyperrules` has the rule's numbers; the
run's `config.json` has those it chose. Fields set on the command line take precedence, e.g. on a
small machine --config.batch_size=64 --config.lr=0.000375 --config.image_size=128

Expected: 500 steps below 20,000 training images, 10,000 below 500,000, else 20,000; 128 pixels for
images of 96 x 96 or fewer, else 480.
"""

from tljax.config import base


def get_config(arg=None):
    config = base()
    config.scenario = "fine_tune"
    config.backbone_lr_scale = 1.0
    config.hyperrule = "bit"
    return config
