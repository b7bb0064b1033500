"""The rule tables: one family a way of naming a network's tensors."""

import functools
from typing import Any

from tljax.checkpoints.families.bit import GOOGLE_BIT, TIMM_BIT
from tljax.checkpoints.families.keras import KERAS, KERAS_3
from tljax.checkpoints.families.resnet import HF_RESNET, TORCH_RESNET
from tljax.checkpoints.families.vit import (
    BIG_VISION,
    DINOV2,
    GOOGLE_VIT,
    HF_DINOV2,
    HF_VIT,
    TIMM_VIT,
)
from tljax.checkpoints.rules import Family, Rule, flatten
from tljax.models import registry


@functools.cache  # asked for at each look at the names of a file; few models, all of them small
def _own_rules(model: Any) -> tuple[Rule, ...]:
    variables = registry.abstract_variables(model, _any_size(model))
    return tuple(Rule(path, path) for path in flatten(variables))


def _any_size(model: Any) -> int:
    return getattr(model, "patch", 32)


# What `tljax convert` writes: our own paths.
TLJAX = Family("tljax", accepts=lambda model: True, rules=_own_rules)

FAMILIES: tuple[Family, ...] = (
    TORCH_RESNET,
    HF_RESNET,
    TIMM_VIT,
    DINOV2,
    HF_VIT,
    HF_DINOV2,
    GOOGLE_VIT,
    BIG_VISION,
    TIMM_BIT,
    GOOGLE_BIT,
    KERAS,
    KERAS_3,
    TLJAX,
)
