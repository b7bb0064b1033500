"""Writes a network's weights to a file, under our own names or under PyTorch's.

`commands.export` collects the facts about a run; `model_card` words them.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from tljax.errors import InputError, check_known, hide_secrets, redacted
from tljax.files import replacing, writable_file
from tljax.models import (
    ConvNeXt,
    EfficientNet,
    Model,
    Preprocessing,
    ResNet,
    ResNetV2,
    ViT,
    registry,
    tracing,
)
from tljax.weights import rules
from tljax.weights.families.bit import TIMM_BIT
from tljax.weights.families.convnext import TIMM_CONVNEXT
from tljax.weights.families.dinov3 import TIMM_DINOV3
from tljax.weights.families.efficientnet import TIMM_EFFICIENTNET
from tljax.weights.families.resnet import TORCH_RESNET
from tljax.weights.families.vit import TIMM_VIT
from tljax.weights.loading import PretrainedWeights
from tljax.weights.model_card import Export, model_card
from tljax.weights.preprocessing import preprocessing_to_json
from tljax.weights.read import FORMAT

# The families of each format; the first that accepts the model names the tensors. (timm's ResNets
# use torchvision's names.)
FORMATS: dict[str, tuple[rules.Family, ...]] = {
    "timm": (TORCH_RESNET, TIMM_VIT, TIMM_DINOV3, TIMM_BIT, TIMM_CONVNEXT, TIMM_EFFICIENTNET),
    "torchvision": (TORCH_RESNET,),
}

# Fields that may have any value: the card's constructor passes them on, or they matter only in
# training. A model with any other field changed computes what PyTorch's network does not.
_FREE_FIELDS: dict[type, set[str]] = {
    ResNet: {"stage_sizes", "widths", "bottleneck", "stem", "stem_pool"},
    ResNetV2: {"stage_sizes", "widths"},
    EfficientNet: {"stages", "stem_width", "stem_stride", "head_width"},
    ConvNeXt: {"stage_sizes", "widths", "patch", "layer_scale", "response_norm"},
    ViT: {"dim", "depth", "heads", "patch", "layer_scale", "registers"},
}
_HARMLESS_FIELDS = {"num_classes", "drop_path", "dropout", "dtype", "name", "parent", "grid"}


def save_converted(
    weights: PretrainedWeights, model_name: str, preprocessing: Preprocessing, path: Path
) -> None:
    """Writes pretrained weights under our own paths, in float32; `init_from` takes such a file.

    Raises:
      InputError: if a part of the network is missing.
    """
    _check_whole(weights, model_name, preprocessing)
    header = {
        "format": FORMAT,
        "model": model_name,
        "preprocessing": preprocessing_to_json(preprocessing),
        "origin": redacted(weights.origin),
        "family": weights.family.name,
        "resampling": weights.resampling or weights.family.resampling,
    }
    with replacing(path) as temporary:
        _save(weights.arrays, temporary, header)


def save_exported(export: Export, format: str, path: Path) -> Path:
    """Writes weights under PyTorch's names, and a model card next to them.

    Args:
      export: the network to write.
      format: a key of `FORMATS`.
      path: of the safetensors file.

    Returns:
      The path of the card: `path` with the suffix `.md`.

    Raises:
      InputError: if no network of the format computes the same.
    """
    family = family_of(format, export.name, export.model)
    tensors = rules.unconvert(family, export.model, export.weights.arrays)
    export = replace(
        export, preprocessing=_as_stored(export), tables=_without_secrets(export.tables)
    )
    header = {
        "format": "pt",
        "producer": FORMAT,
        "version": metadata.version("tljax"),
        "model": export.name,
        "preprocessing": preprocessing_to_json(export.preprocessing),
        "class_names": json.dumps(export.class_names),
        "about": json.dumps(export.tables),
    }
    card = writable_file(path.with_suffix(".md"), ".md")
    with replacing(card) as temporary_card, replacing(path) as temporary:
        temporary_card.write_text(model_card(export, format, path.name), encoding="utf-8")
        _save(tensors, temporary, header)
    return card


def _without_secrets(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The facts about a network; secrets in the addresses among them are hidden."""
    return {
        heading: {
            name: hide_secrets(value) if isinstance(value, str) else value
            for name, value in rows.items()
        }
        for heading, rows in tables.items()
    }


def family_of(format: str, name: str, model: Model) -> rules.Family:
    """Returns the family whose names a format gives to a model's tensors.

    Raises:
      InputError: if the format is unknown, or no network of it computes the same.
    """
    check_known("format", format, FORMATS)
    usable = {
        known: family
        for known, families in FORMATS.items()
        for family in families
        if family.accepts(model) and _same_arithmetic(name, model)
    }
    if format in usable:
        return usable[format]
    if usable:
        raise InputError(
            f"the tensors of '{name}' have no {format} names; use --format {next(iter(usable))}"
        )
    raise InputError(
        f"no network of PyTorch computes the same as '{name}', so it cannot be exported; use"
        " `tljax convert` to write a file of tljax's own"
    )


def _same_arithmetic(name: str, model: Model) -> bool:
    """Whether PyTorch's network computes the same: no field but free ones is changed."""
    usual = registry.MODELS[name].arguments if name in registry.MODELS else {}
    free = _FREE_FIELDS.get(type(model), set()) | _HARMLESS_FIELDS
    fields = type(model).__dataclass_fields__
    return all(
        getattr(model, field) == usual.get(field, fields[field].default)
        for field in fields
        if field not in free
    )


def _check_whole(weights: PretrainedWeights, model_name: str, preprocessing: Preprocessing) -> None:
    """Refuses a truncated network, whose file could not be read under the network's name."""
    model = registry.create(model_name, num_classes=0)
    whole = tracing.abstract_variables(model, preprocessing.image_size)
    if missing := rules.flatten(whole).keys() - weights.arrays.keys():
        raise InputError(
            f"'{weights.origin}' holds only a part of a {model_name}: it lacks"
            f" {min(missing)} and {len(missing) - 1} more; convert a whole network"
        )


def _as_stored(export: Export) -> Preprocessing:
    """The preprocessing, with the number of channels and the image size of the weights."""
    arrays, preprocessing = export.weights.arrays, export.preprocessing
    for path in ("stem/conv/kernel", "embed/patch/kernel"):
        if path in arrays:
            preprocessing = preprocessing.for_channels(arrays[path].shape[2])
    model, grid = export.model, registry.patch_grid(export.model, preprocessing.image_size)
    if grid is None or not isinstance(model, ViT):
        return preprocessing
    expected = rules.flatten(tracing.abstract_variables(model, preprocessing.image_size))
    extra = expected["embed/pos_embed"].shape[1] - grid[0] * grid[1]  # e.g. for the class token
    patches = arrays["embed/pos_embed"].shape[1] - extra
    if grid[0] * grid[1] == patches:
        return preprocessing
    return replace(preprocessing, image_size=math.isqrt(patches) * model.patch)


def _save(tensors: dict[str, np.ndarray], path: Path, header: dict[str, str]) -> None:
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, path, header)
