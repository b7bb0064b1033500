r"""DINOv2-small on a folder of images: all trains, from the solved head.

    tljax train --config configs/dinov2_fine_tune.py --workdir runs/fine_tune \
        --config.data=folder:IMAGES

The weights are found as in configs/dinov2_feature_extraction.py.

What is not set here follows from the default rule; `tljax plan` shows it.

Expected, on the six sets of experiments/defaults, two seeds, with 100 training images: test
accuracy 0.723 [0.526-0.922], the mean [lowest-highest] of the sets (naive baseline 0.344
[0.100-0.686]), 9.6 points above feature extraction; about five minutes on one busy CPU core. With
400 images of three of the sets, one seed: 0.787, 4.8 points above; about ten minutes on two cores.
"""

from tljax.config import base


def get_config(arg=None):
    config = base()
    config.data = "folder:IMAGES"
    config.model = "vit_small_patch14_dinov2"
    config.init_from = "vit_small_patch14_dinov2.lvd142m"
    config.scenario = "fine_tune"
    config.hyperrule = "default"
    config.image_size = 98  # 7 x 7 patches; any multiple of 14
    return config
