r"""BitFit: the biases alone, and the new head.

    tljax train --config configs/recipes/bitfit.py --workdir runs/bitfit \
        --config.model=vit_micro_patch4_32 --config.init_from=runs/glyphs_vit \
        --config.data=embedded:digits

Ben Zaken et al. 2022 ("BitFit"). In a ResNet, whose convolutions have none, these are BatchNorm's;
its statistics stay as they are.

Expected: about a thousandth of the parameters is trained, as `tljax plan` shows. All groups train,
so that a step saves optimizer state, but little time.
"""

from tljax.config import base


def get_config(arg=None):
    config = base()
    config.scenario = "fine_tune"
    config.backbone_lr_scale = 1.0
    config.train = ".*bias|head/.*"
    config.statistics = "stored"
    config.augment = "crop"
    config.crop_area = (0.6, 1.0)
    config.lr = 0.1
    return config
