r"""DINOv2-small on a folder of images: embedding and nine blocks frozen, three blocks retrained.

    tljax train --config configs/dinov2_freeze_first.py --workdir runs/freeze_first \
        --config.data=folder:IMAGES

The weights are found as in configs/dinov2_feature_extraction.py.

Expected, with --config.train_size=1000 on the simulated textiles of experiments/dinov2_textiles:
balanced test accuracy 0.663 [0.662-0.665], the mean [lowest-highest] of seeds 0, 1 and 2
(--config.seed); chance is 0.333; about 123 s on two busy CPU cores.
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
