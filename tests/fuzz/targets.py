"""The readers under test: whatever the bytes, a right result or one sentence."""

import tempfile
import warnings
from pathlib import Path

import numpy as np

from tljax.checkpoints.read import read, read_metadata
from tljax.data import decode
from tljax.errors import InputError


def image(data: bytes) -> str:
    """What became of an image: `read` or `refused`; any other outcome raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            pixels = decode(data)
        except InputError as error:
            _check_sentence(error)
            return "refused"
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert pixels.size
    return "read"


def checkpoint(data: bytes, suffix: str) -> str:
    """What became of a checkpoint: `read` or `refused`; any other outcome raises."""
    with tempfile.NamedTemporaryFile(suffix=suffix, dir=memory()) as file:
        file.write(data)
        file.flush()
        path = Path(file.name)
        try:
            read_metadata(path)
            contents = read(path)
        except InputError as error:
            _check_sentence(error)
            return "refused"
    for name, tensor in contents.tensors.items():
        assert isinstance(name, str)
        assert isinstance(tensor, np.ndarray)
        assert tensor.dtype.kind in "biufV"
    return "read"


def _check_sentence(error: InputError) -> None:
    assert str(error)
    assert "\n" not in str(error)


def memory() -> str | None:
    """A folder that is no disk, if there is one."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
