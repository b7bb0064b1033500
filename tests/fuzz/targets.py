"""The readers under test: any bytes give a valid result or an error of one sentence."""

import json
import math
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from tests.fuzz.seeds import TABLE_IMAGES, weights_files
from tljax import experiment
from tljax.data import decode, load
from tljax.data.sources import weights_of
from tljax.errors import InputError
from tljax.models import Preprocessing
from tljax.runs.metrics import read_rows
from tljax.weights import find_preprocessing
from tljax.weights.folders import fetch_weights
from tljax.weights.loading import convert
from tljax.weights.read import Contents, read, read_metadata


def outcome(target: str, data: bytes) -> str:
    """The outcome of an input, `read` or `refused`; raises on any other."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        if target == "image":  # its warnings are filtered out, for loader threads
            warnings.simplefilter("ignore")
        try:
            result = TARGETS[target](data)
        except InputError as error:
            result = _refused(error)
        assert not warned, warned[0]
    return result


def image(data: bytes) -> str:
    pixels = decode(data, deep="own_range")  # which reads more than `full_range`
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert pixels.size
    return "read"


def weights_file(data: bytes, suffix: str) -> str:
    with tempfile.TemporaryDirectory(dir=memory()) as folder:
        path = Path(folder) / f"weights{suffix}"
        path.write_bytes(data)
        contents = read(path)
        assert read_metadata(path) == contents.metadata
        for name, tensor in contents.tensors.items():
            assert isinstance(name, str)
            assert isinstance(tensor, np.ndarray)
            assert tensor.dtype.kind in "biuf" or tensor.dtype.name == "bfloat16"
            tensor.tobytes()  # raises if data is missing
        _check(find_preprocessing(str(path)))
    return "read"


def preprocessing(data: bytes) -> str:
    """Reads `data` as our header and as the JSON files of timm's and transformers' weights."""
    outcomes = set()
    with tempfile.TemporaryDirectory(dir=memory()) as folder:
        weights = Path(folder) / "weights.safetensors"
        header = {"format": "tljax", "preprocessing": data.decode(errors="replace")}
        weights.write_bytes(save({"a": np.zeros(1, np.float32)}, header))
        outcomes.add(_told(weights))
        weights = weights.with_suffix(".npz")
        weights.write_bytes(weights_files()[".npz"][0])
        for name in ("config.json", "preprocessor_config.json"):
            beside = weights.with_name(name)
            beside.write_bytes(data)
            outcomes.add(_told(weights))
            beside.unlink()
    return "read" if "read" in outcomes else "refused"


def names(data: bytes) -> str:
    """Finds a network among tensors of these names and shapes, JSON {name: shape}."""
    try:
        shapes = json.loads(data)
        tensors = {
            name: np.broadcast_to(np.float32(0), shape)
            for name, shape in shapes.items()
            if isinstance(shape, list)
        }
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise InputError("no names and shapes") from None
    found = convert(Contents(tensors, {}), "resnet10_32", "names")
    assert found.num_classes >= 0
    assert all(array.dtype == np.float32 for array in found.arrays.values())
    return "read"


def index(data: bytes) -> str:
    """Reads an index of shards."""
    with tempfile.TemporaryDirectory(dir=memory()) as folder:
        for name in ("model-1.safetensors", "model-2.safetensors"):
            (Path(folder) / name).write_bytes(save({name: np.zeros(1, np.float32)}))
        path = Path(folder) / "model.safetensors.index.json"
        path.write_bytes(data)
        files = fetch_weights(str(path))
        assert files.names
        assert all(file.parent == Path(folder) for file in files.paths)
    return "read"


def metrics(data: bytes) -> str:
    with tempfile.TemporaryDirectory(dir=memory()) as folder:
        path = Path(folder) / "metrics.jsonl"
        path.write_bytes(data)
        rows = read_rows(path)
        assert all(isinstance(row, dict) and {"event", "step"} <= set(row) for row in rows)
    return "read"


def config(data: bytes) -> str:
    with tempfile.TemporaryDirectory(dir=memory()) as folder:
        (Path(folder) / "config.json").write_bytes(data)
        json.loads(experiment.read_config(Path(folder)).to_json())
    return "read"


def table(data: bytes) -> str:
    """Reads a table of images that are there, as the seeds name them."""
    return _read_table(data, "")


def choices(data: bytes) -> str:
    """Reads such a table with the choices that stand in the first line."""
    first, _, rest = data.decode(errors="replace").partition("\n")
    return _read_table(rest.encode(), f"?{first}")


def _read_table(content: bytes, chosen: str) -> str:
    with tempfile.TemporaryDirectory(dir=memory()) as folder:
        for name in TABLE_IMAGES:
            (Path(folder) / name).touch()
        path = Path(folder) / "table.csv"
        path.write_bytes(content)
        dataset = load(f"csv:{path}{chosen}", test_only=True)
        assert dataset.test is not None
        assert len(set(dataset.class_names)) == dataset.num_classes > 0
        for source in (dataset.train, dataset.test):
            labels = source.labels
            if dataset.kind == "classes":
                assert set(labels.tolist()) <= set(range(dataset.num_classes))
                continue
            assert labels.shape == (len(source), dataset.num_classes)
            assert np.isfinite(labels).all()
            assert dataset.kind == "regression" or set(labels.flat) <= {0, 1}
        weights = weights_of(dataset.test)
        assert weights is None or (np.isfinite(weights) & (weights > 0)).all()
    return "read"


def _told(weights: Path) -> str:
    try:
        return "read" if _check(find_preprocessing(str(weights))) else "nothing"
    except InputError as error:
        return _refused(error)


def _refused(error: InputError) -> str:
    sentence = str(error)
    assert sentence
    assert "\n" not in sentence
    return "refused"


def _check(told: Preprocessing | None) -> bool:
    if told is None:
        return False
    assert all(type(side) is int and 0 < side < 2**16 for side in told.height_width)
    assert len(told.mean) == len(told.std) == 3
    assert all(type(x) is float and math.isfinite(x) for x in (*told.mean, *told.std))
    assert 0 < told.crop_ratio <= 1
    return hash(told) == hash(told)


def memory() -> str | None:
    """A folder in memory, if there is one."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


TARGETS: dict[str, Callable[[bytes], str]] = {
    "image": image,
    ".safetensors": lambda data: weights_file(data, ".safetensors"),
    ".npz": lambda data: weights_file(data, ".npz"),
    ".h5": lambda data: weights_file(data, ".h5"),
    "preprocessing": preprocessing,
    "names": names,
    "index": index,
    "metrics": metrics,
    "config": config,
    "table": table,
    "choices": choices,
}
