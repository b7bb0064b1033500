"""Pretrained checkpoints: find them, read them, rename them by tables, fit them, give them back.

`hub` finds a file, `read` its tensors, `rules` and `families` their places in our models, `fitting`
what the model at hand wants of them, `export` the way back. `zoo` is what is known by name.
"""

from tljax.weights.loading import (
    Checkpoint,
    absolute,
    as_path,
    check_model,
    fetch,
    load,
    of_variables,
    preprocessing_of,
    variables_for,
)

__all__ = [
    "Checkpoint",
    "absolute",
    "as_path",
    "check_model",
    "fetch",
    "load",
    "of_variables",
    "preprocessing_of",
    "variables_for",
]
