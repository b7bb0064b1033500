r"""BitFit: only the biases and the new head train.

    tljax train --config configs/recipes/bitfit.py --workdir runs/bitfit \
        --config.model=vit_micro_patch4_32 --config.init_from=runs/glyphs_vit \
        --config.data=embedded:digits --config.train_size=200

Ben Zaken et al. 2022 ("BitFit"). The convolutions of a ResNet have no biases; there the biases of
BatchNorm train, and its statistics stay as they are.

runs/glyphs_vit is the source model of configs/from_scratch.py with --config.optimizer=adamw
--config.lr=0.002 --config.weight_decay=0.05 and this model.

Expected: test accuracy 0.605 [0.580-0.634], the mean [lowest-highest] of seeds 0, 1 and 2
(--config.seed) from one source model (seed 0); naive baseline 0.100; a quarter of a minute on one
CPU core. 1.7 % of the parameters of this small network train, head included (of a ViT-B/16: 0.1 %
and the head), as `tljax plan` shows. All groups train, so a step saves optimizer state, but little
time.
"""

from tljax.config import base


def get_config(arg=None):
    config = base()
    config.scenario = "fine_tune"
    config.backbone_lr_scale = 1.0
    config.train = ".*bias|head/.*"
    config.statistics = "stored"
    config.augment = "crop"
    config.crop_area = (0.6, 1.0)
    config.lr = 0.1
    return config
