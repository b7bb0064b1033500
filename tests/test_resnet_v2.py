"""Pre-activation ResNets, Keras' ResNets, and their weights: cuts, tensor names."""

import functools

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.reference_weights import count_known, draw
from tljax.errors import InputError
from tljax.models import create, tracing
from tljax.models.resnet_v2 import standardise
from tljax.weights import fitting, rules
from tljax.weights.families import FAMILIES
from tljax.weights.families.bit import GOOGLE_BIT, TIMM_BIT
from tljax.weights.families.keras import KERAS, KERAS_3
from tljax.weights.families.resnet import TORCH_RESNET
from tljax.weights.read import read
from tljax.weights.unwrapping import find_network

TINY = {
    "resnetv2_50x1_bit": {"stage_sizes": (2, 1), "widths": (32, 64)},
    "keras_resnet50": {"stage_sizes": (1, 1), "widths": (8, 16)},
    "keras_resnet50v2": {"stage_sizes": (2, 1), "widths": (8, 16)},
}
PREACTIVATED = ("resnetv2_50x1_bit", "keras_resnet50v2")
FAMILIES_OF = [
    ("resnetv2_50x1_bit", TIMM_BIT),
    ("resnetv2_50x1_bit", GOOGLE_BIT),
    ("keras_resnet50", KERAS),
    ("keras_resnet50", KERAS_3),
    ("keras_resnet50v2", KERAS),
    ("keras_resnet50v2", KERAS_3),
]


def tiny(name, num_classes=10, **fields):
    return create(name, num_classes, **TINY[name], **fields)


@functools.cache
def shapes_of(model):
    abstract = tracing.abstract_variables(model, 32)
    return {path: leaf.shape for path, leaf in rules.flatten(abstract).items()}


def drawn(model):
    """Random values of every variable, including BatchNorm's statistics, by path."""
    return {path: draw(path, shape) for path, shape in shapes_of(model).items()}


@pytest.fixture(scope="module")
def x():
    return jax.random.normal(jax.random.key(1), (3, 32, 32, 3))


@pytest.mark.parametrize("name", TINY)
def test_every_variable_is_in_exactly_one_group_and_no_group_is_empty(name):
    model = tiny(name)
    assert {model.groups.depth(path) for path in shapes_of(model)} == set(range(len(model.groups)))


@pytest.mark.parametrize("name", TINY)
def test_a_cut_run_is_the_whole_run(name, x):
    model = tiny(name)
    variables = rules.unflatten(drawn(model))
    whole = model.apply(variables, x)
    for cut in range(len(model.groups) + 1):
        parts = model.apply(variables, model.apply(variables, x, stop=cut), start=cut)
        assert np.array_equal(parts, whole), f"cut at {cut}"


def test_the_head_sees_float32_features_in_bfloat16_too(x):
    name = "resnetv2_50x1_bit"
    exact = tiny(name, num_classes=0)
    half = tiny(name, num_classes=0, dtype=jnp.bfloat16)
    variables = rules.unflatten(drawn(exact))
    assert half.apply(variables, x, stop=1).dtype == jnp.bfloat16
    features, expected = (jax.jit(model.apply)(variables, x) for model in (half, exact))
    assert features.dtype == expected.dtype == jnp.float32
    assert features.shape == (3, 256)
    np.testing.assert_allclose(features, expected, atol=0.05 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize("name", PREACTIVATED)
@pytest.mark.parametrize("last_block", [1, 2])
def test_a_truncated_network_ends_with_the_next_blocks_first_norm(name, last_block, x):
    model = tiny(name)
    flat = drawn(model)
    truncated = model.truncated(last_block)
    shapes = shapes_of(truncated)
    following = model.groups.names[last_block + 1]
    assert truncated.groups.depth(f"{following}/norm1/scale") == last_block
    assert {truncated.groups.depth(path) for path in shapes} == set(range(last_block + 2))

    kept = fitting.fit(flat, shapes, None, "bicubic", "drawn")
    headless = {path for path in shapes if not path.startswith("head/")}
    assert all(kept[path].shape == shapes[path] for path in headless)
    features = truncated.apply(rules.unflatten(kept), x, stop=last_block + 1)

    sums = model.apply(rules.unflatten(flat), x, stop=last_block + 1)
    norm = truncated._norm(batch_statistics=False)(name=None)
    own = {path.removeprefix(f"{following}/norm1/"): array for path, array in flat.items()}
    leaves = ("scale", "bias") if "bit" in name else ("scale", "bias", "mean", "var")
    normalised = norm.apply(rules.unflatten({leaf: own[leaf] for leaf in leaves}), sums)
    assert np.array_equal(features, jax.nn.relu(normalised).mean(axis=(1, 2)))


@pytest.mark.parametrize("name", PREACTIVATED)
def test_truncation_after_the_last_block_changes_nothing(name):
    assert tiny(name).truncated(3) == tiny(name)


def test_blocks_stride_where_each_family_does(x):
    for name, sides in (("resnetv2_50x1_bit", [8, 8, 8]), ("keras_resnet50v2", [8, 8, 4])):
        model = tiny(name)
        variables = rules.unflatten(drawn(model))
        outputs = [model.apply(variables, x, stop=stop) for stop in (1, 2, 3)]
        assert [output.shape[1] for output in outputs] == sides


def test_stochastic_depth_is_active_in_training_only(x):
    model = tiny("resnetv2_50x1_bit", drop_path=0.5)
    variables = rules.unflatten(drawn(model))
    features = model.apply(variables, x, stop=2)
    last = {"start": 2, "stop": 4, "rngs": {"dropout": jax.random.key(2)}}
    evaluated = model.apply(variables, features, **last)
    assert np.array_equal(evaluated, tiny("resnetv2_50x1_bit").apply(variables, x, stop=4))
    assert not np.array_equal(evaluated, model.apply(variables, features, train=True, **last))


def test_batch_statistics_of_the_final_norm_go_with_the_last_block(x):
    model = tiny("keras_resnet50v2")
    variables = rules.unflatten(drawn(model))
    modes = (False, False, False, True, False)
    _, updated = model.apply(variables, x, batch_statistics=modes, mutable="batch_stats")
    old, new = rules.flatten(variables), rules.flatten(updated)
    moved = {path for path in new if not np.array_equal(new[path], old[path])}
    assert moved == {path for path in new if model.groups.depth(path) == 3}
    assert "norm/mean" in moved


def test_standardised_kernels_have_mean_0_and_variance_1():
    kernel = standardise(jnp.asarray(draw("kernel", (3, 3, 8, 5)) * 7 + 2))
    np.testing.assert_allclose(kernel.mean(axis=(0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(kernel.var(axis=(0, 1, 2)), 1, atol=1e-5)


def test_zeros_around_the_stems_pool_count():
    model = tiny("keras_resnet50v2")
    flat = drawn(model) | {
        "stem/conv/kernel": np.zeros((7, 7, 3, 8), np.float32),
        "stem/conv/bias": np.full(8, -1, np.float32),
    }
    pooled = model.apply(rules.unflatten(flat), jnp.zeros((1, 32, 32, 3)), stop=1)
    assert np.all(pooled[:, 0] == 0)
    assert np.all(pooled[:, 1:, 1:] == -1)


def write(path, tensors):
    if path.suffix == ".npz":
        np.savez(path, **tensors)
        return
    with h5py.File(path, "w") as file:
        for name, array in tensors.items():
            file[name] = array


@pytest.mark.parametrize(("name", "family"), FAMILIES_OF)
def test_names_go_both_ways_through_a_file(name, family, tmp_path):
    model = tiny(name)
    flat = drawn(model)
    path = tmp_path / ("weights.h5" if "keras" in name else "weights.npz")
    tensors = rules.unconvert(family, model, flat)
    assert len(tensors) == len(flat)
    write(path, tensors)
    found = rules.convert(family, model, shapes_of(model), read(path).tensors, path.name)
    assert found.keys() == flat.keys()
    assert all(np.array_equal(found[path], flat[path]) for path in flat)


def test_what_files_call_big_transfers_tensors():
    model = tiny("resnetv2_50x1_bit")
    tensors = rules.unconvert(GOOGLE_BIT, model, drawn(model))
    shapes = {name: array.shape for name, array in tensors.items()}
    assert shapes["resnet/root_block/standardized_conv2d/kernel"] == (7, 7, 3, 32)
    assert shapes["resnet/block1/unit01/a/proj/standardized_conv2d/kernel"] == (1, 1, 32, 128)
    assert shapes["resnet/block1/unit02/c/group_norm/gamma"] == (32,)
    assert shapes["resnet/head/conv2d/kernel"] == (1, 1, 256, 10)


def test_big_transfer_files_may_lack_the_prefix_and_the_head():
    model = tiny("resnetv2_50x1_bit")
    flat = drawn(model)
    tensors = {
        name.removeprefix("resnet/"): array
        for name, array in rules.unconvert(GOOGLE_BIT, model, flat).items()
        if "/head/" not in name
    }
    found = rules.convert(GOOGLE_BIT, model, shapes_of(model), tensors, "file")
    assert found.keys() == {path for path in flat if not path.startswith("head/")}
    assert all(np.array_equal(found[path], flat[path]) for path in found)


def test_what_keras_files_call_their_tensors():
    model = tiny("keras_resnet50")
    tensors = rules.unconvert(KERAS, model, drawn(model))
    assert tensors["conv1_conv/conv1_conv/kernel"].shape == (7, 7, 3, 8)
    assert tensors["conv3_block1_0_bn/conv3_block1_0_bn/moving_variance"].shape == (64,)
    # In Keras' model a shortcut's convolution precedes the third one.
    tensors = rules.unconvert(KERAS_3, model, drawn(model))
    assert tensors["layers/conv2d_3/vars/0"].shape == (1, 1, 8, 32)
    assert tensors["layers/dense/vars/1"].shape == (10,)


@pytest.mark.parametrize("name", ["keras_resnet50", "keras_resnet50v2"])
def test_keras_files_in_all_their_spellings(name, tmp_path):
    """Published files have scopes, `:0`, a head called `probs`; or they hold a whole model."""
    model = tiny(name)
    flat = drawn(model)
    tensors = {}
    for key, array in rules.unconvert(KERAS, model, flat).items():
        layer, _, variable = key.split("/")
        layer = "probs" if layer == "predictions" else layer
        tensors[f"model_weights/{layer}/{layer}_1/{variable}:0"] = array
    tensors["optimizer_weights/adam/iteration"] = np.int64(3)
    tensors["optimizer_weights/Adam/conv1_conv/kernel/m:0"] = np.zeros(3, np.float32)
    write(tmp_path / "model.h5", tensors)
    tensors = read(tmp_path / "model.h5").tensors
    network = find_network([KERAS], model, shapes_of(model), tensors, "file", name)
    found = rules.convert(KERAS, model, shapes_of(model), network.tensors, "file")
    assert not network.notes
    assert found.keys() == flat.keys()
    assert all(np.array_equal(found[path], flat[path]) for path in flat)


def test_v1_of_keras_takes_blue_first_and_ours_red_first():
    for name, turned in (("keras_resnet50", True), ("keras_resnet50v2", False)):
        flat = drawn(tiny(name))
        kernel = flat["stem/conv/kernel"]
        theirs = rules.unconvert(KERAS, tiny(name), flat)["conv1_conv/conv1_conv/kernel"]
        assert np.array_equal(theirs, kernel[:, :, ::-1] if turned else kernel)


@pytest.mark.parametrize(("name", "family"), FAMILIES_OF)
def test_a_missing_a_strange_and_a_misshapen_tensor_are_named(name, family):
    model = tiny(name)
    tensors = rules.unconvert(family, model, drawn(model))
    missing, misshapen = list(tensors)[3], list(tensors)[5]
    del tensors[missing]
    tensors[misshapen] = tensors[misshapen][..., :-1]
    tensors["strange"] = np.zeros(2)
    with pytest.raises(InputError) as error:
        rules.convert(family, model, shapes_of(model), tensors, "file")
    assert "3 places" in str(error.value)
    for name in (missing, misshapen, "strange"):
        assert name in str(error.value)


@pytest.mark.parametrize("name", TINY)
def test_the_family_of_a_file_is_told_by_its_names(name):
    model = tiny(name)
    flat = drawn(model)
    accepting = [family for family in FAMILIES if family.accepts(model)]
    assert TORCH_RESNET not in accepting
    for family in accepting:
        names = list(rules.unconvert(family, model, flat))
        known = [count_known(other, model, list(flat), names) for other in accepting]
        assert accepting[known.index(max(known))] is family
        assert sum(known) == max(known)
