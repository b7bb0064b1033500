"""The way back: a network's weights as a file, under our own names or under PyTorch's.

What a run has to say of itself comes from `training.publishing`; the words from `model_card`.
"""

import json
import math
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np

from tljax.errors import InputError, check_known
from tljax.files import replacing, writable_file
from tljax.models import Model, Preprocessing, ResNet, ResNetV2, ViT, registry
from tljax.weights import rules
from tljax.weights.families.bit import TIMM_BIT
from tljax.weights.families.resnet import TORCH_RESNET
from tljax.weights.families.vit import TIMM_VIT
from tljax.weights.loading import PretrainedWeights
from tljax.weights.model_card import Export, model_card
from tljax.weights.preprocessing import preprocessing_to_json
from tljax.weights.read import FORMAT

# Whose names a format can have: the first family that accepts the model. (timm's ResNets have
# torchvision's names.)
FORMATS: dict[str, tuple[rules.Family, ...]] = {
    "timm": (TORCH_RESNET, TIMM_VIT, TIMM_BIT),
    "torchvision": (TORCH_RESNET,),
}

# Fields that may have any value, because the card's constructor passes them on, or because they
# matter in training alone. Any other field that is set means arithmetic that PyTorch's lacks.
_FREE_FIELDS: dict[type, set[str]] = {
    ResNet: {"stage_sizes", "widths", "bottleneck", "stem", "stem_pool"},
    ResNetV2: {"stage_sizes", "widths"},
    ViT: {"dim", "depth", "heads", "patch", "layer_scale", "registers"},
}
_HARMLESS_FIELDS = {"num_classes", "drop_path", "dropout", "dtype", "name", "parent"}


def save_converted(
    weights: PretrainedWeights, model_name: str, preprocessing: Preprocessing, path: Path
) -> None:
    """Writes pretrained weights under our own paths, in float32; `init_from` takes such a file.

    Raises:
      InputError: if it lacks a part of the network.
    """
    _check_whole(weights, model_name, preprocessing)
    header = {
        "format": FORMAT,
        "model": model_name,
        "preprocessing": preprocessing_to_json(preprocessing),
        "origin": weights.origin,
        "family": weights.family.name,
        "resampling": weights.resampling or weights.family.resampling,
    }
    with replacing(path) as temporary:
        _save(weights.arrays, temporary, header)


def save_exported(export: Export, format: str, path: Path) -> Path:
    """Writes the weights under PyTorch's names, and a model card beside them.

    Args:
      export: what to write.
      format: a key of `FORMATS`.
      path: of the safetensors file.

    Returns:
      The path of the card: `path` with the suffix `.md`.

    Raises:
      InputError: if the format has no such network.
    """
    family = family_of(format, export.name, export.model)
    tensors = rules.unconvert(family, export.model, export.weights.arrays)
    export = replace(export, preprocessing=_as_stored(export))
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


def family_of(format: str, name: str, model: Model) -> rules.Family:
    """Whose names a format gives to a model's tensors.

    Raises:
      InputError: if there is no such format, or it has no such network.
    """
    check_known("format", format, FORMATS)
    able = {
        known: family
        for known, families in FORMATS.items()
        for family in families
        if family.accepts(model) and _same_arithmetic(model)
    }
    if format in able:
        return able[format]
    if able:
        raise InputError(
            f"the tensors of '{name}' have no {format} names here; use --format {next(iter(able))}"
        )
    raise InputError(
        f"'{name}' has no twin in PyTorch that computes the same, so it cannot be exported;"
        " `tljax convert` keeps it in a file of tljax's own"
    )


def _same_arithmetic(model: Model) -> bool:
    free = _FREE_FIELDS.get(type(model), set()) | _HARMLESS_FIELDS
    fields = type(model).__dataclass_fields__
    return all(getattr(model, name) == fields[name].default for name in fields if name not in free)


def _check_whole(weights: PretrainedWeights, model_name: str, preprocessing: Preprocessing) -> None:
    """A truncated network's file could not be read again under the network's name."""
    model = registry.create(model_name, num_classes=0)
    whole = registry.abstract_variables(model, preprocessing.image_size)
    if missing := rules.flatten(whole).keys() - weights.arrays.keys():
        raise InputError(
            f"'{weights.origin}' holds only a part of a {model_name}: it lacks"
            f" {min(missing)} and {len(missing) - 1} more; convert a whole network"
        )


def _as_stored(export: Export) -> Preprocessing:
    """The preprocessing, with the channels and the image size that the weights have."""
    filled, preprocessing = export.weights.arrays, export.preprocessing
    for path in ("stem/conv/kernel", "embed/patch/kernel"):
        if path in filled:
            preprocessing = preprocessing.for_channels(filled[path].shape[2])
    model, grid = export.model, registry.patch_grid(export.model, preprocessing.image_size)
    if grid is None or not isinstance(model, ViT):
        return preprocessing
    expected = rules.flatten(registry.abstract_variables(model, preprocessing.image_size))
    extra = expected["embed/pos_embed"].shape[1] - grid[0] * grid[1]  # e.g. for the class token
    patches = filled["embed/pos_embed"].shape[1] - extra
    if grid[0] * grid[1] == patches:
        return preprocessing
    return replace(preprocessing, image_size=math.isqrt(patches) * model.patch)


def _save(tensors: dict[str, np.ndarray], path: Path, header: dict[str, str]) -> None:
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, path, header)
