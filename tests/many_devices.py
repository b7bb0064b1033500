"""What eight devices make of a step and of an evaluation, beside what one of them does: JSON.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.many_devices

A process of its own, because the number of devices is settled when JAX starts.
"""

import dataclasses
import json
import sys

import jax
import numpy as np

from tests.test_plan_laws import NETWORKS, PREPROCESSING, network
from tljax import data as data_lib
from tljax.models.groups import leaf_paths
from tljax.training import mesh as mesh_lib
from tljax.training import state as state_lib
from tljax.training.evaluation import evaluate
from tljax.training.step import loss_and_gradient, train_step
from tljax.transfer import freeze_first, from_scratch

BATCH = 32
MESHES = ("data:8", "data:4,fsdp:2", "fsdp:8")
CASES = {  # network, plan, parts of a batch
    "resnet, all of it": ("resnet", from_scratch, 1),  # BatchNorm sees the whole batch
    "resnet, first group frozen": ("resnet", lambda groups: freeze_first(groups, 1), 1),
    "vit, all of it, in two parts": ("vit", from_scratch, 2),
    "vit, first two groups frozen": ("vit", lambda groups: freeze_first(groups, 2), 1),
}


def batch():
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (BATCH, 32, 32, 3), np.uint8),
        "label": rng.integers(0, 10, BATCH).astype(np.int32),
    }


def difference(a, b):
    """The largest of any leaf, relative to the leaf's largest number."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.abs(x - y).max() / max(np.abs(x).max(), 1e-30)) for x, y in pairs)


def bytes_on_each(tree):
    found = dict.fromkeys(jax.devices(), 0)
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            found[shard.device] += shard.data.nbytes
    return sorted(found.values())


def compare(name, build, parts):
    model, variables = network(name)
    model = model.clone(drop_path=0.0)  # whose masks differ if a batch comes in parts
    plan = build(model.groups)
    tx = plan.optimizer("adamw", learning_rate=0.0, clip_norm=1.0)
    key = jax.random.key(1)
    state, frozen = state_lib.create(plan, variables, tx)
    one = train_step(model, plan, PREPROCESSING, tx)
    for _ in range(2):
        state, _ = one(state, frozen, batch(), key, 0.01, 1e-3)
    state, frozen = mesh_lib.on_host((state, frozen))
    held = leaf_paths(plan.partition(variables["params"])[0])

    def after_one_step(mesh):
        at, fixed = mesh_lib.place(mesh, (state, frozen))
        images = mesh_lib.spread(mesh, batch(), BATCH)
        count = 1 if mesh is None else parts
        compute = jax.jit(loss_and_gradient(model, plan, PREPROCESSING, 0, count, mesh))
        metrics, gradient, _ = compute(at.trained, at.statistics, fixed, images, key)
        results = metrics["loss"], gradient
        step = train_step(model, plan, PREPROCESSING, tx, 0, count, mesh)
        moved, _ = step(jax.tree.map(jax.numpy.copy, at), fixed, images, key, 0.01, 1e-3)
        return at, fixed, moved, mesh_lib.on_host(results)

    *_, (loss, gradient) = after_one_step(None)
    found = {}
    for text in MESHES:
        mesh = mesh_lib.build(text)
        at, fixed, moved, (its_loss, its_gradient) = after_one_step(mesh)
        slots = [leaf for leaf in jax.tree.leaves(moved.opt_state) if leaf.ndim]
        devices = {shard.device for leaf in slots for shard in leaf.addressable_shards}
        pairs = zip(jax.tree.leaves(at), jax.tree.leaves(moved), strict=True)
        found[text] = {
            "loss": difference(loss, its_loss),
            "gradient": difference(gradient, its_gradient),
            "bytes": bytes_on_each((at, fixed)),
            "bytes_after": bytes_on_each((moved, fixed)),
            "computed": mesh_lib.bytes_per_device(mesh, (state, frozen)),
            "whole": sum(leaf.nbytes for leaf in jax.tree.leaves((state, frozen))),
            "stays": all(a.sharding.is_equivalent_to(b.sharding, a.ndim) for a, b in pairs),
            "slots": len(slots),
            "slots_wanted": 2 * len(held),
            "devices_with_slots": len(devices),
        }
    return found


def evaluations(name):
    model, variables = network(name)
    variables = jax.tree.map(lambda leaf: leaf + 0.01, variables)  # a head of zeros tells nothing
    val = data_lib.load("embedded:digits", train_size=50).val
    found = {}
    for text in (None, *MESHES):
        mesh = None if text is None else mesh_lib.build(text)
        at = mesh_lib.place(mesh, variables)
        evaluation = evaluate(model, at, val, PREPROCESSING, 24, mesh=mesh)
        found[text or "one"] = dataclasses.asdict(evaluation)
    return found


if __name__ == "__main__":
    json.dump(
        {
            "steps": {case: compare(*CASES[case]) for case in CASES},
            "evaluations": {name: evaluations(name) for name in NETWORKS},
        },
        sys.stdout,
    )
