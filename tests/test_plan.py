"""The transfer plan: scenarios, validation, initialisation, schedules."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax.errors import InputError
from tljax.models import create, init
from tljax.transfer import (
    TransferPlan,
    feature_extraction,
    fine_tune,
    freeze_first,
    from_scratch,
    learning_rate_schedule,
    merge,
)
from tljax.transfer.partition import split
from tljax.transfer.scenarios import build
from tljax.transfer.signatures import accepted_fields, check_used

MODEL = create("resnet10_32", 10)
GROUPS = MODEL.groups


def test_the_four_scenarios():
    pretrained = ("pretrained",) * 5 + ("random",)
    assert feature_extraction(GROUPS).lr_scale == (0, 0, 0, 0, 0, 1)
    assert freeze_first(GROUPS, 2).lr_scale == (0, 0, 1, 1, 1, 1)
    assert from_scratch(GROUPS).lr_scale == (1,) * 6
    assert fine_tune(GROUPS, 0.1).lr_scale == pytest.approx((0.1,) * 5 + (1,))
    assert from_scratch(GROUPS).init == ("random",) * 6
    for plan in (feature_extraction(GROUPS), freeze_first(GROUPS, 2), fine_tune(GROUPS)):
        assert plan.init == pretrained
    assert fine_tune(GROUPS, head="pretrained").init == ("pretrained",) * 6


def test_k_of_the_textbook_example():
    """Nine of twelve frozen ViT blocks are k = 10: the embedding counts."""
    plan = freeze_first(create("vit_small_patch16_224", 10).groups, 10)
    assert not plan.is_trained("block8/mlp/fc1/kernel")
    assert plan.is_trained("block9/mlp/fc1/kernel")


def test_a_plan_is_an_immutable_value():
    plan = feature_extraction(GROUPS)
    assert plan == feature_extraction(GROUPS)
    assert hash(plan) == hash(feature_extraction(GROUPS))
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.train = ".*bias"


@pytest.mark.parametrize("k", [-1, 6, 100])
def test_k_beyond_the_depth(k):
    with pytest.raises(InputError, match=r"k goes from 0 to 5"):
        freeze_first(GROUPS, k)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"lr_scale": (1, 1)}, "lr_scale has 2 entries for 6 groups"),
        ({"lr_scale": (-1, 1, 1, 1, 1, 1)}, "finite numbers >= 0"),
        ({"lr_scale": (float("nan"),) * 6}, "finite numbers >= 0"),
        ({"lr_scale": (0,) * 6}, "trains nothing"),
        ({"init": ("zero",) * 6}, "'pretrained' or 'random'"),
        ({"statistics": "frozen"}, "'follow' or 'stored'"),
        ({"train": "("}, "not a regular expression"),
    ],
)
def test_impossible_plans(fields, sentence):
    values = {"init": ("random",) * 6, "lr_scale": (1,) * 6, **fields}
    with pytest.raises(InputError, match=sentence.replace("(", r"\(")):
        TransferPlan(**values, groups=GROUPS)


def test_a_regex_that_matches_no_parameter_is_an_error():
    params = init(MODEL, jax.random.key(0), 32)["params"]
    with pytest.raises(InputError, match="trains nothing"):
        from_scratch(GROUPS, train="nothing").modes(params)


def test_unknown_scenario_and_missing_k():
    with pytest.raises(InputError, match="did you mean 'fine_tune'"):
        build("finetune", GROUPS)
    with pytest.raises(InputError, match="set k"):
        build("freeze_first", GROUPS)


@pytest.mark.parametrize(
    ("scenario", "fields", "sentence"),
    [
        ("feature_extraction", {"k": 2}, "set scenario to freeze_first or surgical"),
        ("fine_tune", {"k_last": 2}, "unset k_last, or set scenario to surgical"),
        ("freeze_first", {"k": 1, "lr_spread": 10.0}, "lr_spread is 10.0, .* to fine_tune"),
        ("from_scratch", {"init_k": 0}, "feature_extraction or freeze_first or fine_tune or surg"),
        ("surgical", {}, "set k and k_last to a value from 0 to 4"),
        ("freeze_first", {"layer_decay": 0.5}, "set k to a value from 0 to 5"),
    ],
)
def test_fields_that_a_scenario_does_not_use_or_lacks(scenario, fields, sentence):
    with pytest.raises(InputError, match=sentence):
        build(scenario, GROUPS, fields)


def test_fields_with_a_default_may_be_unused():
    rates = {"backbone_lr_scale": 0.5, "layer_decay": 0.5}
    assert build("from_scratch", GROUPS, rates) == from_scratch(GROUPS)
    assert build("fine_tune", GROUPS, rates) == fine_tune(GROUPS, 0.5, 0.5)


def test_the_fields_of_a_constructor_are_read_from_its_signature():
    def every_other(groups, offset: int, stride: int = 2, *, head="random", **plan):
        return (groups, offset, stride, head, plan)

    accepted = {"every_other": accepted_fields(every_other, {"stride": "k", "head": None})}
    assert list(accepted["every_other"]) == ["offset", "k"]
    check_used("scenario", "every_other", accepted, {"offset": 1, "k": None})
    with pytest.raises(InputError, match="stages is not set; unset k, or set stages to every_oth"):
        check_used("stages", None, accepted, {"k": 3})


def test_split_and_merge_are_inverse():
    params = init(MODEL, jax.random.key(0), 32)["params"]
    chosen, rest = split(params, lambda path: "conv1" in path)
    merged = merge(chosen, rest)
    assert jax.tree.structure(merged) == jax.tree.structure(params)
    assert jax.tree.all(jax.tree.map(lambda a, b: a is b, merged, params))
    with pytest.raises(ValueError, match="both trees"):
        merge(params, chosen)


def test_each_group_starts_where_the_plan_says():
    random, pretrained = (init(MODEL, jax.random.key(seed), 32) for seed in (0, 1))
    pretrained["params"]["head"] = {"kernel": jnp.ones((128, 37)), "bias": jnp.ones(37)}
    start = feature_extraction(GROUPS).initialise(random, pretrained)
    assert start["params"]["head"]["kernel"] is random["params"]["head"]["kernel"]
    assert start["params"]["stem"] == pretrained["params"]["stem"]
    assert start["batch_stats"] == pretrained["batch_stats"]
    assert from_scratch(GROUPS).initialise(random, None) == random


def test_init_k_is_how_far_the_pretrained_groups_go():
    for n in range(len(GROUPS)):
        wanted = ("pretrained",) * n + ("random",) * (6 - n)
        frozen, moving = freeze_first(GROUPS, n, init_k=n), fine_tune(GROUPS, 1.0, init_k=n)
        assert (frozen.init, frozen.lr_scale) == (wanted, (0.0,) * n + (1.0,) * (6 - n))
        assert (moving.init, moving.lr_scale) == (wanted, (1.0,) * 6)
        for scenario, k in (("feature_extraction", {}), ("surgical", {"k": 1, "k_last": 2})):
            assert build(scenario, GROUPS, {"init_k": n, **k}).init == wanted
    assert fine_tune(GROUPS, head="pretrained", init_k=5).init == ("pretrained",) * 6
    for n in (-1, 6):
        with pytest.raises(InputError, match="init_k goes from 0 to 5"):
            freeze_first(GROUPS, 2, init_k=n)


def test_all_misfits_are_reported_together():
    random, pretrained = (init(MODEL, jax.random.key(seed), 32) for seed in (0, 1))
    del pretrained["params"]["stem"]["conv"]["kernel"]
    pretrained["params"]["layer1_0"]["conv1"]["conv"]["kernel"] = jnp.ones((3, 3, 4, 4))
    with pytest.raises(InputError, match=r"in 2 places") as error:
        fine_tune(GROUPS).initialise(random, pretrained)
    assert "params/stem/conv/kernel is missing" in str(error.value)
    assert "(3, 3, 4, 4) instead of (3, 3, 16, 16)" in str(error.value)
    with pytest.raises(InputError, match="init_from is not set"):
        fine_tune(GROUPS).initialise(random, None)


def test_schedules():
    steps = np.arange(100)
    cosine = learning_rate_schedule("cosine", 2.0, 100, warmup=10)
    rates = np.array([float(cosine(step)) for step in steps])
    assert rates[0] == 0.0
    assert rates.argmax() == 10
    assert rates[10] == pytest.approx(2.0)
    np.testing.assert_allclose(
        rates[10:], 1 + np.cos(np.pi * np.arange(90) / 90), rtol=1e-5, atol=1e-6
    )
    drops = learning_rate_schedule("step", 1.0, 100, milestones=(0.3, 0.6))
    assert [round(float(drops(s)), 4) for s in (0, 29, 30, 59, 60, 99)] == [
        1,
        1,
        0.1,
        0.1,
        0.01,
        0.01,
    ]
    assert float(learning_rate_schedule("constant", 0.5, 10)(7)) == 0.5
    with pytest.raises(InputError, match="did you mean 'cosine'"):
        learning_rate_schedule("cosin", 1.0, 10)
    with pytest.raises(InputError, match="warmup is 10 steps"):
        learning_rate_schedule("cosine", 1.0, 10, warmup=10)
