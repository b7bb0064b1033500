"""From the name, path or address of a weights file to the parameters of one of our models."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tljax.errors import InputError, did_you_mean
from tljax.files import parse_json
from tljax.models import ImageSize, Model, Preprocessing, registry
from tljax.weights import addresses, fitting, rules, zoo
from tljax.weights.families import FAMILIES, TLJAX
from tljax.weights.read import Contents, check_readable, read, read_json, read_metadata

# In the metadata of what we write: `format` of `tljax convert`, `producer` of `tljax export`.
FORMAT = "tljax"


@dataclass(frozen=True)
class PretrainedWeights:
    """Weights under our names, as their file has them.

    Attributes:
      arrays: by path without the collection; with the head's if the file has one.
      num_classes: of that head; 0 for none.
      family: whose names the file uses.
      origin: what was asked for.
      resampling: how the code it comes from resamples position embeddings; None: as the family.
    """

    arrays: dict[str, np.ndarray]
    num_classes: int
    family: rules.Family
    origin: str
    resampling: str | None = None


def as_path(init_from: str) -> Path | None:
    """The path that `init_from` is; None for a zoo name or an address."""
    if init_from in zoo.entries() or addresses.is_address(init_from):
        return None
    return Path(os.path.expanduser(init_from))


def absolute(init_from: str) -> str:
    """`init_from` in a form that means the same from any folder."""
    path = as_path(init_from)
    return init_from if path is None else str(path.absolute())


def fetch(init_from: str, model_name: str) -> Path:
    """The file of a zoo name, path or address; downloaded, once, if need be.

    Raises:
      InputError: if there is none, it cannot be fetched, or is known to hold another model.
    """
    entry = zoo.entries().get(init_from)
    if entry is not None:
        check_model(init_from, entry.model, model_name)
        check_readable(entry.address)
        return addresses.fetch_file(
            entry.address, sha256=entry.sha256 or None, md5=entry.md5 or None
        )
    path = as_path(init_from)
    if path is None:
        check_readable(init_from)
    elif not path.exists():
        raise InputError(
            f"there is no weights file '{init_from}'{did_you_mean(init_from, zoo.entries())}: it is"
            " neither a file, nor a workdir, nor a name that `tljax models` lists"
        )
    return addresses.fetch_file(init_from)


def find_preprocessing(init_from: str) -> Preprocessing | None:
    """How the images of some weights are prepared; None if their source does not say.

    Asks, in this order, the zoo, the metadata of a file of ours (once it is here), and the
    `config.json` (timm) or `preprocessor_config.json` (transformers) beside the weights. Downloads
    no weights.
    """
    entry = zoo.entries().get(init_from)
    if entry is not None:
        return entry.preprocessing
    file = addresses.find_cached(init_from)
    metadata = read_metadata(file) if file else {}
    if FORMAT in (metadata.get("format"), metadata.get("producer")):
        try:
            return preprocessing_from_json(metadata["preprocessing"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"the header of '{init_from}' does not say how its images are prepared"
                f" ({type(error).__name__} {error}); convert or export it again"
            ) from None
    for filename, parse in (
        ("config.json", _timm_preprocessing),
        ("preprocessor_config.json", _transformers_preprocessing),
    ):
        path = addresses.fetch_sidecar(init_from, filename)
        try:
            found = parse(read_json(path)) if path else None
        except (InputError, AttributeError, TypeError, ValueError) as error:
            raise InputError(
                f"cannot tell from {path} how images are prepared ({error}); mend or remove it"
            ) from None
        if found is not None:
            return found
    return None


def load(init_from: str, model_name: str) -> PretrainedWeights:
    """Reads weights for a model, checked on both sides.

    Args:
      init_from: a zoo name, path or address.
      model_name: a key of `tljax.models.MODELS`.

    Raises:
      InputError: if it cannot be fetched or read, or holds another model.
    """
    contents = read(fetch(init_from, model_name))
    if contents.metadata.get("format") == FORMAT:
        check_model(init_from, contents.metadata.get("model", ""), model_name)
    return convert(contents, model_name, init_from)


def convert(contents: Contents, model_name: str, origin: str) -> PretrainedWeights:
    """The tensors of a file as parameters of a model, checked on both sides.

    Raises:
      InputError: with all mismatches together.
    """
    model = registry.create(model_name, num_classes=1)
    spec = registry.spec(model_name)
    abstract = registry.abstract_variables(model, spec.preprocessing.image_size)
    shapes = {path: leaf.shape for path, leaf in rules.flatten(abstract).items()}
    family = _detect(model, list(shapes), list(contents.tensors), model_name, origin)
    filled = rules.convert(family, model, shapes, contents.tensors, origin)
    head = filled.get("head/bias")
    resampling = contents.metadata.get("resampling")
    return PretrainedWeights(filled, 0 if head is None else len(head), family, origin, resampling)


def from_variables(variables: dict[str, Any], origin: str) -> PretrainedWeights:
    """Variables of a model of ours, e.g. a workdir's best, as pretrained weights."""
    filled = {path: np.asarray(leaf) for path, leaf in rules.flatten(variables).items()}
    head = filled.get("head/bias")
    return PretrainedWeights(filled, 0 if head is None else len(head), TLJAX, origin)


def variables_for(
    weights: PretrainedWeights,
    model: Model,
    image_size: ImageSize,
    channels: int = 3,
    position_resampling: str | None = None,
) -> dict[str, Any]:
    """Variables from pretrained weights, fitted to a model, an image size and a number of channels.

    Args:
      weights: of the same architecture; the model may be truncated.
      model: that will take them.
      image_size: of its images.
      channels: of its images.
      position_resampling: a key of `fitting.RESAMPLINGS`; None: the way of the family's own code.

    Returns:
      {"params": ..., "batch_stats": ...}, with the head of the weights if they have one.
    """
    abstract = registry.abstract_variables(model, image_size, channels)
    shapes = {path: leaf.shape for path, leaf in rules.flatten(abstract).items()}
    head = {path: array.shape for path, array in weights.arrays.items() if _is_head(path)}
    fitted = fitting.fit(
        weights.arrays,
        {**shapes, **head},
        registry.patch_grid(model, image_size),
        position_resampling or weights.resampling or weights.family.resampling,
        weights.origin,
    )
    return rules.unflatten(fitted)


def preprocessing_to_json(preprocessing: Preprocessing) -> str:
    """For a file's metadata; `preprocessing_from_json` reads it."""
    return json.dumps(asdict(preprocessing))


def preprocessing_from_json(text: str) -> Preprocessing:
    fields = parse_json(text)
    size = fields["image_size"]
    return Preprocessing(
        tuple(size) if isinstance(size, list) else size,
        tuple(fields["mean"]),
        tuple(fields["std"]),
        fields["interpolation"],
        fields["crop_ratio"],
    )


def check_model(init_from: str, holds: str, wanted: str) -> None:
    """Names may differ where the network is the same, e.g. DeiT's and ViT's."""
    a, b = registry.spec(holds), registry.spec(wanted)
    if (a.family, a.arguments) != (b.family, b.arguments):
        raise InputError(
            f"'{init_from}' holds a {holds}, but model is {wanted}; set --config.model={holds}, or"
            " another init_from"
        )


def _detect(
    model: Model, paths: Sequence[str], names: Sequence[str], model_name: str, origin: str
) -> rules.Family:
    """The family that has a place for most of the names."""
    candidates = [family for family in FAMILIES if family.accepts(model)]
    known = [rules.count_known(family, model, paths, names) for family in candidates]
    if max(known) == 0:
        first = ", ".join(sorted(names)[:3])
        ways = ", ".join(family.name for family in candidates)
        raise InputError(
            f"'{origin}' holds none of the tensors of a {model_name} (under the names of {ways});"
            f" its first are {first}; set model to the network it was made with"
        )
    return candidates[known.index(max(known))]


def _is_head(path: str) -> bool:
    return path.startswith("head/")


def _timm_preprocessing(config: dict[str, Any]) -> Preprocessing | None:
    """From the `config.json` of a timm repository on the hub."""
    timm = config.get("pretrained_cfg", {})
    if "mean" not in timm or "std" not in timm:
        return None
    _, height, width = timm.get("input_size", (3, 224, 224))
    return Preprocessing(
        height if height == width else (height, width),
        tuple(timm["mean"]),
        tuple(timm["std"]),
        timm.get("interpolation", "bicubic"),
        timm.get("crop_pct", 0.875),
    )


# Pillow's numbers, which transformers uses.
_PILLOW = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}


def _transformers_preprocessing(config: dict[str, Any]) -> Preprocessing | None:
    """From the `preprocessor_config.json` of a transformers repository on the hub."""
    if "image_mean" not in config or "image_std" not in config:
        return None

    def shorter(value: Any) -> int | None:
        if isinstance(value, dict):
            sides = [value[key] for key in ("shortest_edge", "height", "width") if key in value]
            return min(sides) if sides else None
        return value

    resized, cropped = shorter(config.get("size")), shorter(config.get("crop_size"))
    crops = config.get("do_center_crop", False) and cropped
    size = cropped if crops else resized
    if size is None:
        return None
    share = config.get("crop_pct") if size < 384 else None  # as ConvNext's processor crops
    return Preprocessing(
        size,
        tuple(config["image_mean"]),
        tuple(config["image_std"]),
        _PILLOW.get(config.get("resample", 3), "bicubic"),
        min(1.0, size / resized) if crops and resized else share or 1.0,
    )
