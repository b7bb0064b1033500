"""Models by the field's names: `create("resnet50", num_classes=10)`."""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from tljax.errors import InputError, check_known, did_you_mean
from tljax.models.resnet import ResNet
from tljax.models.vit import ViT

Model = ResNet | ViT

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class ModelSpec:
    """How to build a model, and the images it is meant for.

    Attributes:
      family: the Linen module.
      arguments: its fields, but for `num_classes`.
      image_size: side of the square input, in pixels.
      mean, std: per-channel statistics, of pixels in [0, 1], that inputs are normalised with.
      interpolation, crop_ratio: of the evaluation resize; the centre crop's share of its side.
    """

    family: type[ResNet] | type[ViT]
    arguments: dict[str, Any]
    image_size: int = 224
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: str = "bicubic"
    crop_ratio: float = 0.875


def _resnet(sizes: tuple[int, ...], bottleneck: bool) -> ModelSpec:
    arguments = {"stage_sizes": sizes, "widths": (64, 128, 256, 512), "bottleneck": bottleneck}
    return ModelSpec(ResNet, arguments, interpolation="bilinear")


_VIT_SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12)}


def _vit(size: str, patch: int, **more: Any) -> dict[str, Any]:
    dim, depth, heads = _VIT_SIZES[size]
    return {"dim": dim, "depth": depth, "heads": heads, "patch": patch, **more}


MODELS: dict[str, ModelSpec] = {
    "resnet18": _resnet((2, 2, 2, 2), bottleneck=False),
    "resnet34": _resnet((3, 4, 6, 3), bottleneck=False),
    "resnet50": _resnet((3, 4, 6, 3), bottleneck=True),
    "resnet101": _resnet((3, 4, 23, 3), bottleneck=True),
    "resnet152": _resnet((3, 8, 36, 3), bottleneck=True),
    # timm's ViTs trained by Google's AugReg recipe are normalised with 0.5 and cropped at 0.9.
    **{
        f"vit_{size}_patch{patch}_224": ModelSpec(
            ViT, _vit(size, patch), mean=HALF, std=HALF, crop_ratio=0.9
        )
        for size in _VIT_SIZES
        for patch in (8, 14, 16, 32)
    },
    **{
        f"vit_{size}_patch14_dinov2": ModelSpec(
            ViT, _vit(size, 14, layer_scale=1e-5), image_size=518, crop_ratio=1.0
        )
        for size in ("small", "base")
    },
    # For 32-pixel images on a CPU: a ResNet of ten layers (stem, 4 basic blocks, head) and a ViT.
    "resnet10_32": ModelSpec(
        ResNet,
        {
            "stage_sizes": (1, 1, 1, 1),
            "widths": (16, 32, 64, 128),
            "bottleneck": False,
            "stem": (3, 2),
            "stem_pool": False,
        },
        image_size=32,
        mean=HALF,
        std=HALF,
        crop_ratio=1.0,
    ),
    "vit_micro_patch4_32": ModelSpec(
        ViT,
        {"dim": 64, "depth": 4, "heads": 4, "patch": 4},
        image_size=32,
        mean=HALF,
        std=HALF,
        crop_ratio=1.0,
    ),
}


def spec(name: str) -> ModelSpec:
    """The entry of a model; InputError, with the closest name, if there is none."""
    check_known("model", name, MODELS)
    return MODELS[name]


def create(name: str, num_classes: int, **fields: Any) -> Model:
    """Builds a model, without parameters.

    Args:
      name: the field's name, a key of `MODELS`.
      num_classes: size of the head; 0 for none.
      **fields: fields of the module to override, e.g. `drop_path=0.1`, `pooling="mean"`.

    Raises:
      InputError: for an unknown name or field.
    """
    entry = spec(name)
    known = {f for f in entry.family.__dataclass_fields__ if f not in ("parent", "name")}
    for field in fields:
        if field not in known:
            raise InputError(f"model '{name}' has no field '{field}'{did_you_mean(field, known)}")
    if not 0 <= fields.get("drop_path", 0.0) < 1:
        raise InputError(f"drop_path is {fields['drop_path']}; set it to at least 0 and below 1")
    return entry.family(num_classes=num_classes, **{**entry.arguments, **fields})


def check_image_size(name: str, model: Model, image_size: int) -> None:
    """Raises InputError if images of this size cannot be cut into the model's patches."""
    if isinstance(model, ViT) and image_size % model.patch:
        raise InputError(
            f"image_size {image_size} is not a multiple of the {model.patch}-pixel patches of"
            f" '{name}'; try {round(image_size / model.patch) * model.patch or model.patch}"
        )


@functools.partial(jax.jit, static_argnums=(0, 2))
def init(model: Model, key: jax.Array, image_size: int) -> dict[str, Any]:
    """Random variables: `params` and, for models with BatchNorm, `batch_stats`."""
    return dict(model.init(key, jnp.zeros((1, image_size, image_size, 3))))


@functools.partial(jax.jit, static_argnums=0)
def features(model: Model, variables: dict[str, Any], images: jax.Array) -> jax.Array:
    """What the head sees: (n, d) float32, from normalised images (n, h, w, 3)."""
    result: Any = model.apply(variables, images, train=False, stop=len(model.groups) - 1)
    return result


def parameter_count(params: Any) -> int:
    """Number of scalars in a tree of arrays or shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
