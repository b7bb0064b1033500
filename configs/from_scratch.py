"""Large target, unlike the source: the architecture only, every weight trained from random.

    tljax train --config configs/from_scratch.py --workdir runs/scratch \
        --config.data=embedded:textures

It is also how a source model is developed:

    tljax train --config configs/from_scratch.py --workdir runs/glyphs \
        --config.data=embedded:glyphs --config.train_size=6000 --config.epochs=6

EXPECTED
"""

from tljax.config import base


def get_config(arg=None):
    config = base()
    config.scenario = "from_scratch"
    config.augment = "crop"
    config.crop_area = (0.5, 1.0)
    config.lr = 0.05
    config.weight_decay = 5e-4
    config.epochs = 15.0
    return config
