r"""LoRA: a ViT's weights are frozen; low-rank updates of its dense layers and a new head train.

    tljax train --config configs/recipes/lora.py --workdir runs/lora \
        --config.data=folder:IMAGES

Hu et al. 2022. DINOv2-small, fetched on first use, with an update of rank 8 for each attention and
MLP layer: 2.7 % of all parameters, and of the optimizer state. The updates train at the head's
rate. `tljax export` and `init_from=runs/lora` merge them into the weights.

Expected, with --config.data=embedded:textures --config.train_size=200 --config.steps=24: test
accuracy 0.806 (one run, seed 0); naive baseline 0.108; 88 s on two busy CPU cores.
"""

from tljax.config import base


def get_config(arg=None):
    config = base()
    config.data = "folder:IMAGES"
    config.model = "vit_small_patch14_dinov2"
    config.init_from = "vit_small_patch14_dinov2.lvd142m"
    config.image_size = 98  # 7 x 7 patches; any multiple of 14
    config.lora_rank = 8
    config.backbone_lr_scale = 1.0
    config.augment = "none"
    config.optimizer = "adamw"
    config.lr = 1e-3
    config.weight_decay = 0.05
    config.clip_norm = 1.0
    config.warmup = 10
    config.batch_size = 32
    config.steps = 60
    config.eval_every = 30
    return config
