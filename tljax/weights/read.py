"""Reads the tensors of a weights file of any supported format; never runs code from a file."""

import importlib.util
import lzma
import re
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tljax.errors import InputError
from tljax.files import parse_json
from tljax.weights import flax_files, hdf5, torch_files

Tensors = dict[str, np.ndarray]

# In the metadata of the files that tljax writes: `format` of `tljax convert`, `producer` of `tljax
# export`.
FORMAT = "tljax"

# Ends the name of a file that lists the files of cut weights, e.g. `model.safetensors.index.json`.
INDEX_SUFFIX = ".index.json"


@dataclass(frozen=True)
class Contents:
    """The tensors of a file by name, and the metadata of a safetensors header."""

    tensors: Tensors
    metadata: dict[str, str]


def read(path: Path, name: str | None = None) -> Contents:
    """Reads a .safetensors, .npz, .h5 (Keras) or .msgpack file, with PyTorch also .pth or .ckpt.

    Args:
      path: of the file.
      name: whose suffix says which format it has; None: that of the path.

    Raises:
      InputError: if the file is missing, damaged, of another format, or needs code to be run.
    """
    if not path.is_file():
        raise InputError(f"there is no weights file '{path}'; check the path")
    contents = _READERS[check_readable(name or str(path))](path)
    if not contents.tensors:
        raise InputError(f"'{path}' holds no tensors; give the file that holds the weights")
    for tensor_name, tensor in contents.tensors.items():
        kind = getattr(tensor, "dtype", np.dtype(object)).kind  # an .npz may hold any file
        if kind not in _NUMBERS or not isinstance(tensor_name, str):
            raise InputError(
                f"'{path}' holds {tensor_name!r}, which is not a tensor of numbers; give the file"
                " that holds the weights"
            )
    return contents


def is_weights_name(name: str) -> bool:
    """Returns whether a file's name or address is that of weights, or of their index."""
    return _suffix(name) in _READERS


def check_readable(name: str) -> str:
    """Returns the suffix of a file's name or address; of an index that of the files it lists.

    Raises:
      InputError: if files with this suffix cannot be read here.
    """
    suffix = _suffix(name)
    if suffix not in _READERS:
        raise InputError(
            f"'{name}' is not a weights file that can be read: its name ends in none of"
            f" {', '.join(_READERS)}; give such a file, a folder that save_pretrained wrote, or"
            " hf://OWNER/REPO"
        )
    if _READERS[suffix] is _read_torch and importlib.util.find_spec("torch") is None:
        raise InputError(
            f"reading '{name}' needs PyTorch, which is not installed; give the same weights as"
            " .safetensors (timm's and torchvision's are on the Hugging Face hub, e.g. init_from="
            "resnet50.tv_in1k), or pip install torch"
        )
    return suffix


def _suffix(name: str) -> str:
    """The suffix of a file's name or address, without that of an index."""
    place = re.split(r"[?#]", name)[0].lower()
    return Path(place.removesuffix(INDEX_SUFFIX)).suffix


def read_metadata(path: Path) -> dict[str, str]:
    """Returns a safetensors file's metadata without reading tensors; empty for other formats."""
    if path.suffix.lower() != ".safetensors" or not path.is_file():
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from None


def _read_safetensors(path: Path) -> Contents:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return Contents(tensors, dict(file.metadata() or {}))
    except (SafetensorError, OSError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from None


# Kinds of NumPy's dtypes; NumPy shows bfloat16 as V.
_NUMBERS = "biufV"

# What NumPy raises for damaged archives, and for a single array in a file named .npz.
NPZ_DAMAGE = (
    *(OSError, ValueError, EOFError, KeyError, AttributeError, TypeError, RuntimeError),
    *(NotImplementedError, MemoryError, SyntaxError, tokenize.TokenError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError),
)


def _read_npz(path: Path) -> Contents:
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            size = path.stat().st_size
            unpacked = sum(member.file_size for member in file.zip.infolist())
            if unpacked > hdf5.max_tensor_bytes(size):
                raise ValueError(f"{unpacked:,} bytes of tensors in a file of {size:,}")
            return Contents({name: file[name] for name in file.files}, {})
    except NPZ_DAMAGE as error:
        raise _damaged(path, error) from None


def _read_torch(path: Path) -> Contents:
    try:
        return Contents(torch_files.read(path, hdf5.max_tensor_bytes(path.stat().st_size)), {})
    except InputError:
        raise
    except Exception as error:  # torch raises many types for damage
        raise _damaged(path, error) from None


def _read_flax(path: Path) -> Contents:
    try:
        return Contents(flax_files.read(path), {})
    except Exception as error:  # msgpack and Flax raise many types for damage
        raise _damaged(path, error) from None


def _read_hdf5(path: Path) -> Contents:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy.safetensors"
        try:
            hdf5.convert(path, copy)
        except hdf5.DamagedHdf5 as error:
            raise _damaged(path, error) from None
        return Contents(_read_safetensors(copy).tensors, {})


_READERS: dict[str, Callable[[Path], Contents]] = {
    ".safetensors": _read_safetensors,
    ".npz": _read_npz,
    ".h5": _read_hdf5,
    ".hdf5": _read_hdf5,
    ".msgpack": _read_flax,
    ".pth": _read_torch,
    ".pt": _read_torch,
    ".bin": _read_torch,
    ".ckpt": _read_torch,
    ".tar": _read_torch,  # .pth.tar
}


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object stored next to a weights file; empty if the file holds anything else."""
    try:
        content = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _damaged(path: Path, error: Exception) -> InputError:
    reason = " ".join([type(error).__name__, *str(error).splitlines()[:1]])
    return InputError(
        f"cannot read '{path}': it is truncated or not a {path.suffix} file ({reason});"
        " delete it and fetch it again"
    )
