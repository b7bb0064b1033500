"""The laws of the plan, for a ResNet and a ViT, in our training loop and in a user's.

Each law is checked for the four scenarios, for freeze_first at every depth, for plans that train
one group alone, or one and the head, for biases only, and for stored BatchNorm statistics.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tljax
from tljax.analysis import cost
from tljax.data import Preprocessing, normalise
from tljax.models import ConvNeXt, EfficientNet, ResNet, ViT, init
from tljax.models.efficientnet import parse_stages
from tljax.models.flops import counted_flops
from tljax.models.groups import leaf_paths, map_with_path
from tljax.training import train_state
from tljax.training.step import train_step
from tljax.transfer import (
    TransferPlan,
    feature_extraction,
    fine_tune,
    freeze_first,
    from_scratch,
    surgical,
)

PREPROCESSING = Preprocessing(32, (0.5,) * 3, (0.5,) * 3)
STEPS = 6
NUM_GROUPS = 4
NETWORKS = {  # a small network of each family, with two blocks
    "resnet": ResNet(
        (1, 1),
        (16, 32),
        bottleneck=False,
        num_classes=10,
        stem=(3, 2),
        stem_pool=False,
        drop_path=0.1,
    ),
    "vit": ViT(64, 2, 4, 4, num_classes=10, drop_path=0.1),
}
# Networks of families that have no layers of their own kind in the plan's arithmetic: fewer plans.
_SMALL_VIT = ViT(64, 2, 4, 8, num_classes=10, drop_path=0.1)
FURTHER = {
    "convnext": ConvNeXt((1, 1), (16, 32), 10, 4, None, response_norm=True, drop_path=0.1),
    "dinov3": _SMALL_VIT.clone(
        rotary=100.0, registers=2, qkv_bias="query_value", gated=True, layer_scale=0.5
    ),
    "clip": _SMALL_VIT.clone(pre_norm=True, activation="quick_gelu"),
    "mobilenet": EfficientNet(
        parse_stages("ir3/2 32>16:8 H | uir3k3/1 32>16 R"), 8, 32, 10, head="pooled_conv_norm"
    ),
    "siglip": _SMALL_VIT.clone(class_token=False, pooling="attention", activation="gelu_tanh"),
}


@functools.cache
def network(name):
    """A model, and variables whose zeros are -0.0, since adding +0.0 would change them."""
    model = {**NETWORKS, **FURTHER}[name]
    variables = init(model, jax.random.key(0), 32)
    return model, jax.tree.map(lambda leaf: jnp.where(leaf == 0, -0.0, leaf), variables)


def only(depth):
    def build(model_groups):
        scale = tuple(float(d == depth) for d in range(NUM_GROUPS))
        return TransferPlan(("pretrained",) * NUM_GROUPS, scale, groups=model_groups)

    return build


PLANS = {  # without those that train what another one trains
    "feature_extraction": feature_extraction,
    "from_scratch": from_scratch,
    "fine_tune": lambda g: fine_tune(g, backbone=0.5, decay=0.7),  # a rate for each group
    **{
        f"freeze_first({k})": functools.partial(freeze_first, k=k) for k in range(1, NUM_GROUPS - 1)
    },
    **{f"only group {d}": only(d) for d in range(NUM_GROUPS - 1)},
    "surgical(1, 1)": functools.partial(surgical, first=1, last=1),
    "biases": lambda g: fine_tune(g, backbone=1.0, train=".*bias"),
    "head's parameters by regex": lambda g: from_scratch(g, train="head/.*"),
    "stored statistics": lambda g: from_scratch(g, statistics="stored"),
    "stored statistics, freeze_first(2)": lambda g: freeze_first(g, 2, statistics="stored"),
}
# Those that differ most in what they train: the head, everything, the end, a middle, some leaves.
SOME_PLANS = ("feature_extraction", "fine_tune", "freeze_first(1)", "only group 1", "biases")
SOME_PLANS += ("stored statistics, freeze_first(2)",)
FURTHER_PLANS = ("feature_extraction", "fine_tune", "freeze_first(1)")
models = pytest.mark.parametrize("name", [*NETWORKS, *FURTHER])
plans = pytest.mark.parametrize("plan_name", PLANS)


def each_plan_with_a_network(first, among=tuple(PLANS)):
    """Every plan with one network in turn, from the first or second on; a soak tests the rest.

    With networks of further families some plans.

    Args:
      first: 0 or 1.
      among: the plans that a soak does not leave to itself.
    """
    pairs = [(name, plan) for plan in PLANS for name in NETWORKS]
    return pytest.mark.parametrize(
        ("name", "plan_name"),
        [
            pytest.param(name, plan, marks=[] if chosen else pytest.mark.soak)
            for i, (name, plan) in enumerate(pairs)
            for chosen in [plan in among and (i // 2 + i + first) % 2 == 0]
        ]
        + [(name, plan) for plan in FURTHER_PLANS for name in FURTHER],
    )


def batches(count=STEPS):
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield {
            "image": rng.integers(0, 256, (8, 32, 32, 3), np.uint8),
            "label": rng.integers(0, 10, 8).astype(np.int32),
        }


def assert_frozen_identical_and_trained_moved(plan, before, after):
    """Compares bitwise: -0.0 differs from +0.0."""
    modes = plan.modes(before["params"])
    for collection, tree in before.items():
        for path, old, new in zip(
            leaf_paths(tree),
            jax.tree.leaves(tree),
            jax.tree.leaves(after[collection]),
            strict=True,
        ):
            if collection == "params":
                moves = plan.is_trained(path)
            else:
                moves = modes["batch_statistics"][plan.groups.depth(path)]
            same = np.asarray(old).tobytes() == np.asarray(new).tobytes()
            assert same != moves, f"{collection}/{path} {'did not move' if moves else 'moved'}"


def tx_of_the_loop(plan):
    """The loop's optimizer: rate and decay are arguments of the step; the clip has an effect."""
    return plan.optimizer("sgd", learning_rate=0.0, clip_norm=0.25)


@each_plan_with_a_network(first=0)
def test_our_loop_moves_what_the_plan_trains_and_nothing_else(name, plan_name):
    model, variables = network(name)
    plan = PLANS[plan_name](model.groups)
    tx = tx_of_the_loop(plan)
    step = train_step(model, plan, PREPROCESSING, tx)
    state, frozen = train_state.create(plan, variables, tx)
    for batch in batches():
        state, _ = step(state, frozen, batch, jax.random.key(1), 0.1, 1e-3)
    assert_frozen_identical_and_trained_moved(
        plan, variables, train_state.model_variables(state, frozen)
    )


@each_plan_with_a_network(first=1, among=SOME_PLANS)
def test_a_users_own_loop_moves_what_the_plan_trains_and_nothing_else(name, plan_name):
    """With plain optax on the whole tree, and a schedule with a warm-up from 0."""
    model, variables = network(name)
    plan = PLANS[plan_name](model.groups)
    schedule = optax.linear_schedule(0.0, 0.1, 3)
    tx = plan.optimizer("adamw", learning_rate=schedule, weight_decay=1e-3, clip_norm=1.0)
    modes = plan.modes(variables["params"])

    @jax.jit
    def step(params, batch_stats, opt_state, batch, key):
        def loss_fn(params):
            logits, changed = model.apply(
                {"params": params, "batch_stats": batch_stats},
                batch["image"] / 127.5 - 1,
                **modes,
                rngs={"dropout": key},
                mutable=["batch_stats"],
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
            return losses.mean(), changed.get("batch_stats", {})

        gradient, batch_stats_ = jax.grad(loss_fn, has_aux=True)(params)
        updates, opt_state = tx.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), batch_stats_, opt_state

    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    opt_state = tx.init(params)
    for i, batch in enumerate(batches()):
        params, batch_stats, opt_state = step(
            params, batch_stats, opt_state, batch, jax.random.key(i)
        )
    after = {"params": params} | ({"batch_stats": batch_stats} if batch_stats else {})
    assert_frozen_identical_and_trained_moved(plan, variables, after)


@models
@plans
@pytest.mark.parametrize(("optimizer", "slots"), [("sgd", 1), ("adamw", 2)])
def test_the_optimizer_holds_no_state_for_a_frozen_parameter(name, plan_name, optimizer, slots):
    model, variables = network(name)
    plan = PLANS[plan_name](model.groups)
    trained, frozen = plan.partition(variables["params"])
    assert leaf_paths(tljax.merge(trained, frozen)) == leaf_paths(variables["params"])
    tx = plan.optimizer(optimizer, learning_rate=0.1, clip_norm=1.0)
    wanted = sorted(leaf.shape for leaf in jax.tree.leaves(trained)) * slots
    for tree in (trained, variables["params"]):  # ours, and a user's
        state = jax.eval_shape(tx.init, tree)
        held = [leaf.shape for leaf in jax.tree.leaves(state) if leaf.ndim]
        assert sorted(held) == sorted(wanted)


@each_plan_with_a_network(first=1, among=SOME_PLANS)
def test_the_step_costs_what_the_law_allows(name, plan_name):
    """Loss, gradient, clip and gradient norm of the compiled step, by XLA's count."""
    model, variables = network(name)
    plan = PLANS[plan_name](model.groups)
    batch_size = 16
    given = (model, variables, 32, batch_size)
    counts, products = cost.group_flops(*given), cost.group_products(*given)
    law = sum(map(sum, cost.law_terms(counts, products, plan.trained_groups(variables["params"]))))
    step = cost.step_function(model, plan, PREPROCESSING)
    arguments = cost.step_arguments(model, plan, variables, 32, batch_size)
    if name in FURTHER:  # on a CPU some of their kernels are sums, with other counts
        counted = counted_flops(jax.jit(step).trace(*arguments).lower(lowering_platforms=("tpu",)))
    else:
        counted = counted_flops(jax.jit(step).lower(*arguments).compile())
    assert counted <= 1.05 * law


@models
@pytest.mark.parametrize(
    "plan_name",
    [
        *("freeze_first(2)", "biases"),
        *(pytest.param(name, marks=pytest.mark.soak) for name in ("fine_tune", "only group 1")),
    ],
)
def test_a_users_step_equals_ours(name, plan_name):
    model, variables = network(name)
    plan = PLANS[plan_name](model.groups)
    tx = tx_of_the_loop(plan)
    batch, key = next(batches()), jax.random.key(3)
    state, frozen = train_state.create(plan, variables, tx)
    ours, metrics = train_step(model, plan, PREPROCESSING, tx)(state, frozen, batch, key, 0.1, 1e-2)
    assert metrics["grad_norm"] > 0.25, "or the clip has no effect"
    tx = plan.optimizer("sgd", learning_rate=0.1, weight_decay=1e-2, clip_norm=0.25)

    def loss_fn(params):  # takes the whole tree
        logits, _ = model.apply(
            {**variables, "params": params},
            normalise(batch["image"], PREPROCESSING),
            **plan.modes(params),
            rngs={"dropout": jax.random.fold_in(key, 0)},
            mutable=["batch_stats"],
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return losses.mean()

    @jax.jit
    def step(params):
        updates, _ = tx.update(jax.grad(loss_fn)(params), tx.init(params), params)
        return optax.apply_updates(params, updates)

    theirs, _ = plan.partition(step(variables["params"]))
    for path, a, b in zip(
        leaf_paths(theirs), jax.tree.leaves(theirs), jax.tree.leaves(ours.trained), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5, err_msg=path)


# --- the optimizer's arithmetic ------------------------------------------------------------------


def tree_like(variables, value):
    return jax.tree.map(lambda leaf: jnp.full_like(leaf, value), variables["params"])


@models
def test_a_groups_update_is_scaled_by_its_lr_scale(name):
    model, variables = network(name)
    plan = fine_tune(model.groups, backbone=0.5, decay=0.7)
    tx = plan.optimizer("sgd", learning_rate=0.1, momentum=0.0)
    updates, _ = tx.update(
        tree_like(variables, 1.0), tx.init(variables["params"]), variables["params"]
    )
    for path, update in zip(leaf_paths(updates), jax.tree.leaves(updates), strict=True):
        np.testing.assert_allclose(update, -0.1 * plan.scale(path), rtol=1e-6, err_msg=path)
    assert plan.lr_scale == pytest.approx((0.5 * 0.7**3, 0.5 * 0.7**2, 0.5 * 0.7, 1.0))


@models
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_kernels_alone_are_decayed_at_their_groups_rate(name, optimizer):
    model, variables = network(name)
    plan = fine_tune(model.groups, backbone=0.5)
    tx = plan.optimizer(optimizer, learning_rate=0.1, weight_decay=0.01, momentum=0.0)
    params = tree_like(variables, 2.0)
    updates, _ = jax.jit(lambda g, p: tx.update(g, tx.init(p), p))(
        tree_like(variables, 0.0), params
    )
    for path, update in zip(leaf_paths(updates), jax.tree.leaves(updates), strict=True):
        decay = 0.01 * 2.0 if path.endswith("kernel") else 0.0
        np.testing.assert_allclose(
            update, -0.1 * plan.scale(path) * decay, rtol=1e-6, atol=0, err_msg=path
        )


@models
def test_the_clip_sees_one_norm_over_the_trained_parameters_alone(name):
    model, variables = network(name)
    plan = fine_tune(model.groups, backbone=0.25, train="(?!stem|embed).*")
    trained, _ = plan.partition(variables["params"])
    tx = plan.optimizer("sgd", learning_rate=1.0, momentum=0.0, clip_norm=3.0)
    huge_if_frozen = map_with_path(
        lambda path, leaf: jnp.full_like(leaf, 1.0 if plan.is_trained(path) else 1e6),
        variables["params"],
    )
    updates, _ = tx.update(huge_if_frozen, tx.init(variables["params"]), variables["params"])
    count = sum(leaf.size for leaf in jax.tree.leaves(trained))
    for path, update in zip(leaf_paths(updates), jax.tree.leaves(updates), strict=True):
        expected = -plan.scale(path) * 3.0 / np.sqrt(count)
        np.testing.assert_allclose(update, expected, rtol=1e-5, err_msg=path)


@pytest.mark.parametrize("rate", [1, np.float32(1), jnp.float32(1)])
def test_any_number_is_a_learning_rate_that_can_be_changed(rate):
    model, variables = network("resnet")
    tx = feature_extraction(model.groups).optimizer("sgd", learning_rate=rate, momentum=0.0)
    params = variables["params"]
    state = optax.tree.set(tx.init(params), learning_rate=jnp.float32(0.25))
    updates, _ = tx.update(tree_like(variables, 1.0), state, params)
    np.testing.assert_allclose(updates["head"]["bias"], -0.25)


@models
def test_learning_rate_and_decay_are_runtime_arguments(name):
    model, variables = network(name)
    plan = feature_extraction(model.groups)
    tx = plan.optimizer("sgd", learning_rate=0.0, momentum=0.0)
    step = train_step(model, plan, PREPROCESSING, tx)
    moved, compiled = [], []
    for learning_rate, decay in ((0.1, 0.0), (0.2, 0.0), (0.1, 0.5)):
        state, frozen = train_state.create(plan, variables, tx)
        before = np.asarray(state.trained["head"]["kernel"])
        state, _ = step(state, frozen, next(batches()), jax.random.key(0), learning_rate, decay)
        moved.append(np.asarray(state.trained["head"]["kernel"]) - before)
        compiled.append(step._cache_size())
    np.testing.assert_allclose(moved[1], 2 * moved[0], rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(moved[2] - moved[0], -0.1 * 0.5 * before, rtol=1e-3, atol=1e-6)
    assert len(set(compiled)) == 1, "a new learning rate compiled a new program"
