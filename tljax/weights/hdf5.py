"""Reads Keras's HDF5 files in a separate process, because damaged files can crash it.

On a damaged file, HDF5's C library may loop forever, use all memory or crash. This file is
therefore run as a program with limits on memory and time; it copies the tensors of an HDF5 file to
a safetensors file. It imports nothing from tljax, so that it starts quickly.
"""

import resource
import subprocess
import sys
from pathlib import Path

_MEMORY = 2**32  # bytes, in addition to four times the file's size
_EXPANSION = 64  # tensors may have this many times the file's size (weights compress far less)
_SMALL = 2**24  # bytes that the tensors of any file may have
_SECONDS = 30  # of CPU time, in addition to one for every 10 MB


class DamagedHdf5(Exception):
    """The file is not an HDF5 file of numbers; the message is the reason in a few words."""


def max_tensor_bytes(size: int) -> int:
    """Returns how many bytes of tensors a weights file of `size` bytes may hold, compressed or not.

    More than that are taken for a decompression bomb.
    """
    return _SMALL + _EXPANSION * size


def convert(source: Path, target: Path) -> None:
    """Writes the datasets of an HDF5 file to a safetensors file, named by their paths.

    Raises:
      DamagedHdf5: if they cannot be read, or exceed `max_tensor_bytes`.
    """
    program = [sys.executable, "-I", __file__, str(source.absolute()), str(target.absolute())]
    done = subprocess.run(program, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise DamagedHdf5(lines[-1] if done.returncode == 1 and lines else "HDF5 crashed on it")


def _limit_this_process(size: int) -> None:
    """Limits memory and CPU time for a file of `size` bytes, and forbids core dumps."""
    for limited, wanted in (
        (resource.RLIMIT_AS, _MEMORY + 4 * size),
        (resource.RLIMIT_CPU, _SECONDS + size // 10**7),
        (resource.RLIMIT_CORE, 0),
    ):
        _, most = resource.getrlimit(limited)
        wanted = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        resource.setrlimit(limited, (wanted, most))


def copy(source: str, target: str) -> None:
    """Copies the tensors; the limits on this process remain."""
    size = Path(source).stat().st_size
    _limit_this_process(size)
    import h5py
    import numpy as np
    from safetensors.numpy import save_file

    tensors: dict[str, np.ndarray] = {}
    left = max_tensor_bytes(size)

    def keep(name: str, item: object) -> None:
        nonlocal left
        if not isinstance(item, h5py.Dataset):
            return
        if item.is_virtual or item.external:
            raise ValueError(f"{name!r} lies in another file")
        if item.dtype.kind not in "biuf":
            raise ValueError(f"{name!r} is not a tensor of numbers")
        left -= item.nbytes
        if left < 0:
            raise ValueError(f"its tensors would take more than {_EXPANSION} times its size")
        tensors[str(name)] = np.ascontiguousarray(item[()])

    with h5py.File(source, "r") as file:
        file.visititems(keep)
    save_file(tensors, target)


if __name__ == "__main__":
    try:
        copy(*sys.argv[1:])
    except Exception as error:
        sys.exit(" ".join([type(error).__name__, *str(error).splitlines()[:1]]))
