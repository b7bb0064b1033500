"""Rules of thumb that choose config fields from the data, so that nothing has to be tuned.

A rule is applied before anything else: the run's `config.json` holds its numbers as if they had
been given. A field that the config file or the command line sets keeps its value. (Of a config file
that is seen by a value other than the default; `hyperrule_keeps` names fields to keep besides.)
"""

from collections.abc import Callable
from typing import Any

import ml_collections
import numpy as np

from tljax.config import base
from tljax.data import Source
from tljax.errors import check_known

_SMALL_AREA = 96**2  # pixels
_MEASURED = 32  # images whose area is looked at


def bit(train_size: int, image_area: float) -> dict[str, Any]:
    """BiT-HyperRule (Kolesnikov et al. 2020, "Big Transfer", section 3.3 and appendix A).

    SGD with momentum and a zero head at batch 512. The number of images decides length, MixUp and
    when the learning rate is divided by ten; their area decides the resolution. Images are resized
    to a square, from which a random square is cut, and mirrored at random.

    Args:
      train_size: number of training images.
      image_area: of a typical image, in pixels.

    Returns:
      Config fields and their values.
    """
    if train_size < 20_000:
        steps, warmup, drops, mixup = 500, 100, (200, 300, 400), 0.0
    elif train_size < 500_000:
        steps, warmup, drops, mixup = 10_000, 500, (3_000, 6_000, 9_000), 0.1
    else:
        steps, warmup, drops, mixup = 20_000, 500, (6_000, 12_000, 18_000), 0.1
    resized, cropped = (160, 128) if image_area <= _SMALL_AREA else (512, 480)
    share = cropped**2 / resized**2
    return {
        "optimizer": "sgd",
        "lr": 0.003,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "batch_size": 512,
        "steps": steps,
        "warmup": warmup,
        "schedule": "step",
        "milestones": tuple(drop / steps for drop in drops),
        "mixup": mixup,
        "head_init": "zero",
        "image_size": cropped,
        "crop_ratio": 1.0,
        "augment": "resize_crop_flip",
        "crop_area": (share, share),
    }


HYPERRULES: dict[str, Callable[[int, float], dict[str, Any]]] = {"bit": bit}


def apply(config: ml_collections.ConfigDict, train: Source) -> ml_collections.ConfigDict:
    """The config with its rule's numbers for these training images, and without the rule.

    Raises:
      InputError: if there is no such rule, or `hyperrule_keeps` names an unknown field.
    """
    check_known("hyperrule", config.hyperrule, HYPERRULES)
    defaults = base()
    for name in config.hyperrule_keeps:
        check_known("config field", name, defaults)
    applied = config.copy_and_resolve_references()
    set_by_hand = {name for name in defaults if config[name] != defaults[name]}
    set_by_hand.update(config.hyperrule_keeps)
    if "epochs" in set_by_hand:
        set_by_hand.add("steps")
    for name, value in HYPERRULES[config.hyperrule](len(train), _area(train)).items():
        if name not in set_by_hand:
            applied[name] = value
    applied.hyperrule, applied.hyperrule_keeps = None, ()
    return applied


def _area(source: Source) -> float:
    """The median area of some of the images, in pixels."""
    places = np.linspace(0, len(source) - 1, min(len(source), _MEASURED)).astype(int)
    return float(np.median([np.prod(source[int(i)]["image"].shape[:2]) for i in places]))
