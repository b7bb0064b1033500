"""Small real things that several test files share."""

import os

import jax
import numpy as np
import pytest
from PIL import Image

from tljax import config as config_lib


@pytest.fixture(scope="session", autouse=True)
def shared_compilation_cache(tmp_path_factory, worker_id):
    """Tests and their worker processes compile a program once between them."""
    base = tmp_path_factory.getbasetemp()
    jax.config.update(
        "jax_compilation_cache_dir",
        str((base if worker_id == "master" else base.parent) / "xla"),
    )
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Features and downloads of the tests are not kept in anybody's home."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture
def tiny_config():
    """A run of a few seconds: digits, ten steps."""

    def make(**fields):
        config = config_lib.base()
        config.update(
            {
                "data": "embedded:digits",
                "scenario": "from_scratch",
                "train_size": 40,
                "steps": 10,
                "batch_size": 16,
                "eval_every": 4,
                "log_every": 2,
                "lr": 0.05,
                "augment": "crop",
                **fields,
            }
        )
        return config

    return make


@pytest.fixture
def photo_folder(tmp_path):
    """folder:PATH with two classes of eight 40x48 PNGs, one level."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(("cats", "dogs")):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for i in range(8):
            pixels = rng.integers(0, 128, (40, 48, 3), np.uint8) + 127 * label
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "photos"
