"""Compiled programs kept in a run's folder, so that a restart reaches its first step fast."""

import pathlib

import jax

FOLDER = "compiled"
LEAST_S = 0.5  # of compilation, below which a program is not kept


def keep_programs(folder: pathlib.Path) -> None:
    """Keep compiled programs in FOLDER/compiled; JAX_COMPILATION_CACHE_DIR wins.

    JAX names a program by a digest of itself, its options, the versions and the devices: a
    program that changed is compiled anew.
    """
    if jax.config.jax_compilation_cache_dir:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder / FOLDER))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_S)
