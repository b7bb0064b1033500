"""Fixtures that several test files share."""

import gc
import os
import signal

import jax
import numpy as np
import pytest
from PIL import Image

from tljax import config as config_lib

# XLA compiles the small programs of the tests several times as fast without optimization. The laws
# do not depend on it; `XLA_FLAGS= make test` tests with full optimization.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    " --xla_cpu_parallel_codegen_split_count=1",
)

# Where an operation stands in the source is of no use here, and takes a fifth of tracing and
# compiling.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
jax.config.update(
    "jax_traceback_in_locations_limit", int(os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"])
)

# As the command does, see tljax/devices/startup.py: tracing networks makes many objects that stay.
gc.set_threshold(100_000)

# A shell starts jobs in the background with Ctrl-C ignored, and so would the tests' own processes.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The slowest test files, the slowest first.
_LONG = (
    "test_plan_laws.py",
    "test_mesh.py",
    "test_training.py",
    "test_resume.py",
    "test_cli.py",
    "test_bad_input.py",
    "test_parity.py",
    "test_step.py",
)


def pytest_collection_modifyitems(items):
    """Runs slow files first, so that the processes end at about the same time."""
    items.sort(key=lambda item: _LONG.index(name) if (name := item.path.name) in _LONG else 99)
    gc.freeze()  # what is imported stays; no collection needs to look at it


@pytest.fixture(scope="session", autouse=True)
def own_caches(tmp_path_factory, worker_id):
    """All tests and the processes that they start share one compilation cache.

    The tests' features and downloads are not written to the user's home folder.
    """
    base = tmp_path_factory.getbasetemp()
    programs = str((base if worker_id == "master" else base.parent) / "xla")
    jax.config.update("jax_compilation_cache_dir", programs)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", programs)
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.0")
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def tiny_config():
    """Makes the config of a short run: digits, ten steps, the first block of a ResNet.

    As a source it is too short to beat the naive baseline, which `accept_source` allows.
    """

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
                "accept_source": True,
                **({} if "data" in fields else {"val_fraction": 0.05}),
                **({} if "model" in fields else {"last_group": "layer1_0", "image_size": 16}),
                **fields,
            }
        )
        return config

    return make


@pytest.fixture
def photo_folder(tmp_path):
    """A folder for folder:PATH: two classes of eight 40x48 PNGs, without splits."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(("cats", "dogs")):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for i in range(8):
            pixels = rng.integers(0, 128, (40, 48, 3), np.uint8) + 127 * label
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "photos"


@pytest.fixture
def photos(tmp_path):
    """40 images: of ten animals four each, of two classes."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(40):
        pixels = rng.integers(0, 200, (24, 20, 3)) + 50 * (number // 4 % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "images" / f"{number}.png")
    return tmp_path
