r"""Surgical fine-tuning: a range of groups trains, with the new head; all others are frozen.

    tljax train --config configs/recipes/surgical.py --workdir runs/surgical \
        --config.model=resnet10_32 --config.init_from=runs/glyphs \
        --config.data=embedded:digits --config.train_size=200

Lee et al. 2023 ("Surgical fine-tuning improves adaptation to distribution shifts"): train the first
blocks if the images are corrupted, the last ones if the labels differ. `k` is the number of frozen
groups below the range, `k_last` the depth of the last group that trains, as `tljax plan` counts
them. If the classes are those of the source, --config.head_init=pretrained keeps its head, frozen.

Expected: test accuracy 0.941 [0.932-0.946], the mean [lowest-highest] of seeds 0, 1 and 2
(--config.seed) from one source model (configs/from_scratch.py, seed 0); naive baseline 0.100; a
quarter of a minute on one CPU core. Groups outside the range, and their BatchNorm statistics, stay
bit-identical to the source's.
"""

from tljax.config import base


def get_config(arg=None):
    config = base()
    config.scenario = "surgical"
    config.k = 1
    config.k_last = 1
    config.augment = "crop"
    config.crop_area = (0.6, 1.0)
    config.lr = 0.1
    return config
