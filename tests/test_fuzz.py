"""What fuzzing found, and a little more of it: see `tests/fuzz`."""

import io
import zipfile

import h5py
import numpy as np
import pytest
from PIL import Image

from tests.fuzz import seeds, targets
from tests.fuzz.mutate import mutated, with_checksums
from tljax.checkpoints.read import read
from tljax.data import decode
from tljax.errors import InputError


def test_the_valid_files_are_read():
    for content in seeds.images():
        assert targets.image(content) == "read"
    for suffix, files in seeds.checkpoints().items():
        for content in files:
            assert targets.checkpoint(content, suffix) == "read"


def test_mutated_images_are_right_or_refused():
    files, rng = seeds.images(), np.random.default_rng(0)
    outcomes = {
        targets.image(mutated(*(files[i] for i in rng.integers(len(files), size=2)), rng))
        for _ in range(500)
    }
    assert outcomes == {"read", "refused"}


@pytest.mark.parametrize(("suffix", "count"), [(".safetensors", 300), (".npz", 300), (".h5", 6)])
def test_mutated_checkpoints_are_right_or_refused(suffix, count):
    files, rng = seeds.checkpoints()[suffix], np.random.default_rng(1)
    for _ in range(count):
        targets.checkpoint(mutated(files[rng.integers(2)], files[rng.integers(2)], rng), suffix)


def test_a_palette_image_without_its_palette():
    """Pillow raises an AssertionError."""
    buffer = io.BytesIO()
    Image.new("P", (4, 4)).save(buffer, "PNG")
    content = buffer.getvalue()
    start = content.index(b"PLTE") - 4
    end = content.index(b"IDAT") - 4
    with pytest.raises(InputError, match="truncated or not"):
        decode(with_checksums(content[:start] + content[end:]))


def test_a_file_among_the_arrays_of_an_npz(tmp_path):
    """numpy gives its bytes."""
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("notes.txt", "no array")
    with pytest.raises(InputError, match=r"'notes.txt', which is no tensor of numbers"):
        read(tmp_path / "a.npz")


def test_words_among_the_arrays_of_an_npz(tmp_path):
    np.savez(tmp_path / "a.npz", names=np.array(["conv1", "bn1"]))
    with pytest.raises(InputError, match="'names', which is no tensor of numbers"):
        read(tmp_path / "a.npz")


def test_archives_that_would_fill_the_memory(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(10**8, np.uint8))
    with pytest.raises(InputError, match=r"100,000,1.. bytes of tensors in a file of"):
        read(tmp_path / "a.npz")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("a", (2**20, 2**20), np.float32, chunks=(1024, 1024))
    with pytest.raises(InputError, match="times its size"):
        read(tmp_path / "a.h5")


def test_hdf5_may_not_lead_to_other_files(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(16))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("a", (16,), np.uint8, external=[(str(tmp_path / "secret"), 0, 16)])
    with pytest.raises(InputError, match="lies in another file"):
        read(tmp_path / "a.h5")
