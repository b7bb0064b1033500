"""Pretrained weights: find, read, rename, fit and export them.

`hub` finds a file, `read` its tensors, `rules` and `families` their places in our models, `fitting`
what the model at hand wants of them, `export` the way back. `zoo` is what is known by name.
"""

from tljax.weights.loading import (
    PretrainedWeights,
    absolute,
    as_path,
    check_model,
    fetch,
    find_preprocessing,
    from_variables,
    load,
    variables_for,
)

__all__ = [
    "PretrainedWeights",
    "absolute",
    "as_path",
    "check_model",
    "fetch",
    "find_preprocessing",
    "from_variables",
    "load",
    "variables_for",
]
