"""Settings of the study: DINOv2-small, frozen features, a new linear head."""

from tljax.config import base


def get_config(arg=None):
    config = base()
    config.data = "folder:IMAGES"
    config.model = "vit_small_patch14_dinov2"
    config.init_from = "vit_small_patch14_dinov2.lvd142m"
    config.scenario = "feature_extraction"
    config.image_size = 98  # 7 x 7 patches; any multiple of 14
    config.augment = "none"
    config.optimizer = "adamw"
    config.lr = 3e-3
    config.weight_decay = 0.0
    config.clip_norm = 1.0
    config.warmup = 0
    config.val_fraction = 0.05
    config.batch_size = 32
    config.steps = 60
    config.eval_every = 30
    return config
