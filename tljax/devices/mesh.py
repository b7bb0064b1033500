"""Where arrays lie when there are several devices: a mesh of `data` by `fsdp`.

A batch is spread over all devices. Parameters, frozen ones too, and the optimizer's state, which
exists for the trained ones alone, lie whole on every device (`data:8`), or are cut into `fsdp`
pieces (`data:4,fsdp:2`: fully sharded data parallelism, as ZeRO stage 3 of Rajbhandari et al.
2020): each device then holds a piece, and gathers the whole where it is used. The numbers are those
of one device, up to the order of sums.

On one device there is no mesh: None stands for it, and nothing is laid out.
"""

import functools
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tljax.errors import InputError

AXES = ("data", "fsdp")
_SMALL = 2**12  # elements: a leaf of fewer is not worth gathering


def parse(text: str) -> dict[str, int]:
    """The sizes of the axes of e.g. `data:4,fsdp:2`, of which one may be -1: what is left.

    Raises:
      InputError: if it is not of that form.
    """
    axes = [re.fullmatch(r"\s*(data|fsdp)\s*:\s*(-1|[1-9]\d{0,5})\s*", a) for a in text.split(",")]
    named = {match[1]: int(match[2]) for match in axes if match}
    if len(named) != len(axes) or list(named.values()).count(-1) > 1:
        raise InputError(
            f"mesh is '{text}'; set it to the sizes of its axes data and fsdp, one of them -1 for"
            " what is left, e.g. data:-1 or data:4,fsdp:2"
        )
    return {axis: named.get(axis, 1) for axis in AXES}


def sizes(text: str, devices: int) -> dict[str, int]:
    """As `parse`, with so many devices shared out.

    Raises:
      InputError: if that is not possible.
    """
    wanted = parse(text)
    fixed = int(np.prod([size for size in wanted.values() if size > 0]))
    if devices % fixed or (-1 not in wanted.values() and fixed != devices):
        raise InputError(
            f"mesh is '{text}', which does not fit the number of devices, {devices}; set it to"
            " data:-1, or to sizes whose product that is"
        )
    return {axis: devices // fixed if size < 0 else size for axis, size in wanted.items()}


def build(text: str, devices: Sequence[jax.Device] | None = None) -> Mesh | None:
    """The mesh of that form over all devices; None if there is one.

    Raises:
      InputError: if it is of another form, or for another number of devices.
    """
    devices = jax.devices() if devices is None else devices
    shape = tuple(sizes(text, len(devices)).values())
    if len(devices) == 1:
        return None
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def size(mesh: Mesh | None) -> int:
    """Number of devices."""
    return 1 if mesh is None else int(mesh.size)


def check_batch(mesh: Mesh | None, batch_size: int, parts: int | None) -> None:
    """Raises InputError unless every device gets the same number of images of every part."""
    devices, parts = size(mesh), parts or 1
    if batch_size % (devices * parts):
        each = f"{devices} devices" + (f" in {parts} parts (accumulate)" if parts > 1 else "")
        raise InputError(
            f"batch_size is {batch_size}, which {each} cannot share evenly; set it to a multiple of"
            f" {devices * parts}"
        )


def parameter_shardings(mesh: Mesh, tree: Any) -> Any:
    """A tree of them, of parameters, statistics or optimizer state, which may be abstract.

    The largest axis that `fsdp` divides is cut; a small leaf, or one without such an axis, lies
    whole on every device.
    """
    pieces = mesh.shape["fsdp"]

    def of(leaf: Any) -> NamedSharding:
        fitting = [n if n % pieces == 0 else 0 for n in leaf.shape]
        if pieces == 1 or int(np.prod(leaf.shape)) < _SMALL or not any(fitting):
            return NamedSharding(mesh, PartitionSpec())
        cut = fitting.index(max(fitting))
        return NamedSharding(mesh, PartitionSpec(*[None] * cut, "fsdp"))

    return jax.tree.map(of, tree)


def batch_sharding(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Of arrays that have the batch along `axis`: spread over all devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXES))


def bytes_per_device(mesh: Mesh, tree: Any) -> int:
    """Of a tree of arrays, which may be abstract, under `parameter_shardings`."""
    shardings = jax.tree.leaves(parameter_shardings(mesh, tree))
    return sum(
        int(np.prod(sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
        for leaf, sharding in zip(jax.tree.leaves(tree), shardings, strict=True)
    )


def place(mesh: Mesh | None, tree: Any) -> Any:
    """Puts arrays, of which every process has the whole, under their `parameter_shardings`.

    On one device too: NumPy's would come to it with every call of a compiled function.
    """
    if mesh is None:
        return jax.device_put(tree)

    def put(leaf: Any, sharding: NamedSharding) -> jax.Array:
        whole = np.asarray(leaf)
        # copied: the memory is given to the array, which a step may consume
        return jax.make_array_from_callback(
            whole.shape, sharding, lambda index: np.array(whole[index])
        )

    return jax.tree.map(put, tree, parameter_shardings(mesh, tree))


def untied(mesh: Mesh | None, tree: Any) -> Any:
    """Arrays that are tied to the one device (committed, in JAX's words) as NumPy's.

    For them a function is compiled anew, though it is the same program.
    """
    if mesh is not None:
        return tree
    return jax.tree.map(
        lambda leaf: np.asarray(leaf) if getattr(leaf, "committed", False) else leaf, tree
    )


def placed(mesh: Mesh | None, tree: Any) -> Any:
    """The abstract arrays that `place` would make of abstract ones."""
    if mesh is None:
        return tree
    return jax.tree.map(_laid_out, tree, parameter_shardings(mesh, tree))


def batch_placed(mesh: Mesh | None, batch: Any) -> Any:
    """The abstract arrays that `spread` would make of an abstract batch, all of its rows."""
    if mesh is None:
        return batch
    return jax.tree.map(functools.partial(_laid_out, sharding=batch_sharding(mesh)), batch)


def _laid_out(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def constrain(mesh: Mesh | None, tree: Any) -> Any:
    """Within a compiled function: the arrays are to lie under their `parameter_shardings`."""
    if mesh is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, parameter_shardings(mesh, tree))


def rows_here(mesh: Mesh | None, count: int) -> np.ndarray:
    """Which rows of a batch of `count` this process has to read, ascending."""
    if mesh is None:
        return np.arange(count)
    indices = batch_sharding(mesh).addressable_devices_indices_map((count,)).values()
    every = np.arange(count)
    return np.unique(np.concatenate([every[index] for index in indices if index is not None]))


def spread(mesh: Mesh | None, batch: Any, count: int) -> Any:
    """A batch of `count` rows over all devices, from the rows that each process has read."""
    if mesh is None:
        return batch
    sharding = batch_sharding(mesh)
    return jax.tree.map(
        lambda rows: jax.make_array_from_process_local_data(
            sharding, rows, (count, *rows.shape[1:])
        ),
        batch,
    )


def on_host(tree: Any) -> Any:
    """Whole NumPy arrays, in every process.

    What lies in pieces on several hosts is gathered leaf by leaf, so that a device has to hold one
    whole leaf more. That, and a copy of everything on each host, is fine for models up to a billion
    parameters.
    """

    def fetch(leaf: Any) -> np.ndarray:
        pieces = getattr(leaf, "sharding", None)
        if isinstance(pieces, NamedSharding) and not (
            leaf.is_fully_addressable or leaf.is_fully_replicated
        ):
            whole = NamedSharding(pieces.mesh, PartitionSpec())
            leaf = jax.jit(_same, out_shardings=whole)(leaf)
        return np.asarray(leaf)

    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array) and leaf.is_fully_addressable:
            leaf.copy_to_host_async()  # all of them at once
    return jax.tree.map(fetch, tree)


def _same(leaf: jax.Array) -> jax.Array:
    return leaf
