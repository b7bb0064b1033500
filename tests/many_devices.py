"""Compares a step and an evaluation on eight devices with one device; prints JSON.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.many_devices
    XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.many_devices --further

The second command does it with a small network of each further family, steps alone.

Runs in its own process, because the number of devices is fixed when JAX starts.
"""

import dataclasses
import functools
import json
import math
import sys

import jax
import numpy as np

from tests.test_plan_laws import FURTHER
from tests.tiny_networks import NETWORKS, PREPROCESSING
from tljax import data as data_lib
from tljax.devices import sharding
from tljax.models import init
from tljax.training import train_state
from tljax.training.evaluation import evaluate
from tljax.training.loss.objective import Objective
from tljax.training.step import loss_and_gradient, train_step
from tljax.transfer import freeze_first, from_scratch

BATCH = 32
MESHES = ("data:8", "data:4,fsdp:2")
WIDER = {"resnet": {"widths": (32,)}, "vit": {"dim": 64, "dropout": 0.0}}  # arrays worth cutting
PLAIN, MIXED = Objective(), Objective(label_smoothing=0.1, mixup=0.8, cutmix=1.0)
MIXED_CASE = "vit, first group frozen, images mixed, in two parts"
CASES = {  # network, plan, parts of a batch, loss
    "resnet, all of it": ("resnet", from_scratch, 1, PLAIN),  # BatchNorm sees the whole batch
    MIXED_CASE: (
        "vit",
        lambda groups: freeze_first(groups, 1),
        2,
        MIXED,
    ),
}


def batch():
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (BATCH, 16, 16, 3), np.uint8),
        "label": rng.integers(0, 10, BATCH).astype(np.int32),
    }


@functools.cache
def network(name):
    """A model, and its variables plus 0.01: a new head is zero, and would test nothing.

    There is no dropout, whose masks depend on the parts of a batch.
    """
    if name in FURTHER:
        model = FURTHER[name].clone(drop_path=0.0)
    else:
        model = NETWORKS[name].clone(**WIDER[name])
    variables = init(model, jax.random.key(0), 16)
    return model, jax.tree.map(lambda leaf: leaf + 0.01, variables)


def difference(a, b):
    """The largest difference in any leaf, relative to the leaf's largest absolute value.

    But at least to a thousandth of the largest of all: the gradient of a bias before a BatchNorm is
    0, and what is computed of it is rounding.
    """
    pairs = list(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
    least = 1e-3 * max(float(np.abs(x).max()) for x, _ in pairs)
    return max(float(np.abs(x - y).max() / max(np.abs(x).max(), least)) for x, y in pairs)


def bytes_on_each(tree):
    found = dict.fromkeys(jax.devices(), 0)
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            found[shard.device] += shard.data.nbytes
    return sorted(found.values())


def bytes_of_shards(mesh, tree):
    """Bytes that a device holds of arrays under their `parameter_shardings`."""

    def of(leaf, sharding):
        return math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize

    return sum(jax.tree.leaves(jax.tree.map(of, tree, sharding.parameter_shardings(mesh, tree))))


def compare(meshes, name, build, parts, objective):
    model, variables = network(name)
    plan = build(model.groups)
    tx = plan.optimizer("adamw", learning_rate=0.0, clip_norm=1.0)
    state, frozen = sharding.gather_to_host(train_state.create(plan, variables, tx))
    key = jax.random.key(1)

    def loss_and_its_gradient(mesh, parts):
        at, fixed = sharding.place(mesh, (state, frozen))
        form = {"accumulate": parts, "mesh": mesh, "objective": objective}
        compute = jax.jit(loss_and_gradient(model, plan, PREPROCESSING, **form))
        images = sharding.place_batch(mesh, batch(), BATCH)
        metrics, gradient, _ = compute(at.trained, at.statistics, fixed, images, key)
        return sharding.gather_to_host((metrics["loss"], gradient))

    loss, gradient = loss_and_its_gradient(None, 1)
    differences = {}
    for text in meshes:
        its_loss, its_gradient = loss_and_its_gradient(sharding.build(text), parts)
        differences[text] = {
            "loss": difference(loss, its_loss),
            "gradient": difference(gradient, its_gradient),
        }

    mesh = sharding.build(MESHES[-1])
    at, fixed = sharding.place(mesh, (state, frozen))
    before = jax.tree.map(lambda leaf: leaf.sharding, at)
    bytes_before = bytes_on_each((at, fixed))
    step = train_step(model, plan, PREPROCESSING, tx, 0, parts, mesh=mesh, objective=objective)
    at, _ = step(at, fixed, sharding.place_batch(mesh, batch(), BATCH), key, 0.01, 1e-3)
    slots = [leaf for leaf in jax.tree.leaves(at.opt_state) if leaf.ndim]
    trained, _ = plan.partition(variables["params"])
    return {
        "differences": differences,
        "stays": before == jax.tree.map(lambda leaf: leaf.sharding, at),
        "slots": sorted(leaf.shape for leaf in slots),
        "slots_wanted": sorted([leaf.shape for leaf in jax.tree.leaves(trained)] * 2),
        "bytes": {
            "before": bytes_before,
            "after": bytes_on_each((at, fixed)),
            "computed": bytes_of_shards(mesh, (state, frozen)),
            "whole": sum(leaf.nbytes for leaf in jax.tree.leaves((state, frozen))),
        },
    }


def evaluations(name):
    model, variables = network(name)
    val = data_lib.Subset(data_lib.load("embedded:digits", train_size=50).val, range(100))
    found = {}
    for text in (None, *MESHES):
        mesh = None if text is None else sharding.build(text)
        at = sharding.place(mesh, variables)
        evaluation = evaluate(model, at, val, PREPROCESSING, 24, mesh=mesh)
        found[text or "one"] = dataclasses.asdict(evaluation)
    return found


def main() -> None:
    if "--further" in sys.argv:
        steps = {name: compare(MESHES, name, from_scratch, 1, PLAIN) for name in FURTHER}
        json.dump({"steps": steps}, sys.stdout)
        return
    # The mixed case takes longest: on one mesh only, or on those that are given.
    mixed_on = sys.argv[1:] or MESHES[-1:]
    json.dump(
        {
            "steps": {
                case: compare(mixed_on if case == MIXED_CASE else MESHES, *CASES[case])
                for case in CASES
            },
            "evaluations": {name: evaluations(name) for name in NETWORKS},
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
