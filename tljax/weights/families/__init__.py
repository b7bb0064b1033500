"""The rule tables: one family for each way of naming the tensors of a network."""

from tljax.weights.families.bit import GOOGLE_BIT, TIMM_BIT
from tljax.weights.families.clip import BIG_VISION_SIGLIP, HF_CLIP, HF_SIGLIP, OPEN_CLIP
from tljax.weights.families.convnext import AUTHORS_CONVNEXT, HF_CONVNEXT, TIMM_CONVNEXT
from tljax.weights.families.dinov3 import AUTHORS_DINOV3, HF_DINOV3, TIMM_DINOV3
from tljax.weights.families.efficientnet import NUMBERED_EFFICIENTNET, TIMM_EFFICIENTNET
from tljax.weights.families.keras import KERAS, KERAS_3
from tljax.weights.families.resnet import HF_RESNET, TORCH_RESNET
from tljax.weights.families.vit import (
    BIG_VISION,
    DINOV2,
    GOOGLE_VIT,
    HF_DINOV2,
    HF_VIT,
    TIMM_VIT,
)
from tljax.weights.rules import Family

# What `tljax convert` writes: our own paths.
TLJAX = Family("tljax", accepts=lambda model: True, rules=None)

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
    OPEN_CLIP,
    HF_CLIP,
    HF_SIGLIP,
    BIG_VISION_SIGLIP,
    TIMM_DINOV3,
    AUTHORS_DINOV3,
    HF_DINOV3,
    TIMM_CONVNEXT,
    AUTHORS_CONVNEXT,
    HF_CONVNEXT,
    TIMM_EFFICIENTNET,
    NUMBERED_EFFICIENTNET,
    TLJAX,
)
