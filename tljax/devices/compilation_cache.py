"""The folder in which JAX keeps compiled programs between processes."""

from tljax.files import cache_folder


def use_compilation_cache() -> None:
    """Keeps compiled programs on disk, so that a second start is faster.

    The folder is `tljax/xla` in the user's cache, unless `JAX_COMPILATION_CACHE_DIR` names another.
    """
    import jax  # here, so that the command line can import this module without JAX

    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder("xla")))
        # JAX skips programs that compile in less than a second; many of them add up.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
