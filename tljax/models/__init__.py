"""Flax Linen models, their ordered groups, and a registry of them by name."""

from tljax.models.convnext import ConvNeXt
from tljax.models.efficientnet import EfficientNet
from tljax.models.groups import Groups
from tljax.models.initialisation import init
from tljax.models.model import Model, features, parameter_count
from tljax.models.preprocessing import NORMALISATIONS, ImageShape, ImageSize, Preprocessing
from tljax.models.registry import MODELS, ModelSpec, create, spec
from tljax.models.resnet import ResNet
from tljax.models.resnet_v2 import ResNetV2
from tljax.models.vit import ViT

__all__ = [
    "MODELS",
    "NORMALISATIONS",
    "ConvNeXt",
    "EfficientNet",
    "Groups",
    "ImageShape",
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
