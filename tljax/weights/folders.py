"""From an address, a file or a folder to the files that hold the weights.

`save_pretrained` writes a folder, which the hub keeps as a repository: the weights have a usual
name in it, and large ones are cut into several files that an index lists.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from tljax.errors import InputError
from tljax.weights import addresses
from tljax.weights.download import offline_variable
from tljax.weights.read import INDEX_SUFFIX, check_readable, is_weights_name, read_json

# The names that timm's and transformers' `save_pretrained` give, the best first: reading a .bin
# file needs PyTorch.
_USUAL = (
    *("model.safetensors", f"model.safetensors{INDEX_SUFFIX}"),
    *("pytorch_model.bin", f"pytorch_model.bin{INDEX_SUFFIX}"),
    "flax_model.msgpack",
)


@dataclass(frozen=True)
class WeightsFiles:
    """Files on this disk that hold weights together.

    Attributes:
      paths: of the files.
      names: of all their tensors, if an index lists them; else empty.
    """

    paths: tuple[Path, ...]
    names: frozenset[str] = frozenset()


def fetch_weights(
    address: str, *, sha256: str | None = None, md5: str | None = None
) -> WeightsFiles:
    """Returns the files with the weights at an address; downloads those that are not in a cache.

    Args:
      address: of a file, or of the index of several, as `addresses.fetch_file` takes it; the path
        of a folder; or a repository, `hf://OWNER/REPO` or `hf://OWNER/REPO@REVISION`.
      sha256, md5: of the file, as `addresses.fetch_file` takes them.

    Raises:
      InputError: if there are none, they cannot be fetched, or files of this kind cannot be read.
    """
    folder = Path(os.path.expanduser(address))
    if addresses.is_repository(address):
        address = _choose_in_repository(address)
    elif not addresses.is_fetchable(address) and folder.is_dir():
        address = str(_choose_in_folder(folder))
    check_readable(address)
    file = addresses.fetch_file(address, sha256=sha256, md5=md5)
    if not address.partition("?")[0].endswith(INDEX_SUFFIX):
        return WeightsFiles((file,))
    shards = _read_index(file)
    return WeightsFiles(
        tuple(
            addresses.fetch_file(addresses.address_beside(address, file, name))
            for name in sorted(set(shards.values()))
        ),
        frozenset(shards),
    )


def find_cached(address: str) -> Path | None:
    """Returns the file with the weights if it is on this disk; never uses the network.

    Raises:
      InputError: for a folder that holds no weights.
    """
    path = Path(os.path.expanduser(address))
    if not addresses.is_fetchable(address) and path.is_dir():
        return _choose_in_folder(path)
    if addresses.is_repository(address):
        cached = (addresses.find_cached(f"{address}/{name}") for name in _USUAL)
        return next(filter(None, cached), None)
    return addresses.find_cached(address)


def holds_weights(folder: Path) -> bool:
    """Returns whether a folder holds a weights file, or several."""
    return bool(_weights_in(folder))


def _weights_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if is_weights_name(p.name) and p.is_file())


def _choose_in_folder(folder: Path) -> Path:
    """The weights file of the usual name in a folder, or the only one there."""
    for name in _USUAL:
        if (folder / name).is_file():
            return folder / name
    found = _weights_in(folder)
    if not found:
        raise InputError(
            f"the folder '{folder}' is not a workdir of tljax, and holds no weights file; give a"
            " workdir that holds a trained run, a folder that save_pretrained wrote, or a weights"
            " file"
        )
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:8])
        raise InputError(
            f"the folder '{folder}' holds {len(found)} weights files ({names}), none of which has"
            f" a usual name ({_USUAL[0]}); give the path of one of them"
        )
    return found[0]


def _choose_in_repository(address: str) -> str:
    """The address of the weights file of the usual name in a repository on the hub.

    If one is in the cache it is taken without asking the hub, as files in the cache always are.
    """
    usual = [f"{address}/{name}" for name in _USUAL]
    cached = [file for file in usual if addresses.find_cached(file) is not None]
    if cached or offline_variable():
        return (*cached, usual[0])[0]
    for file in usual:
        if addresses.has_file(file):
            return file
    raise InputError(
        f"the repository '{address}' holds none of {', '.join(_USUAL)}; give the address of its"
        f" weights file, {address}/PATH"
    )


def _read_index(file: Path) -> dict[str, str]:
    """{name of a tensor: name of the file that holds it}, of an index."""
    shards = read_json(file).get("weight_map")
    if (
        not isinstance(shards, dict)
        or not shards
        or not all(isinstance(name, str) and is_weights_name(name) for name in shards.values())
        or any(os.path.basename(name) != name for name in shards.values())
    ):
        raise InputError(
            f"'{file}' does not say which files hold the weights; fetch it again, or give a file"
            " that holds them"
        )
    return shards
