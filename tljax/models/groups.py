"""Ordered parameter groups: all that the rest of the library knows about an architecture.

A group is a (name, regex on parameter paths) pair; a model lists them from the input to the head,
and the index of a group is its depth. A parameter path is the keys of the nested parameter
dictionary joined by `/`, e.g. `layer1_0/conv1/kernel`; BatchNorm statistics have paths of the same
form and belong to the same groups.
"""

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from tljax.errors import InputError

Modes = bool | Sequence[bool]


@dataclass(frozen=True)
class Groups:
    """The groups of one model, input first, head last.

    Attributes:
      patterns: (name, regex) pairs. A regex is matched at the start of a parameter path.
    """

    patterns: tuple[tuple[str, str], ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.patterns)

    def __len__(self) -> int:
        return len(self.patterns)

    @functools.cache  # noqa: B019  (instances are few, immutable and live as long as the process)
    def depth(self, path: str) -> int:
        """Depth (index) of the group that the parameter at `path` belongs to.

        Raises:
          InputError: if the path is in no group or in several.
        """
        found = [d for d, (_, regex) in enumerate(self.patterns) if re.match(regex, path)]
        if len(found) != 1:
            where = (
                f"several groups ({', '.join(self.names[d] for d in found)})"
                if found
                else f"none of the model's groups ({', '.join(self.names)})"
            )
            raise InputError(
                f"parameter '{path}' is in {where}, but every parameter must be in exactly one;"
                " fix the regexes of the model's groups"
            )
        return found[0]


def path_of(key_path: Sequence[Any]) -> str:
    """A key path of `jax.tree_util` as a string, e.g. `a/b/c`."""
    return jax.tree_util.keystr(tuple(key_path), simple=True, separator="/")


def map_with_path(function: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """`jax.tree.map` that also passes the leaf's path: `function(path, leaf, ...)`."""
    return jax.tree_util.tree_map_with_path(
        lambda key_path, *leaves: function(path_of(key_path), *leaves), tree, *rest
    )


def leaf_paths(tree: Any) -> list[str]:
    """Paths of all leaves, in the order of `jax.tree.leaves`."""
    return [path_of(key_path) for key_path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def depth_range(start: int, stop: int | None, num_groups: int) -> range:
    """The depths from `start` to `stop - 1`; ValueError if the model does not have them all."""
    stop = num_groups if stop is None else stop
    if not 0 <= start <= stop <= num_groups:
        raise ValueError(f"cannot run groups {start} to {stop} of {num_groups}")
    return range(start, stop)


def per_group(modes: Modes, num_groups: int) -> tuple[bool, ...]:
    """One bool per group, from one bool for all groups or from one per group."""
    if isinstance(modes, bool):
        return (modes,) * num_groups
    if len(modes) != num_groups:
        raise ValueError(f"got {len(modes)} modes for {num_groups} groups")
    return tuple(bool(mode) for mode in modes)
