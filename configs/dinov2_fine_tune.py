r"""DINOv2-small on a folder of images: all trains, the backbone at a tenth of the head's rate.

    tljax train --config configs/dinov2_fine_tune.py --workdir runs/fine_tune \
        --config.data=folder:IMAGES

The weights are found as in configs/dinov2_feature_extraction.py.

Expected, with --config.train_size=1000 on the simulated textiles of experiments/dinov2_textiles:
balanced test accuracy 0.663 [0.660-0.667], the mean [lowest-highest] of seeds 0, 1 and 2
(--config.seed); chance is 0.333; about 340 s on two busy CPU cores.
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
