r"""DINOv2-small on a folder of images: frozen features, a new linear head.

    tljax train --config configs/dinov2_feature_extraction.py --workdir runs/features \
        --config.data=folder:IMAGES

The weights (88 MB) are fetched from the Hugging Face hub on first use. --config.init_from=FILE
reads them from a file, under timm's or transformers' names.

Expected, with --config.train_size=1000 on the simulated textiles of experiments/dinov2_textiles:
balanced test accuracy 0.616 [0.603-0.625], the mean [lowest-highest] of seeds 0 to 4
(--config.seed); chance is 0.333; about 93 s on two busy CPU cores.
"""

from tljax.config import base


def get_config(arg=None):
    config = base()
    config.data = "folder:IMAGES"
    config.model = "vit_small_patch14_dinov2"
    config.init_from = "vit_small_patch14_dinov2.lvd142m"
    config.scenario = "feature_extraction"
    config.hyperrule = "default"
    config.image_size = 98  # 7 x 7 patches; any multiple of 14
    return config
