"""Errors that fuzzing found, and a short run of it: see `tests/fuzz`."""

import io
import json
import math
import struct
import zipfile

import h5py
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save

from tests.fuzz import seeds, targets
from tests.fuzz.mutate import mutated, with_checksums
from tljax.config import base
from tljax.data import decode
from tljax.errors import InputError
from tljax.experiment import read_config
from tljax.runs.answers import Answers, pack_answers, read_answers
from tljax.runs.metrics import read_rows
from tljax.weights import find_preprocessing
from tljax.weights.read import read

_OFTEN = ("image", ".safetensors", ".npz", "preprocessing", "metrics", "config", "table", "choices")


@pytest.mark.parametrize("target", targets.TARGETS)
def test_the_valid_files_are_read(target):
    for content in seeds.of(target):
        assert targets.outcome(target, content) == "read"


@pytest.mark.parametrize(
    ("target", "count"), [*((target, 300) for target in _OFTEN), ("names", 60), (".h5", 6)]
)
def test_mutated_files_are_right_or_refused(target, count):
    files, rng = seeds.of(target), np.random.default_rng(1)
    for _ in range(count):
        base, other = (files[i] for i in rng.integers(len(files), size=2))
        targets.outcome(target, mutated(base, other, rng))


def test_a_palette_image_without_its_palette():
    """Pillow raises an AssertionError for it."""
    buffer = io.BytesIO()
    Image.new("P", (4, 4)).save(buffer, "PNG")
    content = buffer.getvalue()
    start = content.index(b"PLTE") - 4
    end = content.index(b"IDAT") - 4
    with pytest.raises(InputError, match="truncated or not"):
        decode(with_checksums(content[:start] + content[end:]))


def test_a_file_among_the_arrays_of_an_npz(tmp_path):
    """numpy returns such a member as bytes."""
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("notes.txt", "no array")
    with pytest.raises(InputError, match=r"'notes.txt', which is not a tensor of numbers"):
        read(tmp_path / "a.npz")


def test_words_among_the_arrays_of_an_npz(tmp_path):
    np.savez(tmp_path / "a.npz", names=np.array(["conv1", "bn1"]))
    with pytest.raises(InputError, match="'names', which is not a tensor of numbers"):
        read(tmp_path / "a.npz")


def test_archives_that_would_fill_the_memory(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(10**8, np.uint8))
    with pytest.raises(InputError, match=r"100,000,1.. bytes of tensors in a file of"):
        read(tmp_path / "a.npz")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("a", (2**20, 2**20), np.float32, chunks=(1024, 1024))
    with pytest.raises(InputError, match="times its size"):
        read(tmp_path / "a.h5")


def test_predictions_that_would_fill_the_memory(tmp_path):
    arrays = {"images": 1, "labels": 1, "predicted": 1, "confidences": 1, "probabilities": 10**8}
    zeros = {name: np.zeros(size, np.uint8) for name, size in arrays.items()}
    np.savez_compressed(tmp_path / "predictions.npz", **zeros)
    with pytest.raises(InputError, match=r"100,000,\d+ bytes of arrays in a file of"):
        read_answers(tmp_path)


def test_predictions_that_are_all_the_same_are_read_back(tmp_path):
    """They compress as well as a bomb does."""
    zeros = np.zeros(20_000, np.int32)
    probabilities = np.zeros((20_000, 1000), np.float16)
    content = pack_answers(Answers(zeros, zeros, zeros, probabilities, zeros.astype(np.float32)))
    (tmp_path / "predictions.npz").write_bytes(content)
    assert read_answers(tmp_path).probabilities.shape == (20_000, 1000)


def test_hdf5_may_not_lead_to_other_files(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(16))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("a", (16,), np.uint8, external=[(str(tmp_path / "secret"), 0, 16)])
    with pytest.raises(InputError, match="lies in another file"):
        read(tmp_path / "a.h5")


def test_numbers_of_a_kind_that_numpy_has_not(tmp_path):
    """safetensors raises an AttributeError for it."""
    header = json.dumps({"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(InputError, match="float8"):
        read(tmp_path / "a.safetensors")


@pytest.mark.parametrize("damage", ["header", "packing"])
def test_damage_that_numpy_and_zipfile_leave_to_others(tmp_path, damage):
    """tokenize raises a TokenError, and lzma an LZMAError."""
    packing = zipfile.ZIP_LZMA if damage == "packing" else zipfile.ZIP_STORED
    array = io.BytesIO()
    np.save(array, np.zeros(4))
    content = array.getvalue()
    if damage == "header":
        content = content.replace(b"'shape': (4,)", b"'shape': (4,(")
    with zipfile.ZipFile(tmp_path / "a.npz", "w", packing) as archive:
        archive.writestr("a.npy", content)
        start = archive.getinfo("a.npy").header_offset + 30 + len("a.npy")
    if damage == "packing":
        whole = bytearray((tmp_path / "a.npz").read_bytes())
        whole[start + 4 : start + 9] = b"\xff" * 5  # the properties of the LZMA stream
        (tmp_path / "a.npz").write_bytes(whole)
    with pytest.raises(InputError, match=r"a\.npz"):
        read(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("image_size", [32]), ("image_size", [32, 32, 3]), ("image_size", 2**62)),
        *(("image_size", "32"), ("mean", [math.nan] * 3), ("std", ["a"] * 3), ("crop_ratio", "1")),
    ],
)
def test_odd_preprocessing_in_a_header(tmp_path, field, value):
    fields = {"image_size": 32, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}
    header = json.dumps({**fields, "crop_ratio": 1, field: value})
    path = tmp_path / "a.safetensors"
    tensors = {"a": np.zeros(1, np.float32)}
    path.write_bytes(save(tensors, {"format": "tljax", "preprocessing": header}))
    if value == [32]:
        assert find_preprocessing(str(path)).height_width == (32, 32)
        return
    with pytest.raises(InputError, match=field):
        find_preprocessing(str(path))


def test_json_beyond_all_bounds(tmp_path):
    """Python raises a RecursionError or an OverflowError."""
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="nested too deep"):
        read_config(tmp_path)
    config = base().to_dict() | {"lr": 10**400}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="sets lr to 1000"):
        read_config(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("[" * 100_000 + "\n{}\n")
    with pytest.raises(InputError, match="line 1"):
        read_rows(tmp_path / "metrics.jsonl")
