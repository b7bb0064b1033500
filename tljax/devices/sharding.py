"""How arrays are sharded over several devices: a mesh with the axes `data` and `fsdp`.

A batch is sharded over all devices. Parameters, frozen ones included, and the optimizer's state,
which exists for trained parameters only, are either replicated (`data:8`) or cut into `fsdp` pieces
(`data:4,fsdp:2`: fully sharded data parallelism, as in ZeRO stage 3 of Rajbhandari et al. 2020).
Then each device holds one piece, and gathers the whole array where it is used. The numbers are
those of one device, up to the order of sums.

On one device the mesh is None, and nothing is sharded.
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
_SMALL = 2**12  # elements: gathering a smaller leaf costs more than replicating it


def parse(text: str) -> dict[str, int]:
    """Parses axis sizes, e.g. `data:4,fsdp:2`; one size may be -1, for the remaining devices.

    Raises:
      InputError: if the text is not of that form.
    """
    axes = [re.fullmatch(r"\s*(data|fsdp)\s*:\s*(-1|[1-9]\d{0,5})\s*", a) for a in text.split(",")]
    named = {match[1]: int(match[2]) for match in axes if match}
    if len(named) != len(axes) or list(named.values()).count(-1) > 1:
        raise InputError(
            f"mesh is '{text}'; set it to the sizes of its axes data and fsdp, one of them -1 for"
            " the remaining devices, e.g. data:-1 or data:4,fsdp:2"
        )
    return {axis: named.get(axis, 1) for axis in AXES}


def axis_sizes(text: str, devices: int) -> dict[str, int]:
    """Parses axis sizes for a number of devices, with -1 resolved.

    Raises:
      InputError: if the text is malformed, or the sizes do not fit the number of devices.
    """
    wanted = parse(text)
    fixed = int(np.prod([size for size in wanted.values() if size > 0]))
    if devices % fixed or (-1 not in wanted.values() and fixed != devices):
        raise InputError(
            f"mesh is '{text}', which does not fit the number of devices, {devices}; set it to"
            f" data:-1, or to sizes whose product is {devices}"
        )
    return {axis: devices // fixed if size < 0 else size for axis, size in wanted.items()}


def build(text: str, devices: Sequence[jax.Device] | None = None) -> Mesh | None:
    """Builds the mesh, over all devices by default; None if there is only one.

    Raises:
      InputError: if the text is malformed, or the sizes do not fit the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    shape = tuple(axis_sizes(text, len(devices)).values())
    if len(devices) == 1:
        return None
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def device_count(mesh: Mesh | None) -> int:
    """The number of devices of a mesh; 1 for None."""
    return 1 if mesh is None else int(mesh.size)


def check_batch(mesh: Mesh | None, batch_size: int, parts: int | None) -> None:
    """Raises InputError unless each device gets the same number of images in each part."""
    devices, parts = device_count(mesh), parts or 1
    if batch_size % (devices * parts):
        each = f"{devices} devices" + (f" in {parts} parts (accumulate)" if parts > 1 else "")
        raise InputError(
            f"batch_size is {batch_size}, which {each} cannot share evenly; set it to a multiple of"
            f" {devices * parts}"
        )


def parameter_shardings(mesh: Mesh, tree: Any) -> Any:
    """The shardings of parameters, statistics or optimizer state; the leaves may be abstract.

    The largest axis that is divisible by `fsdp` is cut. A small leaf, or one without such an axis,
    is replicated.
    """
    pieces = mesh.shape["fsdp"]

    def sharding(leaf: Any) -> NamedSharding:
        fitting = [n if n % pieces == 0 else 0 for n in leaf.shape]
        if pieces == 1 or int(np.prod(leaf.shape)) < _SMALL or not any(fitting):
            return NamedSharding(mesh, PartitionSpec())
        cut = fitting.index(max(fitting))
        return NamedSharding(mesh, PartitionSpec(*[None] * cut, "fsdp"))

    return jax.tree.map(sharding, tree)


def batch_sharding(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """The sharding of arrays with the batch along `axis`: over all devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXES))


def place(mesh: Mesh | None, tree: Any) -> Any:
    """Puts arrays on the devices, under `parameter_shardings`; every process passes whole arrays.

    Without a mesh it puts them on the one device, or every call of a compiled function would copy
    NumPy arrays there.
    """
    if mesh is None:
        return jax.device_put(tree)

    def put(leaf: Any, sharding: NamedSharding) -> jax.Array:
        whole = np.asarray(leaf)
        # copied, because JAX uses this memory for the array, and a step may donate it
        return jax.make_array_from_callback(
            whole.shape, sharding, lambda index: np.array(whole[index])
        )

    return jax.tree.map(put, tree, parameter_shardings(mesh, tree))


def uncommit(mesh: Mesh | None, tree: Any) -> Any:
    """Without a mesh, turns arrays that are committed to the device into NumPy arrays.

    JAX would compile the same function again for committed arrays.
    """
    if mesh is not None:
        return tree
    return jax.tree.map(
        lambda leaf: np.asarray(leaf) if getattr(leaf, "committed", False) else leaf, tree
    )


def place_abstract(mesh: Mesh | None, tree: Any) -> Any:
    """As `place`, for abstract arrays: gives them their shardings."""
    if mesh is None:
        return tree
    return jax.tree.map(_with_sharding, tree, parameter_shardings(mesh, tree))


def place_abstract_batch(mesh: Mesh | None, batch: Any) -> Any:
    """As `place_batch`, for abstract arrays with all rows of the batch."""
    if mesh is None:
        return batch
    return jax.tree.map(functools.partial(_with_sharding, sharding=batch_sharding(mesh)), batch)


def _with_sharding(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def constrain(mesh: Mesh | None, tree: Any) -> Any:
    """In a jitted function, constrains arrays to their `parameter_shardings`."""
    if mesh is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, parameter_shardings(mesh, tree))


def rows_here(mesh: Mesh | None, count: int) -> np.ndarray:
    """The rows of a batch of `count` rows that this process has to read, ascending."""
    if mesh is None:
        return np.arange(count)
    indices = batch_sharding(mesh).addressable_devices_indices_map((count,)).values()
    every = np.arange(count)
    return np.unique(np.concatenate([every[index] for index in indices if index is not None]))


def place_batch(mesh: Mesh | None, batch: Any, count: int) -> Any:
    """Shards a batch of `count` rows over all devices; each process passes its `rows_here`."""
    if mesh is None:
        return batch
    sharding = batch_sharding(mesh)
    return jax.tree.map(
        lambda rows: jax.make_array_from_process_local_data(
            sharding, rows, (count, *rows.shape[1:])
        ),
        batch,
    )


def gather_to_host(tree: Any) -> Any:
    """Returns whole NumPy arrays, in every process; a collective in a job of several processes.

    Arrays that are sharded over several hosts are gathered one at a time, so that a device needs
    memory for only one more whole array. That, and a copy of everything on each host, is fine for
    models of up to a billion parameters.
    """

    def fetch(leaf: Any) -> np.ndarray:
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, NamedSharding) and not (
            leaf.is_fully_addressable or leaf.is_fully_replicated
        ):
            whole = NamedSharding(sharding.mesh, PartitionSpec())
            leaf = jax.jit(_identity, out_shardings=whole)(leaf)
        return np.asarray(leaf)

    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array) and leaf.is_fully_addressable:
            leaf.copy_to_host_async()  # starts all copies before the first is awaited
    return jax.tree.map(fetch, tree)


def _identity(leaf: jax.Array) -> jax.Array:
    return leaf
