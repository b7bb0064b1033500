r"""DINOv2-small on a folder of images: the first groups frozen, the rest retrained.

    tljax train --config configs/dinov2_freeze_first.py --workdir runs/freeze_first \
        --config.data=folder:IMAGES

The weights are found as in configs/dinov2_feature_extraction.py.

What is not set here follows from the default rule; `tljax plan` shows it.

Expected: not measured yet by the default rule.
"""

from tljax.config import base


def get_config(arg=None):
    config = base()
    config.data = "folder:IMAGES"
    config.model = "vit_small_patch14_dinov2"
    config.init_from = "vit_small_patch14_dinov2.lvd142m"
    config.scenario = "freeze_first"
    config.hyperrule = "default"
    config.image_size = 98  # 7 x 7 patches; any multiple of 14
    return config
