"""Pretrained weights: find, read, rename, fit and export them.

`zoo` lists the weights known by name. `addresses`, `folders` and `download` find the files, `read`
reads their tensors, `unwrapping` finds the network among them, `rules` and `families` rename them,
`fitting` adapts them to a model, `export` writes them. `loading` connects these steps.
`preprocessing` finds how their images are prepared.
"""

from tljax.weights.folders import holds_weights
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
    "holds_weights",
    "load",
    "variables_for",
]
