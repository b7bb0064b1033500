"""The settings that count as part of a run's environment."""

import os

import jax
import pytest

from tljax.devices.compilation_cache import use_compilation_cache
from tljax.runs.environment import _JAX_SETTINGS, environment, settings


def test_every_setting_is_one_of_jax():
    assert set(_JAX_SETTINGS) <= jax.config.values.keys()


@pytest.mark.parametrize(
    ("flags", "counts"),
    [
        ("--xla_cpu_enable_fast_math=true", "--xla_cpu_enable_fast_math=true"),
        ("  --xla_b=2   --xla_a=1 ", "--xla_a=1 --xla_b=2"),
        ("--xla_a=1 --xla_b --xla_a=2", "--xla_a=2 --xla_b"),
        ("--xla_dump_to=/tmp/x --xla_a=1 --xla_dump_hlo_as_text", "--xla_a=1"),
        ("--xla_force_host_platform_device_count=8", None),
        ("--xla_gpu_cuda_data_dir='/a path/cuda' --xla_a=1", "--xla_a=1"),
        ("--xla_a='open", "--xla_a='open"),
        ("", None),
    ],
)
def test_flags_of_xla_count_if_they_may_change_numbers(flags, counts, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", flags)
    assert settings().get("XLA_FLAGS") == counts


def test_flags_are_read_from_the_file_that_the_variable_names(tmp_path, monkeypatch):
    """XLA does so, too."""
    (tmp_path / "flags").write_text("--xla_b=1\n--xla_a=2\n--xla_dump_to=x\n")
    monkeypatch.setenv("XLA_FLAGS", str(tmp_path / "flags"))
    assert settings()["XLA_FLAGS"] == "--xla_a=2 --xla_b=1"
    monkeypatch.setenv("XLA_FLAGS", str(tmp_path / "none"))
    assert settings()["XLA_FLAGS"] == str(tmp_path / "none")


@pytest.mark.parametrize("name", ["LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE"])
def test_variables_of_libraries_count(name, monkeypatch):
    before = environment()
    monkeypatch.setenv(name, "--a=1")
    assert environment() != before
    assert settings()[name] == "--a=1"


@pytest.mark.parametrize(
    ("context", "name", "value"),
    [
        (
            lambda: jax.default_matmul_precision("highest"),
            "jax_default_matmul_precision",
            "highest",
        ),
        (lambda: jax.enable_x64(True), "jax_enable_x64", True),
        (lambda: jax.disable_jit(), "jax_disable_jit", True),
        (lambda: jax.threefry_partitionable(False), "jax_threefry_partitionable", False),
        (lambda: jax.default_prng_impl("rbg"), "jax_default_prng_impl", "rbg"),
        (lambda: jax.default_device("cpu"), "jax_default_device", "cpu"),
    ],
)
def test_settings_of_jax_count_also_in_a_with_block(context, name, value):
    before = settings()[name]
    with context():
        assert settings()[name] == value
    assert settings()[name] == before != value


def test_settings_that_change_no_number_do_not_count(monkeypatch, tmp_path):
    before = environment()
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", "") + " --xla_dump_to=x")
    with jax.debug_nans(True), jax.log_compiles(True):
        assert environment() == before


@pytest.mark.parametrize(("caches", "folder"), [("", "home/.cache"), ("other", "other")])
def test_programs_are_kept_in_the_caches_of_tljax(caches, folder, monkeypatch, tmp_path):
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: jax.config.values[name] for name in names}
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", caches and str(tmp_path / caches))
    try:
        jax.config.update(names[0], None)
        use_compilation_cache()
        assert jax.config.values[names[0]] == str(tmp_path / folder / "tljax" / "xla")
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
