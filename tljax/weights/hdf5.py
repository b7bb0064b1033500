"""Keras's HDF5 files, read in a process of its own, which may die over them.

HDF5's C library goes through a damaged file for ever, or takes all the memory there is, or crashes.
So this file is run as a program, with a limit on memory and time; it copies the numbers of an HDF5
file into a safetensors file. It imports nothing of tljax, to start quickly.
"""

import resource
import subprocess
import sys
from pathlib import Path

_MEMORY = 2**32  # bytes, beside those of the tensors
_EXPANSION = 64  # tensors may take so many times the file's size, which weights do not
_SMALL = 2**24  # or so many bytes
_SECONDS = 30  # of computing, beside one for every 10 MB


class DamagedHdf5(Exception):
    """It is no HDF5 file of numbers; the reason in a few words."""


def largest(size: int) -> int:
    """Bytes of tensors that a weights file of `size` bytes may hold, compressed or not."""
    return _SMALL + _EXPANSION * size


def convert(source: Path, target: Path) -> None:
    """Writes the datasets of an HDF5 file as a safetensors file, under their paths.

    Raises:
      DamagedHdf5: if they cannot be read, or are more than a file of that size can hold.
    """
    program = [sys.executable, "-I", __file__, str(source.absolute()), str(target.absolute())]
    done = subprocess.run(program, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise DamagedHdf5(said[-1] if done.returncode == 1 and said else "HDF5 broke down over it")


def _limit_ourselves(size: int) -> None:
    for what, wanted in (
        (resource.RLIMIT_AS, _MEMORY + 4 * size),
        (resource.RLIMIT_CPU, _SECONDS + size // 10**7),
        (resource.RLIMIT_CORE, 0),
    ):
        _, most = resource.getrlimit(what)
        wanted = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        resource.setrlimit(what, (wanted, most))


def copy(source: str, target: str) -> None:
    """What the program does; leaves its process limited."""
    size = Path(source).stat().st_size
    _limit_ourselves(size)
    import h5py
    import numpy as np
    from safetensors.numpy import save_file

    tensors: dict[str, np.ndarray] = {}
    left = largest(size)

    def keep(name: str, item: object) -> None:
        nonlocal left
        if not isinstance(item, h5py.Dataset):
            return
        if item.is_virtual or item.external:
            raise ValueError(f"{name!r} lies in another file")
        if item.dtype.kind not in "biuf":
            raise ValueError(f"{name!r} is no tensor of numbers")
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
