"""Reads `flax_model.msgpack`, which the Flax classes of transformers 4 wrote.

Their networks have the names of transformers' PyTorch ones, but for the last part of each. So the
tensors get PyTorch's names and axes here, and the rule tables for Hugging Face's names apply.
"""

from pathlib import Path
from typing import Any

import numpy as np
from flax import serialization, traverse_util

_NAMES = {  # the last part of a name, in Flax and in PyTorch
    "kernel": "weight",
    "scale": "weight",
    "embedding": "weight",
    "mean": "running_mean",
    "var": "running_var",
}
_COLLECTIONS = ("params", "batch_stats")


def read(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file under PyTorch's names.

    Raises:
      ValueError: it is not a tree of arrays, with string keys.
    """
    tree: Any = serialization.msgpack_restore(path.read_bytes())
    if not isinstance(tree, dict):
        raise ValueError("it holds no tree of arrays")
    # Networks with statistics keep them beside the parameters.
    parts = list(tree.values()) if set(tree) <= set(_COLLECTIONS) else [tree]
    tensors: dict[str, np.ndarray] = {}
    for part in parts:
        if not isinstance(part, dict):
            raise ValueError("it holds no tree of arrays")
        for keys, leaf in traverse_util.flatten_dict(part).items():
            if not all(isinstance(key, str) for key in keys) or not isinstance(leaf, np.ndarray):
                raise ValueError(f"{'/'.join(map(str, keys))} is not an array")
            *place, last = keys
            tensors[".".join([*place, _NAMES.get(last, last)])] = _as_in_pytorch(last, leaf)
    return tensors


def _as_in_pytorch(name: str, array: np.ndarray) -> np.ndarray:
    """A kernel (in, out) as (out, in), (h, w, in, out) as (out, in, h, w); others as they are."""
    if name != "kernel":
        return array
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
