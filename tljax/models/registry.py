"""Models by the field's names: `create("resnet50", num_classes=10)`."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
from flax import traverse_util

from tljax.errors import InputError, check_known, did_you_mean
from tljax.models import lora as lora_lib
from tljax.models.groups import leaf_paths, map_with_path
from tljax.models.lora import LoRA
from tljax.models.preprocessing import (
    CAFFE_MEAN,
    CAFFE_STD,
    HALF,
    IMAGENET_MEAN,
    IMAGENET_STD,
    ImageSize,
    Preprocessing,
    height_width,
)
from tljax.models.resnet import ResNet
from tljax.models.resnet_v2 import ResNetV2
from tljax.models.vit import POOLINGS, ViT

Model = ResNet | ResNetV2 | ViT


@dataclass(frozen=True)
class ModelSpec:
    """How to build a model, and the images it is meant for where its weights do not say.

    Attributes:
      family: the Linen module.
      arguments: its fields, but for `num_classes`.
      preprocessing: of the checkpoints that made the name known.
    """

    family: type[ResNet] | type[ResNetV2] | type[ViT]
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
}


def _vit(size: str, patch: int, preprocessing: Preprocessing, **more: Any) -> ModelSpec:
    dim, depth, heads = _VIT_SIZES[size]
    arguments = {"dim": dim, "depth": depth, "heads": heads, "patch": patch, **more}
    return ModelSpec(ViT, arguments, preprocessing)


# timm's ViTs trained by Google's AugReg recipe are normalised with 0.5 and cropped at 0.9.
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
        for size in _VIT_SIZES
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
        _SMALL,
    ),
    "vit_micro_patch4_32": ModelSpec(ViT, {"dim": 64, "depth": 4, "heads": 4, "patch": 4}, _SMALL),
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
    if num_classes < 0:
        raise InputError(f"num_classes is {num_classes}; set it to 0 (no head) or more")
    if "pooling" in fields:
        check_known("pooling", fields["pooling"], POOLINGS)
    if not 0 <= fields.get("drop_path", 0.0) < 1:
        raise InputError(f"drop_path is {fields['drop_path']}; set it to at least 0 and below 1")
    return entry.family(num_classes=num_classes, **{**entry.arguments, **fields})


def truncated(name: str, model: Model, last_group: str) -> Model:
    """The model without the groups between `last_group` and the head.

    Raises:
      InputError: if it has no block of that name.
    """
    check_known(f"block of '{name}'", last_group, model.groups.names[1:-1])
    return model.truncated(model.groups.names.index(last_group))


def adapted(name: str, model: Model, lora: LoRA) -> Model:
    """The model with a low-rank update beside each dense layer that `lora` targets.

    Raises:
      InputError: if it has no such layers, or one of them is narrower than the rank.
    """
    if not isinstance(model, ViT):
        raise InputError(
            f"lora_rank is {lora.rank}, but '{name}' has no attention and MLP for LoRA to adapt;"
            " choose a ViT, or leave lora_rank out"
        )
    model = model.clone(lora=lora)
    abstract = abstract_variables(model, spec(name).preprocessing.image_size)["params"]
    shapes = {
        path: leaf.shape for path, leaf in traverse_util.flatten_dict(abstract, sep="/").items()
    }
    layers = [path.rpartition("/")[0] for path in shapes if lora_lib.is_leaf(path)]
    if not layers:
        raise InputError(
            f"lora_targets '{lora.targets}' matches no dense layer of the blocks of '{name}';"
            " their paths are like block0/attn/qkv and block0/mlp/fc1"
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


def patch_grid(model: Model, image_size: ImageSize) -> tuple[int, int] | None:
    """(rows, columns) of patches that an image is cut into; None for a convolutional network."""
    if not isinstance(model, ViT):
        return None
    height, width = height_width(image_size)
    return height // model.patch, width // model.patch


def init(
    model: Model,
    key: jax.Array,
    image_size: ImageSize,
    channels: int = 3,
    groups: tuple[bool, ...] | None = None,
) -> dict[str, Any]:
    """Random variables: `params` and, for models with BatchNorm, `batch_stats`.

    Args:
      model: a Linen module with `groups`.
      key: of the random numbers.
      image_size, channels: of its images.
      groups: per group, whether its variables are wanted; the others stay abstract (shape and
        dtype), since what pretrained weights replace need not be compiled and drawn. LoRA's, which
        a source seldom has, are wanted in any case. None: all.
    """
    image = (*height_width(image_size), channels)
    if groups is None:
        return _drawing(key)(model, key, image, None, 0)
    abstract = _abstract_variables(model, image)
    depths = {path: model.groups.depth(path.split("/", 1)[1]) for path in leaf_paths(abstract)}
    wanted = tuple(p for p, depth in depths.items() if groups[depth] or lora_lib.is_leaf(p))
    drawn = {}
    if wanted:
        start = min(depths[path] for path in wanted)
        drawn = _drawing(key)(model, key, image, wanted, start)
    return map_with_path(lambda path, leaf: drawn.get(path, leaf), abstract)


def _drawing(key: jax.Array) -> Callable[..., dict[str, Any]]:
    """`_draw`, compiled, or as it is within a program that a caller traces."""
    traced = isinstance(jax.random.key_data(key), jax.core.Tracer)  # even if the key is a constant
    return _draw if traced else _compiled_drawing()


@functools.cache
def _compiled_drawing() -> Callable[..., dict[str, Any]]:
    """`_draw`, compiled with little optimisation on a CPU, as numbers are drawn once.

    XLA takes most of a second for each shape of them otherwise, and a third of that so, for the
    same bits.
    """
    little = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
    return jax.jit(_draw, static_argnums=(0, 2, 3, 4), compiler_options=little)


def _draw(
    model: Model,
    key: jax.Array,
    image: tuple[int, int, int],
    paths: tuple[str, ...] | None,
    start: int,
) -> dict[str, Any]:
    """All variables, or those at `paths` by path, none of which lies below the group `start`.

    A variable's numbers depend on the key and its path alone; so the groups below are left out.
    """
    seen = _abstract_output(model, image, start)
    variables = dict(model.init(key, jnp.zeros(seen.shape, seen.dtype), start=start))
    if paths is None:
        return variables
    flat = traverse_util.flatten_dict(variables, sep="/")
    return {path: flat[path] for path in paths}


def abstract_variables(model: Model, image_size: ImageSize, channels: int = 3) -> dict[str, Any]:
    """Shapes and dtypes of the model's variables; computes nothing. Not to be changed in place."""
    return _abstract_variables(model, (*height_width(image_size), channels))


def _abstract_variables(model: Model, image: tuple[int, int, int]) -> dict[str, Any]:
    return _traced(model, image)[0]


@functools.lru_cache(maxsize=64)  # a large network takes a second to trace
def _traced(
    model: Model, image: tuple[int, int, int]
) -> tuple[dict[str, Any], list[tuple[str, Any]]]:
    """The shapes of a whole network's variables, and its `operations`, of one trace."""

    def draw(key: jax.Array, images: jax.Array) -> Any:
        # not `init`, for which each block of a ViT is traced by itself, for its own numbers
        drawn = ("params", "batch_stats")
        return model.apply({}, images, rngs={"params": key}, mutable=drawn)[1]

    images = jax.ShapeDtypeStruct((_IMAGES, *image), jnp.float32)
    program, drawn = jax.make_jaxpr(draw, return_shape=True)(jax.random.key(0), images)
    return _shapes(drawn), list(_within(program.jaxpr))


def abstract_output(
    model: Model, image_size: ImageSize, stop: int, channels: int = 3
) -> jax.ShapeDtypeStruct:
    """What the first `stop` groups make of one image (1, ...); computes nothing."""
    return _abstract_output(model, (*height_width(image_size), channels), stop)


@functools.lru_cache(maxsize=64)
def _abstract_output(model: Model, image: tuple[int, int, int], stop: int) -> jax.ShapeDtypeStruct:
    images = jax.ShapeDtypeStruct((1, *image), jnp.float32)
    if not stop:
        return images
    run = functools.partial(model.apply, train=False, stop=stop)
    output: jax.ShapeDtypeStruct = _shapes(
        jax.eval_shape(run, _abstract_variables(model, image), images)
    )
    return output


_IMAGES = 1009  # a prime, by which the arrays of a batch can be told from the weights


def bytes_of_an_image(result: Any) -> int:
    """Of an operation's abstract result among `operations`; 0 if it is not of the images."""
    return 0 if result.size % _IMAGES else result.size // _IMAGES * result.dtype.itemsize


def operations(
    model: Model, image_size: ImageSize, start: int = 0, stop: int | None = None
) -> list[tuple[str, Any]]:
    """(name, abstract result) of all operations in the groups `start` to `stop - 1`.

    Those that would draw variables may be among them. Not to be changed in place.
    """
    image = (*height_width(image_size), 3)
    if start == 0 and stop is None:
        return _traced(model, image)[1]
    return _operations(model, image, start, stop)


@functools.lru_cache(maxsize=64)
def _operations(
    model: Model, image: tuple[int, int, int], start: int, stop: int | None
) -> list[tuple[str, Any]]:
    one = _abstract_output(model, image, start)
    x = jax.ShapeDtypeStruct((_IMAGES, *one.shape[1:]), one.dtype)
    run = functools.partial(model.apply, train=False, start=start, stop=stop)
    return list(_within(jax.make_jaxpr(run)(_abstract_variables(model, image), x).jaxpr))


def _within(jaxpr: Any) -> Iterator[tuple[str, Any]]:
    """Of a program, and of the programs within its operations."""
    for operation in jaxpr.eqns:
        for result in operation.outvars:
            if hasattr(result.aval, "dtype"):
                yield operation.primitive.name, result.aval
        for inner in jax.extend.core.jaxprs_in_params(operation.params):
            yield from _within(inner)


def _shapes(tree: Any) -> Any:
    """Without the mesh of the program that a caller traces; for what is kept beyond that."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


@functools.partial(jax.jit, static_argnums=0)
def features(model: Model, variables: dict[str, Any], images: jax.Array) -> jax.Array:
    """What the head sees: (n, d) float32, from normalised images (n, h, w, 3)."""
    result: Any = model.apply(variables, images, train=False, stop=len(model.groups) - 1)
    return result


def parameter_count(params: Any) -> int:
    """Number of scalars in a tree of arrays or shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
