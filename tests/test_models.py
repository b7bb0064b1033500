"""Models: published sizes, groups, and cuts at any group."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.test_plan_laws import FURTHER, NETWORKS, network
from tljax.errors import InputError
from tljax.models import MODELS, Groups, create, init, parameter_count, tracing
from tljax.models.arithmetic import depthwise, strided_depthwise
from tljax.models.groups import leaf_paths

SMALL = ("resnet10_32", "vit_micro_patch4_32")


def abstract(name):
    """A network, and its variables without numbers: one trace serves several tests."""
    model = create(name, 1000)
    return model, tracing.abstract_variables(model, MODELS[name].preprocessing.image_size)


@pytest.mark.parametrize(
    ("name", "parameters", "groups"),
    [
        # torchvision's documented num_params, and timm's param_count
        ("resnet18", 11_689_512, 10),
        ("resnet34", 21_797_672, 18),
        ("resnet50", 25_557_032, 18),
        ("resnet101", 44_549_160, 35),
        ("resnet152", 60_192_808, 52),
        ("vit_tiny_patch16_224", 5_717_416, 14),
        ("vit_small_patch16_224", 22_050_664, 14),
        ("vit_base_patch16_224", 86_567_656, 14),
        ("vit_base_patch32_224", 88_224_232, 14),
        ("vit_large_patch16_224", 304_326_632, 26),
        ("tf_efficientnetv2_b0", 7_139_704, 23),
        ("tf_efficientnetv2_s", 21_458_488, 42),
        ("tf_efficientnet_lite0", 4_652_008, 18),
        ("mobilenetv3_small_100", 2_542_856, 14),
        ("mobilenetv3_large_100", 5_483_032, 18),
        ("mobilenetv4_conv_small", 3_774_024, 19),
        ("mobilenetv4_conv_medium", 9_715_512, 25),
        ("convnext_atto", 3_695_520, 14),
        ("convnext_tiny", 28_589_128, 20),
        ("convnext_large", 197_767_336, 38),
        ("convnextv2_nano", 15_623_800, 16),
        ("convnextv2_base", 88_717_800, 38),
    ],
)
def test_sizes_are_the_published_ones(name, parameters, groups):
    model, variables = abstract(name)
    assert parameter_count(variables["params"]) == parameters
    assert len(model.groups) == groups


@pytest.mark.parametrize(
    ("name", "millions", "groups"),
    [  # `param_count` of timm's results
        ("resnetv2_50x1_bit", 25.55, 18),
        ("resnetv2_101x3_bit", 387.93, 35),
        ("resnetv2_152x4_bit", 936.53, 52),
    ],
)
def test_sizes_of_big_transfer_are_the_published_ones(name, millions, groups):
    model, variables = abstract(name)
    assert round(parameter_count(variables["params"]) / 1e6, 2) == millions
    assert len(model.groups) == groups


@pytest.mark.parametrize(
    ("name", "count"),
    [  # `count_params()` of Keras 3.15, which counts BatchNorm's statistics
        ("keras_resnet50", 25_636_712),
        ("keras_resnet152", 60_419_944),
        ("keras_resnet50v2", 25_613_800),
        ("keras_resnet101v2", 44_675_560),
    ],
)
def test_sizes_of_keras_networks_are_those_of_keras(name, count):
    _, variables = abstract(name)
    assert parameter_count(variables) == count


@pytest.mark.parametrize("fields", [{}, {"dropout": 0.1, "drop_path": 0.1}, {"remat": True}])
@pytest.mark.parametrize("name", [*SMALL, "resnetv2_50x1_bit"])
def test_abstract_variables_are_those_that_are_drawn(name, fields):
    known = create(name, 10).__dataclass_fields__
    model = create(name, 10, **{field: v for field, v in fields.items() if field in known})
    drawn = jax.eval_shape(lambda key: init(model, key, 64), jax.random.key(0))
    traced = tracing.abstract_variables(model, 64)
    assert jax.tree.structure(traced) == jax.tree.structure(drawn)
    assert leaf_paths(traced) == leaf_paths(drawn)
    found, wanted = ([(x.shape, x.dtype) for x in jax.tree.leaves(t)] for t in (traced, drawn))
    assert found == wanted


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_is_in_exactly_one_group_and_no_group_is_empty(name):
    model, variables = abstract(name)
    depths = {model.groups.depth(path) for path in leaf_paths(variables["params"])}
    assert depths == set(range(len(model.groups)))


def test_the_final_norm_belongs_to_the_last_block():
    groups = create("vit_small_patch16_224", 10).groups
    assert groups.depth("norm/scale") == groups.depth("block11/mlp/fc1/kernel") == 12
    assert groups.depth("block1/norm1/scale") == 2


def test_a_parameter_in_no_group_or_in_two_is_an_error_that_names_it():
    groups = Groups((("a", "a/"), ("b", "(a|b)/")))
    for path in ("a/kernel", "c/kernel"):
        with pytest.raises(InputError, match=path):
            groups.depth(path)


@pytest.mark.parametrize("name", [*NETWORKS, *FURTHER])
def test_a_cut_run_is_the_whole_run(name):
    model, variables = network(name)
    x = jax.random.normal(jax.random.key(1), (3, 32, 32, 3))
    whole = model.apply(variables, x)
    jitted = jax.jit(model.apply, static_argnames=("train", "start", "stop"))
    scale = float(jnp.abs(whole).max())
    for cut in range(len(model.groups) + 1):
        eager = model.apply(variables, model.apply(variables, x, stop=cut), start=cut)
        assert np.array_equal(eager, whole), f"cut at {cut}"
        compiled = jitted(variables, jitted(variables, x, stop=cut), start=cut)
        np.testing.assert_allclose(compiled, whole, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(
    "cut", [{"stop": -1}, {"start": -1}, {"stop": 99}, {"start": 4, "stop": 3}]
)
def test_a_cut_that_the_model_does_not_have_is_an_error(name, cut):
    model = create(name, 10)
    variables = init(model, jax.random.key(0), 32)
    with pytest.raises(ValueError, match="of 6"):
        model.apply(variables, jnp.zeros((1, 32, 32, 3)), **cut)


@pytest.mark.parametrize("name", [*SMALL, "convnext_micro_32", "mobilenetv3_micro_32"])
def test_the_head_sees_features(name):
    model = create(name, 10)
    variables = init(model, jax.random.key(0), 32)
    x = jax.random.normal(jax.random.key(1), (3, 32, 32, 3))
    features = model.apply(variables, x, stop=len(model.groups) - 1)
    assert features.shape == (3, variables["params"]["head"]["kernel"].shape[0])
    assert features.dtype == jnp.float32
    headless = create(name, 0).apply(variables, x)
    assert np.array_equal(headless, features)


def test_stochastic_depth_drops_whole_images_and_keeps_the_mean():
    model = create("vit_micro_patch4_32", 10, drop_path=0.5)
    variables = init(model, jax.random.key(0), 32)
    x = jnp.tile(jax.random.normal(jax.random.key(1), (1, 32, 32, 3)), (64, 1, 1, 1))
    tokens = model.apply(variables, x, stop=4)
    last = {"start": 4, "stop": 5}
    train = model.apply(variables, tokens, train=True, rngs={"dropout": jax.random.key(2)}, **last)
    evaluated = model.apply(variables, tokens, train=False, **last)
    assert len(np.unique(np.round(np.asarray(train[:, 0]), 4))) <= 4  # two branches, kept or not
    assert len(np.unique(np.round(np.asarray(evaluated[:, 0]), 4))) == 1


def test_modes_are_per_group():
    model = create("vit_micro_patch4_32", 10, dropout=0.5)
    variables = init(model, jax.random.key(0), 32)
    x = jax.random.normal(jax.random.key(1), (3, 32, 32, 3))
    only_last = (False, False, False, False, True, False)

    def features(train, stop):
        key = {"dropout": jax.random.key(2)}
        return model.apply(variables, x, train=train, stop=stop, rngs=key)

    assert np.array_equal(features(only_last, 4), features(False, 4))
    assert not np.array_equal(features(only_last, 5), features(False, 5))


@pytest.mark.parametrize("name", [*SMALL, "convnext_micro_32", "mobilenetv3_micro_32"])
def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters(name):
    model = create(name, 10, dtype=jnp.bfloat16)
    variables = init(model, jax.random.key(0), 32)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    x = jax.random.normal(jax.random.key(1), (3, 32, 32, 3))
    assert model.apply(variables, x, stop=1).dtype == jnp.bfloat16
    exact = create(name, 10).apply(variables, x)
    np.testing.assert_allclose(model.apply(variables, x), exact, atol=0.05 * jnp.abs(exact).max())


def test_mean_pooling_leaves_the_class_token_out():
    model = create("vit_micro_patch4_32", 0, pooling="mean")
    variables = init(model, jax.random.key(0), 32)
    for branch, dense in (("attn", "proj"), ("mlp", "fc2")):  # the last block becomes the identity
        layer = variables["params"]["block3"][branch][dense]
        layer["kernel"] = jnp.zeros_like(layer["kernel"])
    tokens = jax.random.normal(jax.random.key(1), (2, 65, 64))

    def pooled(tokens):
        return model.apply(variables, tokens, start=4, stop=5)

    assert np.array_equal(pooled(tokens), pooled(tokens.at[:, 0].add(100.0)))
    mean = tokens[:, 1:].mean(axis=1)
    expected = (mean - mean.mean(-1, keepdims=True)) / mean.std(-1, keepdims=True)
    np.testing.assert_allclose(pooled(tokens), expected, atol=1e-4)


@pytest.mark.parametrize(
    "fields",
    [
        {"registers": 2, "layer_scale": 0.1},
        *(pytest.param(fields, marks=pytest.mark.soak) for fields in ({}, {"remat": True})),
    ],
)
def test_where_the_class_token_is_pooled_the_rest_of_the_last_block_makes_no_difference(fields):
    model = create("vit_micro_patch4_32", 0, depth=2, **fields)
    variables = init(model, jax.random.key(0), 32)
    images = jax.random.normal(jax.random.key(1), (3, 32, 32, 3))

    def of_all_tokens(variables, images):
        return model.clone(pooling="none").apply(variables, images)[:, 0]

    def value_and_gradients(function):
        value, pull = jax.vjp(function, variables, images)
        return jax.tree.leaves((value, pull(jnp.cos(jnp.arange(value.size)).reshape(value.shape))))

    both = (jax.jit(lambda f=f: value_and_gradients(f))() for f in (model.apply, of_all_tokens))
    for one, other in zip(*both, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * np.abs(other).max())


def test_registers_stand_between_the_class_token_and_the_patches_and_have_no_position():
    model = create("vit_micro_patch4_32", 0, registers=3, pooling="mean")
    variables = init(model, jax.random.key(0), 32)
    embed = variables["params"]["embed"]
    assert embed["pos_embed"].shape == (1, 64, 64)
    images = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    tokens = model.apply(variables, images, stop=1)
    assert tokens.shape == (2, 1 + 3 + 64, 64)
    assert np.array_equal(tokens[1, :1], embed["cls_token"][0])
    assert np.array_equal(tokens[1, 1:4], embed["reg_token"][0])
    # Registers take part in attention, but neither they nor the class token are pooled.
    for branch, dense in (("attn", "proj"), ("mlp", "fc2")):  # the last block becomes the identity
        layer = variables["params"]["block3"][branch][dense]
        layer["kernel"] = jnp.zeros_like(layer["kernel"])

    def pooled(tokens):
        return model.apply(variables, tokens, start=4, stop=5)

    assert np.array_equal(pooled(tokens), pooled(tokens.at[:, :4].add(100.0)))
    assert not np.array_equal(pooled(tokens), pooled(tokens.at[:, 4].add(100.0)))


def test_unknown_names_are_answered_with_the_closest():
    with pytest.raises(InputError, match="did you mean 'resnet50'"):
        create("resnet05", 10)
    with pytest.raises(InputError, match="did you mean 'drop_path'"):
        create("resnet50", 10, drop_pth=0.1)


@pytest.mark.parametrize(
    ("name", "classes", "fields", "sentence"),
    [
        ("vit_micro_patch4_32", 2, {"pooling": "men"}, "no pooling 'men' .did you mean 'mean'"),
        (
            "vit_micro_patch4_32",
            2,
            {"activation": "relu"},
            "no activation 'relu' .*known: gelu, ",
        ),
        ("vit_micro_patch4_32", 2, {"qkv_bias": True}, "no qkv_bias 'True'; known: all, "),
        ("mobilenetv3_micro_32", 2, {"activation": "gelu"}, "no activation 'gelu' .*known: relu"),
        ("mobilenetv3_micro_32", 2, {"head": "dense"}, "no head 'dense'; known: conv, "),
        ("keras_resnet50v2", 2, {"normalisation": "layer"}, "no normalisation 'layer'; known: gro"),
        ("vit_micro_patch4_32", 2, {"class_token": False}, "has no class token; set pooling to m"),
        ("vit_base_patch16_siglip_224", 0, {"pooling": "token"}, "has no class token; set pooling"),
        ("vit_micro_patch4_32", 2, {"pooling": "none"}, "num_classes is 2, .* set num_classes to"),
    ],
)
def test_fields_that_no_model_can_have(name, classes, fields, sentence):
    with pytest.raises(InputError, match=sentence):
        create(name, classes, **fields)


@pytest.mark.parametrize(("stride", "padding"), [(1, (3, 3)), (2, (3, 3)), (2, (2, 3))])
def test_a_depthwise_convolution_is_that_of_xla_and_so_are_its_gradients(stride, padding):
    x = jax.random.normal(jax.random.key(0), (2, 9, 6, 5))
    kernel = jax.random.normal(jax.random.key(1), (7, 7, 1, 5))

    def by_xla(x, kernel):
        dimensions, strides = ("NHWC", "HWIO", "NHWC"), (stride, stride)
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            strides,
            (padding, padding),
            dimension_numbers=dimensions,
            feature_group_count=5,
        )

    def ours(x, kernel):
        if stride == 1:
            return depthwise(x, kernel)
        return strided_depthwise(x, kernel, stride, (padding, padding))

    def both(convolve):
        return jax.value_and_grad(lambda *args: jnp.sin(convolve(*args)).sum(), (0, 1))(x, kernel)

    for a, b in zip(*map(jax.tree.leaves, (both(ours), both(by_xla))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_a_truncated_convnext_keeps_the_blocks_before():
    whole = create("convnext_micro_32", 10)
    cut = whole.truncated(2)
    assert cut.groups.names == ("stem", "layer1_0", "layer2_0", "head")
    variables = init(cut, jax.random.key(0), 32)
    assert "norm" not in variables["params"]
    features = cut.apply(variables, jnp.ones((1, 32, 32, 3)), stop=3)
    assert features.shape == (1, 48)
    assert whole.truncated(4) == whole
