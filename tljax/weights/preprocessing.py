"""How the images of pretrained weights are prepared, as far as their source says so."""

import json
from dataclasses import asdict
from typing import Any

from tljax.errors import InputError
from tljax.files import parse_json
from tljax.models import Preprocessing
from tljax.weights import addresses, folders, zoo
from tljax.weights.read import FORMAT, read_json, read_metadata


def find_preprocessing(init_from: str) -> Preprocessing | None:
    """Returns how the weights expect their images; None if their source does not say.

    Asks, in this order, the zoo, the header of a file that tljax wrote (once the file is on this
    disk), and the `config.json` (timm) or `preprocessor_config.json` (transformers) next to the
    weights. Downloads no weights.

    Args:
      init_from: a zoo name, the path of a file or folder, or an address.

    Raises:
      InputError: if a folder holds no weights, or the header or JSON file cannot be understood.
    """
    entry = zoo.entries().get(init_from)
    if entry is not None:
        return entry.preprocessing
    file = folders.find_cached(init_from)
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
        ("config.json", _parse_timm),
        ("preprocessor_config.json", _parse_transformers),
    ):
        path = addresses.fetch_sidecar(init_from, filename)
        try:
            found = parse(read_json(path)) if path else None
        except (InputError, AttributeError, TypeError, ValueError) as error:
            raise InputError(
                f"cannot tell from {path} how images are prepared ({error}); fix or remove it"
            ) from None
        if found is not None:
            return found
    return None


def preprocessing_to_json(preprocessing: Preprocessing) -> str:
    """Text for the metadata of a file; `preprocessing_from_json` reads it."""
    return json.dumps(asdict(preprocessing))


def preprocessing_from_json(text: str) -> Preprocessing:
    """The inverse of `preprocessing_to_json`."""
    fields = parse_json(text)
    size = fields["image_size"]
    return Preprocessing(
        tuple(size) if isinstance(size, list) else size,
        tuple(fields["mean"]),
        tuple(fields["std"]),
        fields["interpolation"],
        fields["crop_ratio"],
    )


def _parse_timm(config: dict[str, Any]) -> Preprocessing | None:
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


def _parse_transformers(config: dict[str, Any]) -> Preprocessing | None:
    """From the `preprocessor_config.json` of a transformers repository on the hub."""
    if "image_mean" not in config or "image_std" not in config:
        return None
    resized, cropped = _shorter_side(config.get("size")), _shorter_side(config.get("crop_size"))
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


def _shorter_side(value: Any) -> int | None:
    """Of a size in a transformers config, which is a number or a dict of sides."""
    if not isinstance(value, dict):
        return value
    sides = [value[key] for key in ("shortest_edge", "height", "width") if key in value]
    return min(sides) if sides else None
