"""Flax Linen models, their ordered groups, and the field's names for them."""

from tljax.models.groups import Groups
from tljax.models.preprocessing import NORMALISATIONS, ImageSize, Preprocessing
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
from tljax.models.resnet_v2 import ResNetV2
from tljax.models.vit import ViT

__all__ = [
    "MODELS",
    "NORMALISATIONS",
    "Groups",
    "ImageSize",
    "Model",
    "ModelSpec",
    "Preprocessing",
    "ResNet",
    "ResNetV2",
    "ViT",
    "create",
    "features",
    "init",
    "parameter_count",
    "spec",
]
