"""Settings of the study: DINOv2-small, embedding and nine blocks frozen, three blocks retrained."""

from tljax.config import base


def get_config(arg=None):
    config = base()
    config.data = "folder:IMAGES"
    config.model = "vit_small_patch14_dinov2"
    config.init_from = "vit_small_patch14_dinov2.lvd142m"
    config.scenario = "freeze_first"
    config.k = 10
    config.image_size = 98  # 7 x 7 patches; any multiple of 14
    config.augment = "none"
    config.optimizer = "adamw"
    config.lr = 2e-4
    config.weight_decay = 0.05
    config.clip_norm = 1.0
    config.warmup = 10
    config.val_fraction = 0.05
    config.batch_size = 32
    config.steps = 60
    config.eval_every = 30
    return config
