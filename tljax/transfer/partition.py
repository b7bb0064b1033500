"""Splits and merges trees of variables by path, and fills them group by group."""

from collections.abc import Callable, Sequence
from typing import Any

from flax import traverse_util

from tljax.errors import InputError
from tljax.models import lora
from tljax.models.groups import Groups

Tree = dict[str, Any]


def split(tree: Tree, predicate: Callable[[str], bool]) -> tuple[Tree, Tree]:
    """Splits a nested dictionary into the leaves whose path satisfies `predicate`, and the rest.

    Both parts keep the nesting; empty branches are dropped.
    """
    chosen: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for path, leaf in traverse_util.flatten_dict(tree, sep="/").items():
        (chosen if predicate(path) else rest)[path] = leaf
    return (
        traverse_util.unflatten_dict(chosen, sep="/"),
        traverse_util.unflatten_dict(rest, sep="/"),
    )


def merge(*trees: Tree) -> Tree:
    """The union of nested dictionaries with disjoint leaves: the inverse of a partition.

        trained, frozen = plan.partition(params)
        params = tljax.merge(trained, frozen)

    Raises:
      ValueError: if two of the trees have the same leaf.
    """
    merged: dict[str, Any] = {}
    for tree in trees:
        flat = traverse_util.flatten_dict(tree, sep="/")
        if shared := merged.keys() & flat.keys():
            raise ValueError(f"both trees hold {sorted(shared)}")
        merged |= flat
    return traverse_util.unflatten_dict(merged, sep="/")


def initialise(groups: Groups, init: Sequence[str], random: Tree, pretrained: Tree | None) -> Tree:
    """Takes each group's variables from `random` or from `pretrained`, as `init` says.

    Args:
      groups: the model's groups.
      init: for each group, "random" to take it from `random`; else it is taken from `pretrained`.
      random: variables of the model, {"params": ..., "batch_stats": ...}.
      pretrained: variables of a source model with the same groups. Groups that are taken from
        `random` may be missing, or have other shapes (the old head). LoRA's leaves are taken from
        `random` if they are missing: they are new, and have no effect before training.

    Raises:
      InputError: if the plan needs pretrained weights and there are none, or they do not fit; all
        misfits are reported together.
    """
    wanted = [name for name, start in zip(groups.names, init, strict=True) if start != "random"]
    if not wanted:
        return random
    if pretrained is None:
        raise InputError(
            f"this scenario starts from pretrained weights ({wanted[0]} to {wanted[-1]}) but"
            " init_from is not set; set --config.init_from, or use scenario from_scratch"
        )
    source = traverse_util.flatten_dict(pretrained, sep="/")
    filled, misfits = {}, []
    for path, leaf in traverse_util.flatten_dict(random, sep="/").items():
        _, parameter_path = path.split("/", 1)  # without the collection's name
        is_new = lora.is_leaf(path) and path not in source
        if is_new or init[groups.depth(parameter_path)] == "random":
            filled[path] = leaf
        elif path not in source:
            misfits.append(f"{path} is missing")
        elif source[path].shape != leaf.shape:
            misfits.append(f"{path} has shape {source[path].shape} instead of {leaf.shape}")
        else:
            filled[path] = source[path]
    misfits += [
        f"{path} is not in the model; merge LoRA into the kernels first"
        for path in source
        if lora.is_leaf(path) and path not in filled
    ]
    if misfits:
        raise InputError(
            f"the pretrained weights do not fit this model in {len(misfits)} places:"
            f" {'; '.join(misfits[:8])}{' ...' if len(misfits) > 8 else ''}; use the model they"
            " were trained with"
        )
    return traverse_util.unflatten_dict(filled, sep="/")
