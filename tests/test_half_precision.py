"""dtype=bfloat16: products are computed in it; stored and reported values are float32."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.test_plan_laws import (
    PREPROCESSING,
    assert_frozen_identical_and_trained_moved,
    batches,
    network,
)
from tljax.models import ResNetV2, ViT, init
from tljax.training import train_state
from tljax.training.loss.objective import Objective
from tljax.training.step import eval_step, loss_and_gradient, predict_step, train_step
from tljax.transfer import freeze_first

EVERYTHING = Objective(label_smoothing=0.1, mixup=0.4, cutmix=1.0)
networks = pytest.mark.parametrize("name", ["resnet", "vit", "resnet v2"])


def halved(name):
    """The model that computes in bfloat16, and float32 variables for it."""
    if name == "resnet v2":
        model = ResNetV2((1, 1), (32, 32), 10)
        return model.clone(dtype=jnp.bfloat16), init(model, jax.random.key(0), 32)
    model, variables = network(name)
    return model.clone(dtype=jnp.bfloat16), variables


def is_float32(tree):
    floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return bool(floats) and all(leaf.dtype == jnp.float32 for leaf in floats)


def products(function, *arguments):
    """Input dtypes of a function's matrix products and convolutions."""
    text = str(jax.make_jaxpr(function)(*arguments))
    lines = [line for line in text.splitlines() if "dot_general" in line or "conv_general" in line]
    return {"bf16" if ":bf16" in line else "f32" for line in lines}


def test_steps_keep_float32_and_the_law_of_what_is_frozen():
    """With BatchNorm, whose statistics are float32 too."""
    model, variables = halved("resnet")
    plan = freeze_first(model.groups, 1)
    tx = plan.optimizer("adamw", learning_rate=0.0, clip_norm=1.0)
    step = train_step(model, plan, PREPROCESSING, tx, ema=0.9)
    state, frozen = train_state.create(plan, variables, tx, average=True)
    for batch in batches(3):
        state, metrics = step(state, frozen, batch, jax.random.key(1), 0.1, 1e-3)
        assert is_float32((state, metrics))
        assert np.isfinite(float(metrics["loss"]))
    assert_frozen_identical_and_trained_moved(
        plan, variables, train_state.model_variables(state, frozen)
    )


@networks
def test_gradients_and_loss_are_float32_of_products_that_are_not(name):
    model, variables = halved(name)
    plan = freeze_first(model.groups, 1)
    trained, frozen = plan.partition(variables["params"])
    updated, stored = plan.partition_statistics(
        variables.get("batch_stats", {}), variables["params"]
    )
    batch, key = next(batches(1)), jax.random.key(0)
    arguments = (trained, updated, {"params": frozen, "batch_stats": stored}, batch, key)
    compute = loss_and_gradient(model, plan, PREPROCESSING, objective=EVERYTHING)
    assert is_float32(jax.eval_shape(lambda: init(model, key, 32)))
    assert is_float32(jax.eval_shape(compute, *arguments))
    assert "bf16" in products(compute, *arguments)
    whole = loss_and_gradient(
        model.clone(dtype=jnp.float32), plan, PREPROCESSING, objective=EVERYTHING
    )
    assert products(whole, *arguments) == {"f32"}


@pytest.mark.parametrize("start", [0, 1])
def test_blocks_see_bfloat16_also_of_features_that_were_kept(start):
    """Cached features are float32; uncast, they would make every later block float32."""
    # a width that no other test has, since a traced block is not called again
    width = 24 + 16 * start
    model = ViT(width, 3, 2, 8, num_classes=10, dtype=jnp.bfloat16)
    variables = init(model, jax.random.key(0), 32)
    batch = next(batches(1)) | {"mask": np.ones(8, np.float32)}
    batch["features"] = np.zeros((8, 17, width), np.float32)
    seen = []

    def note(call, arguments, keywords, context):
        if type(context.module).__name__ == "Block" and context.method_name == "__call__":
            seen.append(arguments[0].dtype)
        return call(*arguments, **keywords)

    with nn.intercept_methods(note):
        jax.eval_shape(eval_step(model, PREPROCESSING, start), variables, batch)
    assert seen
    assert all(dtype == jnp.bfloat16 for dtype in seen)


@networks
def test_logits_and_what_follows_from_them_are_float32(name):
    model, variables = halved(name)
    batch = next(batches(1)) | {"mask": np.ones(8, np.float32)}
    for stop in (None, len(model.groups) - 1):  # logits; features
        images = jax.ShapeDtypeStruct((8, 32, 32, 3), np.float32)
        run = jax.eval_shape(lambda v, x, s=stop: model.apply(v, x, stop=s), variables, images)
        assert run.dtype == jnp.float32
    sums, answers = jax.eval_shape(
        eval_step(model, PREPROCESSING, with_answers=True), variables, batch
    )
    assert is_float32((sums, answers))
    assert is_float32(jax.eval_shape(predict_step(model, PREPROCESSING), variables, batch))
