r"""DINOv2-small on a folder of images: the first groups frozen, the rest retrained.

    tljax train --config configs/dinov2_freeze_first.py --workdir runs/freeze_first \
        --config.data=folder:IMAGES

The weights are found as in configs/dinov2_feature_extraction.py.

What is not set here follows from the default rule; `tljax plan` shows it.

Expected, on the six sets of experiments/defaults, two seeds, with 100 training images: test
accuracy 0.706 [0.516-0.903], the mean [lowest-highest] of the sets (naive baseline 0.344
[0.100-0.686]), 7.9 points above feature extraction; about four minutes on one busy CPU core.
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
