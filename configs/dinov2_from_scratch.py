r"""DINOv2-small's architecture on a folder of images, from random weights: the control.

    tljax train --config configs/dinov2_from_scratch.py --workdir runs/from_scratch \
        --config.data=folder:IMAGES

What is not set here follows from the default rule; `tljax plan` shows it.

Expected: not measured.
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
