"""Equivalent computations of a step: accumulation, rematerialisation, parts of a batch."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tljax
from tests.tiny_networks import NETWORKS
from tljax.data import ArraySource, Preprocessing
from tljax.devices import micro_batches
from tljax.errors import InputError
from tljax.models import ResNetV2, init
from tljax.models.arithmetic import max_pool
from tljax.training.step import loss_and_gradient

PREPROCESSING = Preprocessing(32, (0.5,) * 3, (0.5,) * 3)
MODELS = {"resnet": NETWORKS["resnet"], "vit": NETWORKS["vit"].clone(dropout=0.0)}
each_model = pytest.mark.parametrize("name", MODELS)


def batch_of(count):
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (count, 32, 32, 3), np.uint8),
        "label": rng.integers(0, 10, count).astype(np.int32),
    }


def gradient_of(model, plan, **form):
    variables = init(model, jax.random.key(0), 32)
    trained, frozen = plan.partition(variables["params"])
    statistics, stored = plan.partition_statistics(
        variables.get("batch_stats", {}), variables["params"]
    )
    compute = jax.jit(loss_and_gradient(model, plan, PREPROCESSING, **form))
    everything = {"params": frozen, "batch_stats": stored}
    metrics, gradient, _ = compute(trained, statistics, everything, batch_of(12), jax.random.key(0))
    return metrics, gradient


def assert_same(one, other):
    for name, value in one[0].items():
        assert float(other[0][name]) == pytest.approx(float(value), rel=1e-5), name
    scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(one[1]))
    for a, b in zip(jax.tree.leaves(one[1]), jax.tree.leaves(other[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * scale)


@functools.cache
def gradient_of_a_batch(name, accumulate):
    plan = tljax.fine_tune(MODELS[name].groups, statistics="stored")
    return gradient_of(MODELS[name], plan, accumulate=accumulate)


@each_model
@pytest.mark.parametrize("parts", [3, pytest.param(12, marks=pytest.mark.soak)])  # 12: of one image
def test_accumulated_gradients_are_the_batch_s(name, parts):
    assert_same(gradient_of_a_batch(name, 1), gradient_of_a_batch(name, parts))


@pytest.mark.parametrize(
    "model",
    [*MODELS.values(), ResNetV2((1,), (32,), 10)],
    ids=lambda model: type(model).__name__,
)
def test_rematerialised_gradients_are_the_same(model):
    again = model.clone(remat=True)
    plan = tljax.freeze_first(model.groups, 1)
    assert_same(gradient_of(model, plan), gradient_of(again, plan))


def test_rematerialisation_keeps_less():
    def kept(remat):
        """The number of values that the forward pass saves for the backward pass."""
        model = tljax.create("vit_micro_patch4_32", 10, remat=remat)
        images = jax.ShapeDtypeStruct((32, 32, 32, 3), np.float32)
        backward = jax.eval_shape(
            lambda v, x: jax.vjp(lambda v: model.apply(v, x), v)[1],
            init(model, jax.random.key(0), 32),
            images,
        )
        return sum(leaf.size for leaf in jax.tree.leaves(backward))

    assert kept(True) < 0.3 * kept(False)


@each_model
@pytest.mark.parametrize("parts", [1, 3, 12])
def test_a_batch_in_parts_is_the_batch(name, parts):
    model = MODELS[name]
    variables = init(model, jax.random.key(0), 32)
    images = jax.random.normal(jax.random.key(1), (12, 32, 32, 3))

    @jax.jit
    def run(images):
        return micro_batches.map_in_parts(lambda x: model.apply(variables, x), parts, images)

    whole = jax.jit(model.apply)(variables, images)
    np.testing.assert_allclose(run(images), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("images", [1, 5, 12])
def test_parts_that_only_fill_a_batch_are_not_computed(images):
    """The other parts give the same bits; a callback counts the computed parts."""
    model = MODELS["vit"]
    variables = init(model, jax.random.key(0), 32)
    batch = jax.random.normal(jax.random.key(1), (12, 32, 32, 3))
    computed = []

    def run(part):
        jax.debug.callback(lambda: computed.append(len(part)))
        return model.apply(variables, part)

    @jax.jit
    def in_parts(batch, mask):
        return micro_batches.map_in_parts(run, 4, batch, mask)

    mask = (jnp.arange(12) < images).astype(jnp.float32)
    masked = jax.block_until_ready(in_parts(batch, mask))
    jax.effects_barrier()
    assert sum(computed) == -(-images // 3) * 3
    whole = in_parts(batch, jnp.ones(12))
    np.testing.assert_array_equal(masked[:images], whole[:images])


def test_parts_are_chosen_by_what_the_network_holds_at_once():
    large, small = tljax.create("vit_small_patch14_dinov2", 10), tljax.create("resnet10_32", 10)
    assert micro_batches.choose_parts(large, 224, 32) == 8
    plan = tljax.fine_tune(large.groups)
    assert micro_batches.choose_training_parts(large, plan, 224, 32) == 16, "gradients need more"
    assert micro_batches.choose_parts(large, 224, 31) == 31, "a divisor"
    assert micro_batches.choose_parts(large, 224, 32, start=13) == 1, "only the head"
    assert micro_batches.choose_parts(small, 32, 32) == 1


def test_images_that_see_each_other_stay_together():
    model = NETWORKS["resnet"]
    images = ArraySource(batch_of(12)["image"], batch_of(12)["label"])
    plan = tljax.fine_tune(model.groups)
    assert micro_batches.choose_training_parts(model, plan, 32, 4096) == 1
    variables = init(model, jax.random.key(0), 32)
    with pytest.raises(InputError, match="BatchNorm here uses the statistics of the batch"):
        tljax.fit(model, variables, plan, images, None, batch_size=12, accumulate=2)
    stored = tljax.fine_tune(model.groups, statistics="stored")
    with pytest.raises(InputError, match="does not divide batch_size 12"):
        tljax.fit(model, variables, stored, images, None, batch_size=12, accumulate=5)


@pytest.mark.parametrize("sides", [(9, 9), (8, 11), (3, 4)])
def test_max_pool_is_the_windowed_maximum(sides):
    def windowed(x):
        return nn.max_pool(x, (3, 3), strides=(2, 2))

    x = jax.random.normal(jax.random.key(0), (2, *sides, 3))
    np.testing.assert_array_equal(max_pool(x), windowed(x))
    gradients = [
        jax.jit(jax.grad(lambda x, f=f: (f(x) ** 2).sum()))(x) for f in (max_pool, windowed)
    ]
    np.testing.assert_allclose(*gradients, rtol=1e-6)
