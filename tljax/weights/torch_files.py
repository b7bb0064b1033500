"""Reads PyTorch's files (.pth, .pt, .bin, .ckpt, .pth.tar) with PyTorch; never runs their code."""

import argparse
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tljax.errors import InputError


def read(path: Path, most: int) -> dict[str, np.ndarray]:
    """Returns the tensors of a file by name.

    A training script's file holds several dicts of tensors, e.g. `model` and `optimizer`: the keys
    of the dicts are joined to `model.conv1.weight`.

    Args:
      path: of the file.
      most: bytes of tensors that it may hold; a small file can describe tensors of any size.

    Raises:
      InputError: if loading it could run code, or it holds no dict.
      Exception: of any type, if it is damaged or holds too much.
    """
    import torch

    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            _check_size(sum(member.file_size for member in archive.infolist()), most)
    try:
        # Training scripts often store their arguments, which are plain data, with the weights.
        with torch.serialization.safe_globals([argparse.Namespace]):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for damage and for code
        if "weights_only" in str(error).lower() or "unsupported" in str(error).lower():
            raise InputError(
                f"'{path}' holds more than tensors, and loading it could run code, so it is"
                " refused; save only its state_dict, or give it as .safetensors"
            ) from None
        raise
    if not isinstance(loaded, dict):
        raise InputError(f"'{path}' holds no state_dict of tensors; save a model's state_dict")
    found = list(_named_tensors(loaded, "", set()))
    _check_size(sum(tensor.numel() * max(4, tensor.element_size()) for _, tensor in found), most)
    tensors = {name: _array(tensor) for name, tensor in found}
    if len(tensors) < len(found):
        raise ValueError("two tensors have one name")
    return tensors


def _named_tensors(value: Any, name: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """The tensors in dicts within dicts; of a dict that is there twice only the first."""
    import torch

    if isinstance(value, torch.Tensor):
        if value.layout == torch.strided:
            yield name, value
    elif isinstance(value, dict) and id(value) not in seen:
        seen.add(id(value))
        for key, inner in value.items():
            yield from _named_tensors(inner, f"{name}.{key}" if name else str(key), seen)


def _array(tensor: Any) -> np.ndarray:
    """The tensor as an array; floating-point numbers as float32."""
    tensor = tensor.detach().resolve_conj().resolve_neg()
    array: np.ndarray = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    return array


def _check_size(size: int, most: int) -> None:
    if size > most:
        raise ValueError(f"it describes {size:,} bytes of tensors; files of its size have less")
