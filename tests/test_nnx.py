"""The network and the plan in a loop of Flax NNX: the same numbers and frozen bits as in Linen."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import tljax
from tests.bits import same
from tests.test_plan_laws import network
from tljax.models.groups import leaf_paths

IMAGES = jax.random.normal(jax.random.key(0), (8, 32, 32, 3))
LABELS = jnp.arange(8)


def plans(groups):
    return {
        "freeze_first": tljax.freeze_first(groups, 1),
        "fine_tune": tljax.fine_tune(groups, backbone=0.5, decay=0.7),
    }


def loss_of(logits):
    return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()


def by_linen(model, variables, plan, steps):
    tx = plan.optimizer("adamw", learning_rate=1e-3)
    modes = plan.modes(variables["params"])

    @jax.jit
    def step(variables, state):
        def loss(params):
            given = {**variables, "params": params}
            logits, changed = model.apply(given, IMAGES, mutable=["batch_stats"], **modes)
            return loss_of(logits), changed

        params = variables["params"]
        gradient, changed = jax.grad(loss, has_aux=True)(params)
        updates, state = tx.update(gradient, state, params)
        return {**variables, **changed, "params": optax.apply_updates(params, updates)}, state

    state = tx.init(variables["params"])
    for _ in range(steps):
        variables, state = step(variables, state)
    return variables


@pytest.mark.parametrize("plan_name", ["freeze_first", "fine_tune"])
@pytest.mark.parametrize("name", ["resnet", "vit", "convnext"])
def test_a_loop_of_nnx_does_what_one_of_linen_does(name, plan_name):
    model, variables = network(name)
    model = model.clone(drop_path=0.0)
    plan = plans(model.groups)[plan_name]
    converted, trained = tljax.to_nnx(model, variables, plan)
    assert same(converted(IMAGES), model.apply(variables, IMAGES)), "logits to the bit"
    optimizer = nnx.Optimizer(converted, plan.optimizer("adamw", learning_rate=1e-3), wrt=trained)

    @nnx.jit
    def step(network, optimizer):
        def loss(network):
            return loss_of(network(IMAGES, train=True))

        gradient = nnx.grad(loss, argnums=nnx.DiffState(0, trained))(network)
        optimizer.update(network, gradient)

    for _ in range(3):
        step(converted, optimizer)
    ours, theirs = by_linen(model, variables, plan, 3), converted.variables()
    assert leaf_paths(theirs) == leaf_paths(ours)
    modes = plan.modes(variables["params"])["batch_statistics"]
    for collection, tree in theirs.items():
        moved = 0
        paths, before = leaf_paths(tree), jax.tree.leaves(variables[collection])
        leaves = zip(jax.tree.leaves(tree), jax.tree.leaves(ours[collection]), strict=True)
        for path, old, (a, b) in zip(paths, before, leaves, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5, err_msg=path)
            moves = (
                plan.is_trained(path) if collection == "params" else modes[plan.groups.depth(path)]
            )
            assert same(a, old) != moves, path
            moved += moves
        assert moved


def test_the_optimizer_holds_no_state_for_what_is_frozen():
    model, variables = network("vit")
    plan = tljax.feature_extraction(model.groups)
    converted, trained = tljax.to_nnx(model, variables, plan)
    optimizer = nnx.Optimizer(converted, plan.optimizer("adamw", learning_rate=1e-3), wrt=trained)
    held = [leaf.shape for leaf in jax.tree.leaves(nnx.state(optimizer.opt_state)) if leaf.ndim]
    head = [leaf.shape for leaf in jax.tree.leaves(variables["params"]["head"])]
    assert sorted(held) == sorted(2 * head)
