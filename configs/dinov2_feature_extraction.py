r"""DINOv2-small on a folder of images: frozen features, a new linear head.

    tljax train --config configs/dinov2_feature_extraction.py --workdir runs/features \
        --config.data=folder:IMAGES

The weights (88 MB) are fetched from the Hugging Face hub on first use. --config.init_from=FILE
reads them from a file, under timm's or transformers' names.

What is not set here follows from the default rule; `tljax plan` shows it.

Expected, on the six sets of experiments/defaults, two seeds: test accuracy 0.627 [0.437-0.772] with
100 training images and 0.714 [0.507-0.873] with 400, the mean [lowest-highest] of the sets (naive
baseline 0.344 [0.100-0.686]), that of timm's features with scikit-learn's logistic regression to
0.2 points; half a minute on one busy CPU core.
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
