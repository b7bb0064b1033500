r"""DINOv2-small's architecture on a folder of images, from random weights: the control.

    tljax train --config configs/dinov2_from_scratch.py --workdir runs/from_scratch \
        --config.data=folder:IMAGES

Expected, with --config.train_size=1000 on the simulated textiles of experiments/dinov2_textiles:
balanced test accuracy 0.362 [0.333-0.420], the mean [lowest-highest] of seeds 0, 1 and 2
(--config.seed); chance is 0.333; about 266 s on two busy CPU cores.
"""

from tljax.config import base


def get_config(arg=None):
    config = base()
    config.data = "folder:IMAGES"
    config.model = "vit_small_patch14_dinov2"
    config.scenario = "from_scratch"
    config.hyperrule = "default"
    config.image_size = 98  # 7 x 7 patches; any multiple of 14
    return config
