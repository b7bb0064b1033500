"""The cases in which our networks are compared with the originals, group by group.

`tests/parity/make_references.py` runs the originals and keeps some of their numbers;
`tests/test_parity.py` compares ours with these, without installing the originals.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.reference_weights import draw_all
from tljax.models import ImageSize, Model, create
from tljax.models.registry import at_image_size
from tljax.weights import rules
from tljax.weights.families import FAMILIES

_FAMILIES = {family.name: family for family in FAMILIES}


@dataclass(frozen=True)
class Case:
    """One of our models, and the original implementation to compare it with.

    Attributes:
      stem: stem of its file in tests/references.
      original: module of tests/parity that runs the original.
      family: name of the family that names the original's tensors.
      model, fields: `create(model, num_classes, **fields)`.
      size: image size.
      num_classes: 0 where the original has no head of our kind.
      pretrained_size: image size of the position embeddings, if it is not `size`.
      resampling: how position embeddings are resampled; None: the family's own way.
    """

    stem: str
    original: str
    family: str
    model: str
    size: ImageSize
    fields: dict[str, Any] = field(default_factory=dict)
    num_classes: int = 10
    pretrained_size: int | None = None
    resampling: str | None = None

    def create(self) -> Model:
        return at_image_size(create(self.model, self.num_classes, **self.fields), self.size)

    def draw(self) -> dict[str, np.ndarray]:
        """The weights of both the original and our model, by path."""
        drawn = draw_all(self.create(), self.pretrained_size or self.size)
        if self.family == "big_vision":  # its files have no place for the class token's position
            drawn["embed/pos_embed"][:, 0] = 0
        if self.family in ("OpenCLIP", "Hugging Face CLIP"):  # whose projection has no bias
            drawn["head/bias"][:] = 0
        return drawn

    @property
    def rule_table(self) -> rules.Family:
        return _FAMILIES[self.family]

    @property
    def suffix(self) -> str:
        """Suffix of the files that use the family's names."""
        if self.family.startswith("Keras"):
            return ".h5"
        return ".npz" if self.family in _IN_NPZ else ".safetensors"


_IN_NPZ = ("Google BiT", "Google ViT", "big_vision", "big_vision SigLIP")
_TWO_BLOCKS = {"depth": 2}
_NARROW = {"dim": 96, "depth": 2, "heads": 3}
_HF_VIT = {**_NARROW, "layer_norm_eps": 1e-12}
_BASIC = {"widths": (16, 32, 48, 64)}
_BOTTLENECK = {"stage_sizes": (2, 1, 2, 1), "widths": (16, 32, 48, 64)}
_BIT = {"stage_sizes": (2, 1, 2, 1), "widths": (32, 64, 64, 96)}
_CONVNEXT = {"stage_sizes": (1, 2, 1, 1), "widths": (16, 32, 48, 64)}
_KERAS = {"stage_sizes": (2, 3, 2), "widths": (64, 32, 48)}

CASES = (
    # ResNet
    Case("resnet18", "torchvision_resnet", "torchvision ResNet", "resnet18", 64),
    Case("resnet50", "torchvision_resnet", "torchvision ResNet", "resnet50", 64),
    Case("resnet50_timm", "timm_resnet", "torchvision ResNet", "resnet50", 64),
    Case("resnet18_hf", "huggingface", "Hugging Face ResNet", "resnet18", 64, _BASIC),
    Case("resnet50_hf", "huggingface", "Hugging Face ResNet", "resnet50", 65, _BOTTLENECK),
    # BiT
    Case("resnetv2_timm", "bit", "timm BiT", "resnetv2_50x1_bit", 65, _BIT),
    Case("resnetv2_google", "bit", "Google BiT", "resnetv2_50x1_bit", 65, _BIT),
    # ConvNeXt
    Case("convnext_timm", "timm_convnext", "timm ConvNeXt", "convnext_tiny", 65, _CONVNEXT),
    Case("convnext_authors", "timm_convnext", "ConvNeXt", "convnext_tiny", 64, _CONVNEXT),
    Case("convnext_hf", "huggingface", "Hugging Face ConvNext", "convnext_tiny", 64, _CONVNEXT),
    Case("convnextv2_timm", "timm_convnext", "timm ConvNeXt", "convnextv2_tiny", 64, _CONVNEXT),
    Case("convnextv2_authors", "timm_convnext", "ConvNeXt", "convnextv2_tiny", 65, _CONVNEXT),
    Case("convnextv2_hf", "huggingface", "Hugging Face ConvNext", "convnextv2_tiny", 64, _CONVNEXT),
    # EfficientNet and MobileNet
    Case(
        "efficientnetv2_timm", "timm_efficientnet", "timm EfficientNet", "tf_efficientnetv2_b0", 64
    ),
    Case("mobilenetv3_timm", "timm_efficientnet", "timm EfficientNet", "mobilenetv3_small_100", 65),
    Case(
        "mobilenetv4_timm", "timm_efficientnet", "timm EfficientNet", "mobilenetv4_conv_small", 64
    ),
    Case(
        "efficientnet_lite_timm",
        "timm_efficientnet",
        "timm EfficientNet",
        "tf_efficientnet_lite0",
        65,
    ),
    # Keras Applications
    Case("keras_resnet", "keras_resnet", "Keras", "keras_resnet50", 65, _KERAS),
    Case("keras_resnet_3", "keras_resnet", "Keras 3", "keras_resnet50", 65, _KERAS),
    Case("keras_resnetv2", "keras_resnet", "Keras", "keras_resnet50v2", 65, _KERAS),
    Case("keras_resnetv2_3", "keras_resnet", "Keras 3", "keras_resnet50v2", 65, _KERAS),
    # ViT, timm
    Case("vit_tiny_patch16_224", "timm_vit", "timm ViT", "vit_tiny_patch16_224", 64),
    Case("vit_large", "timm_vit", "timm ViT", "vit_large_patch16_224", 32, _TWO_BLOCKS),
    Case(
        "vit_mean_oblong",
        "timm_vit",
        "timm ViT",
        "vit_tiny_patch16_224",
        (48, 96),
        {**_NARROW, "pooling": "mean"},
        pretrained_size=64,
    ),
    Case("vit_small_patch14_dinov2", "timm_vit", "timm ViT", "vit_small_patch14_dinov2", 56),
    Case(
        "dinov2_smaller",
        "timm_vit",
        "timm ViT",
        "vit_small_patch14_dinov2",
        42,
        _NARROW,
        pretrained_size=98,
    ),
    Case("reg4", "timm_vit", "timm ViT", "vit_small_patch14_reg4_dinov2", 42, _TWO_BLOCKS),
    Case(
        "reg4_mean_larger",
        "timm_vit",
        "timm ViT",
        "vit_small_patch14_reg4_dinov2",
        70,
        {**_NARROW, "pooling": "mean"},
        pretrained_size=42,
    ),
    Case(
        "reg4_authors",
        "timm_vit",
        "DINOv2",
        "vit_small_patch14_reg4_dinov2",
        42,
        _NARROW,
        pretrained_size=56,
    ),
    # DINOv3
    Case("dinov3_timm", "timm_dinov3", "timm DINOv3", "vit_small_patch16_dinov3", 64, _NARROW),
    Case(
        "dinov3_qkvb_oblong",
        "timm_dinov3",
        "timm DINOv3",
        "vit_small_plus_patch16_dinov3_qkvb",
        (48, 96),
        _NARROW,
    ),
    Case(
        "dinov3_authors",
        "timm_dinov3",
        "DINOv3",
        "vit_small_patch16_dinov3_qkvb",
        64,
        _NARROW,
    ),
    Case(
        "dinov3_hf",
        "huggingface",
        "Hugging Face DINOv3",
        "vit_small_plus_patch16_dinov3_qkvb",
        (48, 96),
        _NARROW,
        num_classes=0,
    ),
    # CLIP and SigLIP
    Case("clip_timm", "timm_vit", "timm ViT", "vit_base_patch32_clip_224", 64, _NARROW),
    Case("clip_openai", "timm_vit", "OpenCLIP", "vit_base_patch32_clip_quickgelu_224", 64, _NARROW),
    Case(
        "clip_hf",
        "huggingface",
        "Hugging Face CLIP",
        "vit_base_patch32_clip_quickgelu_224",
        64,
        _NARROW,
    ),
    Case("siglip_timm", "timm_vit", "timm ViT", "vit_base_patch16_siglip_224", 64, _NARROW),
    Case(
        "siglip_big_vision",
        "timm_vit",
        "big_vision SigLIP",
        "vit_base_patch16_siglip_224",
        64,
        _NARROW,
    ),
    Case(
        "siglip_hf",
        "huggingface",
        "Hugging Face SigLIP",
        "vit_so400m_patch16_siglip_256",
        64,
        {**_NARROW, "mlp_ratio": 4.0},
    ),
    # ViT, transformers
    Case("vit_hf", "huggingface", "Hugging Face ViT", "vit_tiny_patch16_224", 64, _HF_VIT),
    Case(
        "vit_hf_oblong",
        "huggingface",
        "Hugging Face ViT",
        "vit_tiny_patch16_224",
        (48, 96),
        _HF_VIT,
        pretrained_size=80,
    ),
    Case(
        "dinov2_hf",
        "huggingface",
        "Hugging Face Dinov2",
        "vit_small_patch14_dinov2",
        42,
        _NARROW,
        num_classes=0,
    ),
    Case(
        "dinov2_hf_smaller",
        "huggingface",
        "Hugging Face Dinov2",
        "vit_small_patch14_dinov2",
        42,
        _NARROW,
        num_classes=0,
        pretrained_size=98,
        resampling="bicubic",
    ),
    Case(
        "reg4_hf_larger",
        "huggingface",
        "Hugging Face Dinov2",
        "vit_small_patch14_reg4_dinov2",
        70,
        _NARROW,
        num_classes=0,
        pretrained_size=42,
    ),
    # ViT, Google
    Case("vit_google", "google_vit", "Google ViT", "vit_tiny_patch16_224", 64, _TWO_BLOCKS),
    Case(
        "vit_google_larger",
        "google_vit",
        "Google ViT",
        "vit_tiny_patch16_224",
        112,
        _NARROW,
        pretrained_size=64,
    ),
    Case(
        "vit_big_vision_smaller",
        "google_vit",
        "big_vision",
        "vit_tiny_patch16_224",
        (48, 64),
        _NARROW,
        pretrained_size=80,
    ),
)


# The original code, and the `resampling` of ours that matches it.
POSITIONS = {
    "timm": "antialiased_bicubic",
    "ViT": "bicubic",
    "Dinov2": "bicubic",
    "Dinov2WithRegisters": "antialiased_bicubic",
    "Google": "zoom",
}
GRIDS = ((7, (3, 3)), (4, (9, 9)), (7, (14, 5)), (4, (2, 8)))  # (side, (rows, columns))


def position_embedding(side: int) -> np.ndarray:
    """Position embedding (1, 1 + side², 2) of a class token and a square of patches."""
    shape = (1, 1 + side * side, 2)
    return np.random.default_rng(side).standard_normal(shape).astype(np.float32)
