"""Flax Linen models, their ordered groups, and the field's names for them."""

from tljax.models.groups import Groups
from tljax.models.registry import (
    MODELS,
    Model,
    ModelSpec,
    create,
    features,
    init,
    parameter_count,
    spec,
)
from tljax.models.resnet import ResNet
from tljax.models.vit import ViT

__all__ = [
    "MODELS",
    "Groups",
    "Model",
    "ModelSpec",
    "ResNet",
    "ViT",
    "create",
    "features",
    "init",
    "parameter_count",
    "spec",
]
