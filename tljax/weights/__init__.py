"""Pretrained weights: find, read, rename, fit and export them.

`zoo` lists the weights known by name. `addresses` and `download` find a file, `read` reads its
tensors, `rules` and `families` rename them, `fitting` adapts them to a model, `export` writes them.
`loading` connects these steps. `preprocessing` finds how their images are prepared.
"""

from tljax.weights.loading import (
    PretrainedWeights,
    absolute,
    as_path,
    check_model,
    fetch,
    from_variables,
    load,
    variables_for,
)
from tljax.weights.preprocessing import find_preprocessing

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
