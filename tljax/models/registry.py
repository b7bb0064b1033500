"""Models by the names that the field uses: `create("resnet50", num_classes=10)`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from flax import traverse_util

from tljax.errors import InputError, check_known, did_you_mean
from tljax.models.convnext import ConvNeXt
from tljax.models.efficientnet import EfficientNet, parse_stages
from tljax.models.lora import LoRA, is_leaf
from tljax.models.model import Model
from tljax.models.preprocessing import (
    CAFFE_MEAN,
    CAFFE_STD,
    CLIP_MEAN,
    CLIP_STD,
    HALF,
    IMAGENET_MEAN,
    IMAGENET_STD,
    ImageSize,
    Preprocessing,
    height_width,
)
from tljax.models.resnet import ResNet
from tljax.models.resnet_v2 import ResNetV2
from tljax.models.tracing import abstract_variables
from tljax.models.vit import ViT


@dataclass(frozen=True)
class ModelSpec:
    """How to build a model, and how its images are preprocessed unless its weights say otherwise.

    Attributes:
      family: the Linen module.
      arguments: the module's fields, except `num_classes`.
      preprocessing: that of the best-known checkpoints of this name.
    """

    family: type[ResNet] | type[ResNetV2] | type[ViT] | type[ConvNeXt] | type[EfficientNet]
    arguments: dict[str, Any]
    preprocessing: Preprocessing


_RESNET_WIDTHS = (64, 128, 256, 512)
_BOTTLENECK_SIZES = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def _resnet(sizes: tuple[int, ...], bottleneck: bool) -> ModelSpec:
    arguments = {"stage_sizes": sizes, "widths": _RESNET_WIDTHS, "bottleneck": bottleneck}
    preprocessing = Preprocessing(224, IMAGENET_MEAN, IMAGENET_STD, "bilinear", 0.875)
    return ModelSpec(ResNet, arguments, preprocessing)


def _bit(depth: int, width_factor: int) -> ModelSpec:
    widths = tuple(width_factor * width for width in _RESNET_WIDTHS)
    arguments = {"stage_sizes": _BOTTLENECK_SIZES[depth], "widths": widths}
    pixels = 480 if (depth, width_factor) == (152, 4) else 448
    return ModelSpec(ResNetV2, arguments, Preprocessing(pixels, HALF, HALF, "bilinear", 1.0))


# Keras Applications' own code resizes without a crop.
_KERAS = Preprocessing(224, CAFFE_MEAN, CAFFE_STD, "bilinear", 1.0)
_KERAS_V2 = Preprocessing(224, HALF, HALF, "bilinear", 1.0)


def _keras(depth: int) -> ModelSpec:
    spec = _resnet(_BOTTLENECK_SIZES[depth], bottleneck=True)
    own = {"conv_bias": True, "batch_norm_eps": 1.001e-5, "stride_first": True}
    return ModelSpec(ResNet, {**spec.arguments, **own}, _KERAS)


def _keras_v2(depth: int) -> ModelSpec:
    arguments = {
        "stage_sizes": _BOTTLENECK_SIZES[depth],
        "widths": _RESNET_WIDTHS,
        "normalisation": "batch",
        "norm_eps": 1.001e-5,
        "standardised": False,
        "conv_bias": True,
        "strides_last": True,
    }
    return ModelSpec(ResNetV2, arguments, _KERAS_V2)


_VIT_SIZES = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "so400m": (1152, 27, 16),
}


def _vit(size: str, patch: int, preprocessing: Preprocessing, **more: Any) -> ModelSpec:
    dim, depth, heads = _VIT_SIZES[size]
    arguments = {"dim": dim, "depth": depth, "heads": heads, "patch": patch, **more}
    return ModelSpec(ViT, arguments, preprocessing)


# The authors' code and Hugging Face's have biases of queries and values, which are 0; the weights
# that timm publishes without "qkvb" lack them.
_DINOV3_SIZES = {
    "tiny": (192, 12, 3, False),
    "small": (384, 12, 6, False),
    "small_plus": (384, 12, 6, True),
    "base": (768, 12, 12, False),
    "large": (1024, 24, 16, False),
    "huge_plus": (1280, 32, 20, True),
}


def _dinov3(size: str, qkv_bias: str) -> ModelSpec:
    dim, depth, heads, gated = _DINOV3_SIZES[size]
    arguments = {
        "dim": dim,
        "depth": depth,
        "heads": heads,
        "patch": 16,
        "gated": gated,
        "layer_scale": 1e-5,
        "layer_norm_eps": 1e-5,
        "registers": 4,
        "rotary": 100.0,
        "qkv_bias": qkv_bias,
    }
    return ModelSpec(ViT, arguments, Preprocessing(256, IMAGENET_MEAN, IMAGENET_STD, "bicubic", 1))


def _clip(size: str, patch: int, quick: bool) -> ModelSpec:
    more: dict[str, Any] = {"pre_norm": True, "layer_norm_eps": 1e-5}
    if quick:
        more["activation"] = "quick_gelu"
    return _vit(size, patch, Preprocessing(224, CLIP_MEAN, CLIP_STD, "bicubic", 1.0), **more)


def _siglip(size: str, patch: int, pixels: int) -> ModelSpec:
    more: dict[str, Any] = {"class_token": False, "pooling": "attention"}
    if size == "so400m":
        more["mlp_ratio"] = 3.7362
        more["activation"] = "gelu_tanh" if patch == 16 else "gelu"
    return _vit(size, patch, Preprocessing(pixels, HALF, HALF, "bicubic", 1.0), **more)


_CONVNEXT = {  # blocks and channels of each stage
    "atto": ((2, 2, 6, 2), (40, 80, 160, 320)),
    "femto": ((2, 2, 6, 2), (48, 96, 192, 384)),
    "pico": ((2, 2, 6, 2), (64, 128, 256, 512)),
    "nano": ((2, 2, 8, 2), (80, 160, 320, 640)),
    "tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
    "small": ((3, 3, 27, 3), (96, 192, 384, 768)),
    "base": ((3, 3, 27, 3), (128, 256, 512, 1024)),
    "large": ((3, 3, 27, 3), (192, 384, 768, 1536)),
    "xlarge": ((3, 3, 27, 3), (256, 512, 1024, 2048)),
    "huge": ((3, 3, 27, 3), (352, 704, 1408, 2816)),
}
_CONVNEXT_V2 = {"layer_scale": None, "response_norm": True}


def _convnext(size: str, **more: Any) -> ModelSpec:
    stage_sizes, widths = _CONVNEXT[size]
    arguments = {"stage_sizes": stage_sizes, "widths": widths, **more}
    preprocessing = Preprocessing(224, IMAGENET_MEAN, IMAGENET_STD, "bicubic", 0.875)
    return ModelSpec(ConvNeXt, arguments, preprocessing)


# In the notation of `parse_stages`.
_EFFICIENTNETS: dict[str, tuple[int, int, str]] = {  # channels of stem and head, blocks
    "tf_efficientnetv2_b0": (
        32,
        1280,
        "cn3/1 >16 S | er3/2 64>32 S, er3/1 128>32 S | er3/2 128>48 S, er3/1 192>48 S"
        " | ir3/2 192>96:12 S, ir3/1 384>96:24 S x2 | ir3/1 576>112:24 S, ir3/1 672>112:28 S x4"
        " | ir3/2 672>192:28 S, ir3/1 1152>192:48 S x7",
    ),
    "tf_efficientnetv2_s": (
        24,
        1280,
        "cn3/1 >24 S x2 | er3/2 96>48 S, er3/1 192>48 S x3 | er3/2 192>64 S, er3/1 256>64 S x3"
        " | ir3/2 256>128:16 S, ir3/1 512>128:32 S x5 | ir3/1 768>160:32 S, ir3/1 960>160:40 S x8"
        " | ir3/2 960>256:40 S, ir3/1 1536>256:64 S x14",
    ),
    "tf_efficientnet_lite0": (
        32,
        1280,
        "ds3/1 >16 6 | ir3/2 96>24 6, ir3/1 144>24 6 | ir5/2 144>40 6, ir5/1 240>40 6"
        " | ir3/2 240>80 6, ir3/1 480>80 6 x2 | ir5/1 480>112 6, ir5/1 672>112 6 x2"
        " | ir5/2 672>192 6, ir5/1 1152>192 6 x3 | ir3/1 1152>320 6",
    ),
    "mobilenetv3_small_100": (
        16,
        1024,
        "ds3/2 >16:8 R | ir3/2 72>24 R, ir3/1 88>24 R | ir5/2 96>40:24 H, ir5/1 240>40:64 H x2"
        " | ir5/1 120>48:32 H, ir5/1 144>48:40 H | ir5/2 288>96:72 H, ir5/1 576>96:144 H x2"
        " | cn1/1 >576 H",
    ),
    "mobilenetv3_large_100": (
        16,
        1280,
        "ds3/1 >16 R | ir3/2 64>24 R, ir3/1 72>24 R | ir5/2 72>40:24 R, ir5/1 120>40:32 R x2"
        " | ir3/2 240>80 H, ir3/1 200>80 H, ir3/1 184>80 H x2"
        " | ir3/1 480>112:120 H, ir3/1 672>112:168 H"
        " | ir5/2 672>160:168 H, ir5/1 960>160:240 H x2 | cn1/1 >960 H",
    ),
    "mobilenetv4_conv_small": (
        32,
        1280,
        "cn3/2 >32 R, cn1/1 >32 R | cn3/2 >96 R, cn1/1 >64 R"
        " | uir5k5/2 192>96 R, uir0k3/1 192>96 R x4, uir3k0/1 384>96 R"
        " | uir3k3/2 576>128 R, uir5k5/1 512>128 R, uir0k5/1 512>128 R, uir0k5/1 384>128 R,"
        " uir0k3/1 512>128 R x2 | cn1/1 >960 R",
    ),
    "mobilenetv4_conv_medium": (
        32,
        1280,
        "er3/2 128>48 R | uir3k5/2 192>80 R, uir3k3/1 160>80 R"
        " | uir3k5/2 480>160 R, uir3k3/1 640>160 R x2, uir3k5/1 640>160 R, uir3k3/1 640>160 R,"
        " uir3k0/1 640>160 R, uir0k0/1 320>160 R, uir3k0/1 640>160 R"
        " | uir5k5/2 960>256 R, uir5k5/1 1024>256 R, uir3k5/1 1024>256 R x2, uir0k0/1 1024>256 R,"
        " uir3k0/1 1024>256 R, uir3k5/1 512>256 R, uir5k5/1 1024>256 R, uir0k0/1 1024>256 R x2,"
        " uir5k0/1 512>256 R | cn1/1 >960 R",
    ),
}
_MOBILE_HEAD: dict[str, dict[str, Any]] = {
    "mobilenetv3": {
        "head": "pooled_conv",
        "activation": "hard_swish",
        "squeeze": ("relu", "hard_sigmoid"),
        "batch_norm_eps": 1e-5,
    },
    "mobilenetv4": {"head": "pooled_conv_norm", "activation": "relu", "batch_norm_eps": 1e-5},
    "tf_efficientnet": {"activation": "relu6", "same_padding": True},  # Lite
    "tf_efficientnetv2": {"same_padding": True},
}


def _efficientnet(name: str) -> ModelSpec:
    stem, head, stages = _EFFICIENTNETS[name]
    own: dict[str, Any] = {"stages": parse_stages(stages), "stem_width": stem, "head_width": head}
    own["conv_skips"] = name == "tf_efficientnetv2_s"
    own |= _MOBILE_HEAD[name.rsplit("_", 2 if name.startswith("mobile") else 1)[0]]
    return ModelSpec(EfficientNet, own, _EFFICIENTNET_IMAGES[name])


_EFFICIENTNET_IMAGES = {
    "tf_efficientnetv2_b0": Preprocessing(192, IMAGENET_MEAN, IMAGENET_STD, "bicubic", 0.875),
    "tf_efficientnetv2_s": Preprocessing(300, HALF, HALF, "bicubic", 1.0),
    "tf_efficientnet_lite0": Preprocessing(224, HALF, HALF, "bicubic", 0.875),
    "mobilenetv3_small_100": Preprocessing(224, IMAGENET_MEAN, IMAGENET_STD, "bicubic", 0.875),
    "mobilenetv3_large_100": Preprocessing(224, IMAGENET_MEAN, IMAGENET_STD, "bicubic", 0.875),
    "mobilenetv4_conv_small": Preprocessing(224, IMAGENET_MEAN, IMAGENET_STD, "bicubic", 0.875),
    "mobilenetv4_conv_medium": Preprocessing(256, IMAGENET_MEAN, IMAGENET_STD, "bicubic", 0.95),
}


# timm's ViTs of Google's AugReg recipe are normalised with 0.5 and cropped at 0.9.
_AUGREG = {
    224: Preprocessing(224, HALF, HALF, "bicubic", 0.9),
    384: Preprocessing(384, HALF, HALF, "bicubic", 1.0),
}
_DEIT = {
    224: Preprocessing(224, IMAGENET_MEAN, IMAGENET_STD, "bicubic", 0.9),
    384: Preprocessing(384, IMAGENET_MEAN, IMAGENET_STD, "bicubic", 1.0),
}
_DINOV2 = Preprocessing(518, IMAGENET_MEAN, IMAGENET_STD, "bicubic", 1.0)
_SMALL = Preprocessing(32, HALF, HALF, "bicubic", 1.0)

MODELS: dict[str, ModelSpec] = {
    "resnet18": _resnet((2, 2, 2, 2), bottleneck=False),
    "resnet34": _resnet((3, 4, 6, 3), bottleneck=False),
    **{
        f"resnet{depth}": _resnet(sizes, bottleneck=True)
        for depth, sizes in _BOTTLENECK_SIZES.items()
    },
    **{
        f"resnetv2_{depth}x{factor}_bit": _bit(depth, factor)
        for depth, factors in ((50, (1, 3)), (101, (1, 3)), (152, (2, 4)))
        for factor in factors
    },
    **{f"keras_resnet{depth}": _keras(depth) for depth in _BOTTLENECK_SIZES},
    **{f"keras_resnet{depth}v2": _keras_v2(depth) for depth in _BOTTLENECK_SIZES},
    **{
        f"vit_{size}_patch{patch}_{pixels}": _vit(size, patch, _AUGREG[pixels])
        for size in ("tiny", "small", "base", "large")
        for pixels, patches in ((224, (8, 14, 16, 32)), (384, (16, 32)))
        for patch in patches
    },
    **{
        f"deit_{size}_patch16_{pixels}": _vit(size, 16, _DEIT[pixels])
        for size, pixels in (("tiny", 224), ("small", 224), ("base", 224), ("base", 384))
    },
    **{
        f"vit_{size}_patch14_dinov2": _vit(size, 14, _DINOV2, layer_scale=1e-5)
        for size in ("small", "base", "large")
    },
    **{
        f"vit_{size}_patch14_reg4_dinov2": _vit(size, 14, _DINOV2, layer_scale=1e-5, registers=4)
        for size in ("small", "base", "large")
    },
    **{name: _efficientnet(name) for name in _EFFICIENTNETS},
    **{f"convnext_{size}": _convnext(size) for size in _CONVNEXT if size != "huge"},
    **{
        f"convnextv2_{size}": _convnext(size, **_CONVNEXT_V2)
        for size in _CONVNEXT
        if size not in ("small", "xlarge")
    },
    **{
        f"vit_{size}_patch16_dinov3{suffix}": _dinov3(size, qkv_bias)
        for size in _DINOV3_SIZES
        for suffix, qkv_bias in (("", "none"), ("_qkvb", "query_value"))
    },
    **{
        f"vit_{size}_patch{patch}_clip{quick}_224": _clip(size, patch, bool(quick))
        for quick in ("", "_quickgelu")
        for size, patch in (("base", 32), ("base", 16), ("large", 14))
    },
    **{
        f"vit_{size}_patch{patch}_siglip_{pixels}": _siglip(size, patch, pixels)
        for size, patch, pixels in (
            *(("base", 16, pixels) for pixels in (224, 256, 384, 512)),
            *(("large", 16, pixels) for pixels in (256, 384, 512)),
            *(("so400m", 14, pixels) for pixels in (224, 378, 384)),
            *(("so400m", 16, pixels) for pixels in (256, 384, 512)),
            ("base", 32, 256),
        )
    },
    # For 32-pixel images on a CPU: a ResNet of ten layers (stem, 4 basic blocks, head), a ViT, a
    # ConvNeXt of four blocks, and a MobileNet of five.
    "resnet10_32": ModelSpec(
        ResNet,
        {
            "stage_sizes": (1, 1, 1, 1),
            "widths": (16, 32, 64, 128),
            "bottleneck": False,
            "stem": (3, 2),
            "stem_pool": False,
        },
        _SMALL,
    ),
    "mobilenetv3_micro_32": ModelSpec(
        EfficientNet,
        {
            "stages": parse_stages("ds3/1 >16 R | ir3/2 64>24:16 H x2 | ir3/2 96>48:24 H x2"),
            "stem_width": 16,
            "stem_stride": 1,
            "head_width": 128,
            **_MOBILE_HEAD["mobilenetv3"],
        },
        _SMALL,
    ),
    "convnext_micro_32": ModelSpec(
        ConvNeXt,
        {
            "stage_sizes": (1, 1, 1, 1),
            "widths": (24, 48, 96, 192),
            "patch": 2,
            "layer_scale": None,
            "response_norm": True,
        },
        _SMALL,
    ),
    "vit_micro_patch4_32": ModelSpec(ViT, {"dim": 64, "depth": 4, "heads": 4, "patch": 4}, _SMALL),
}


def spec(name: str) -> ModelSpec:
    """The model's entry in `MODELS`; InputError, with the closest name, if there is none."""
    check_known("model", name, MODELS)
    return MODELS[name]


def create(name: str, num_classes: int, **fields: Any) -> Model:
    """Builds a model, without parameters.

        model = tljax.create("vit_small_patch16_224", num_classes=37, drop_path=0.1)
        model.groups.names  # ("embed", "block0", ..., "block11", "head")

    Args:
      name: a key of `MODELS`.
      num_classes: size of the head; 0 for no head.
      **fields: fields of the module to override, e.g. `drop_path=0.1`, `pooling="mean"`.

    Returns:
      A Linen module with `groups`; `tljax.models.init` draws its variables.

    Raises:
      InputError: for an unknown name or field, or for fields that do not go together.
    """
    entry = spec(name)
    _check_fields(name, entry.family, fields)
    if num_classes < 0:
        raise InputError(f"num_classes is {num_classes}; set it to 0 (no head) or more")
    model: Model = entry.family(num_classes=num_classes, **{**entry.arguments, **fields})
    if isinstance(model, ViT):
        _check_pooling(name, model)
    return model


def _check_fields(name: str, family: type[Model], fields: Mapping[str, Any]) -> None:
    """Raises InputError if a module lacks a field, or if its value is none that it knows."""
    types = {f: field.type for f, field in family.__dataclass_fields__.items()}
    known = types.keys() - {"parent", "name"}
    for field, value in fields.items():
        if field not in known:
            raise InputError(f"model '{name}' has no field '{field}'{did_you_mean(field, known)}")
        if get_origin(types[field]) is Literal:
            check_known(field, str(value), get_args(types[field]))
    if not 0 <= fields.get("drop_path", 0.0) < 1:
        raise InputError(f"drop_path is {fields['drop_path']}; set it to at least 0 and below 1")


def _check_pooling(name: str, model: ViT) -> None:
    """Raises InputError if the head would get another token than the class token, or several."""
    if model.pooling == "token" and not model.class_token:
        raise InputError(
            f"pooling is token, but this '{name}' has no class token; set pooling to mean or"
            " attention"
        )
    if model.pooling == "none" and model.num_classes:
        raise InputError(
            f"pooling is none, but num_classes is {model.num_classes}, and a head takes pooled"
            " tokens; set num_classes to 0, or another pooling"
        )


def truncate(name: str, model: Model, last_group: str) -> Model:
    """The model without the groups between `last_group` and the head.

    Raises:
      InputError: if the model has no block named `last_group`.
    """
    check_known(f"block of '{name}'", last_group, model.groups.names[1:-1])
    return model.truncated(model.groups.names.index(last_group))


def add_lora(name: str, model: Model, lora: LoRA) -> Model:
    """The model with a low-rank update for each dense layer that `lora` targets.

    Raises:
      InputError: if the model has no such layer, or if one is narrower than the rank.
    """
    if not isinstance(model, ViT):
        raise InputError(
            f"lora_rank is {lora.rank}, but '{name}' has no attention and MLP for LoRA to adapt;"
            " choose a ViT, or unset lora_rank"
        )
    model = model.clone(lora=lora)
    abstract = abstract_variables(model, spec(name).preprocessing.image_size)["params"]
    shapes = {
        path: leaf.shape for path, leaf in traverse_util.flatten_dict(abstract, sep="/").items()
    }
    layers = [path.rpartition("/")[0] for path in shapes if is_leaf(path)]
    if not layers:
        raise InputError(
            f"lora_targets '{lora.targets}' matches no dense layer of the blocks of '{name}'; set"
            " it to a regex that matches paths like block0/attn/qkv or block0/mlp/fc1"
        )
    layer = min(layers, key=lambda layer: min(shapes[f"{layer}/kernel"]))
    if lora.rank > (width := min(shapes[f"{layer}/kernel"])):
        raise InputError(
            f"lora_rank is {lora.rank}, but {layer} of '{name}' is {width} wide, and its kernel has"
            f" no higher rank; set lora_rank to at most {width}"
        )
    return model


def check_image_size(name: str, model: Model, image_size: ImageSize) -> None:
    """Raises InputError if images of this size cannot be cut into the model's patches."""
    for side in height_width(image_size) if isinstance(model, ViT) else ():
        if side % model.patch:
            raise InputError(
                f"image_size {side} is not a multiple of the {model.patch}-pixel patches of"
                f" '{name}'; try {round(side / model.patch) * model.patch or model.patch}"
            )


def at_image_size(model: Model, image_size: ImageSize) -> Model:
    """The model for images of a size: one with rotary positions has to know if they are oblong."""
    rows, columns = patch_grid(model, image_size) or (1, 1)
    if not isinstance(model, ViT) or model.rotary is None or rows == columns:
        return model
    return model.clone(grid=(rows, columns))


def patch_grid(model: Model, image_size: ImageSize) -> tuple[int, int] | None:
    """(rows, columns) of an image's patches; None for a convolutional network."""
    if not isinstance(model, ViT):
        return None
    height, width = height_width(image_size)
    return height // model.patch, width // model.patch
