"""Bitwise comparison of trees."""

import jax
import numpy as np

from tljax.models.groups import leaf_paths


def same(a, b):
    """Whether two trees have the same structure and the same bits in every leaf."""
    return jax.tree.structure(a) == jax.tree.structure(b) and not changed(a, b)


def changed_paths(before, after):
    """Paths of the leaves whose bits differ; both trees have the same leaves."""
    paths = leaf_paths(before)
    return {paths[place] for place in changed(before, after)}


def changed(before, after):
    """Positions of these leaves in the flattened trees."""
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return [
        place
        for place, (a, b) in enumerate(pairs)
        if np.asarray(a).tobytes() != np.asarray(b).tobytes()
    ]
