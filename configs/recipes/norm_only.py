r"""The normalisation layers alone, and the new head: scales, biases, and BatchNorm's statistics.

    tljax train --config configs/recipes/norm_only.py --workdir runs/norm_only \
        --config.model=resnet10_32 --config.init_from=runs/glyphs --config.data=embedded:digits

BatchNorm, GroupNorm and LayerNorm alike. Frankle et al. 2021 ("Training BatchNorm and only
BatchNorm") show how far these go even over random weights.

Expected: about a thousandth of the parameters is trained, as `tljax plan` shows;
--config.statistics=stored leaves BatchNorm's statistics as they are.
"""

from tljax.config import base


def get_config(arg=None):
    config = base()
    config.scenario = "fine_tune"
    config.backbone_lr_scale = 1.0
    config.train = r"(.*/)?(bn|norm\d*)/.*|head/.*"
    config.augment = "crop"
    config.crop_area = (0.6, 1.0)
    config.lr = 0.1
    return config
