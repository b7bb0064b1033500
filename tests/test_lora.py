"""LoRA: it has no effect at first, only updates and head train, and it can be merged."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tljax
from tests.bits import same
from tests.reference_weights import draw_file
from tests.test_plan_laws import (
    PREPROCESSING,
    STEPS,
    assert_frozen_identical_and_trained_moved,
    batches,
)
from tests.test_training import without_time
from tests.watched import Watched
from tljax import cli, experiment, weights
from tljax import config as config_lib
from tljax import data as data_lib
from tljax.analysis import cost
from tljax.errors import InputError
from tljax.models import ViT, init, lora
from tljax.models.flops import counted_flops
from tljax.models.groups import leaf_paths, map_with_path
from tljax.models.lora import LoRA
from tljax.runs.resume import best_variables
from tljax.training import train_state
from tljax.training.step import train_step
from tljax.transfer import feature_extraction, fine_tune
from tljax.weights import rules

PLAIN = ViT(64, 2, 4, 4, num_classes=10)
ADAPTERS = {
    "all": LoRA(4, alpha=8.0),
    "one layer": LoRA(2, targets="block1/attn/qkv"),
}
adapters = pytest.mark.parametrize("name", ADAPTERS)


@functools.cache
def network(name):
    """Plain variables, the adapted model, and its initial variables."""
    plain = init(PLAIN, jax.random.key(0), 32)
    model = PLAIN.clone(lora=ADAPTERS[name])
    groups = plan_of(model).groups
    plan = fine_tune(groups, head="pretrained")
    return plain, model, plan.initialise(init(model, jax.random.key(1), 32), plain)


def plan_of(model, **fields):
    return fine_tune(model.groups, backbone=1.0, train=lora.TRAINED, **fields)


def images(count=2):
    return jax.random.normal(jax.random.key(2), (count, 32, 32, 3))


def drawn(variables):
    """The variables, with random LoRA updates that have an effect."""

    def draw(path, leaf):
        key = jax.random.fold_in(jax.random.key(3), len(path))
        return 0.1 * jax.random.normal(key, leaf.shape) if lora.is_leaf(path) else leaf

    return {"params": map_with_path(draw, variables["params"])}


# --- the network --------------------------------------------------------------------------------


@pytest.mark.parametrize("jitted", [False, True])
def test_at_first_it_computes_what_the_source_computes_to_the_bit(jitted):
    plain, model, variables = network("all")

    def logits(model, variables):
        run = functools.partial(model.apply, train=False)
        return np.asarray((jax.jit(run) if jitted else run)(variables, images()))

    assert np.ptp(logits(PLAIN, plain)) > 0.1
    np.testing.assert_array_equal(logits(model, variables), logits(PLAIN, plain))


@adapters
def test_an_update_is_two_leaves_in_the_group_of_the_layer_that_it_adapts(name):
    plain, model, variables = network(name)
    new = set(leaf_paths(variables["params"])) - set(leaf_paths(plain["params"]))
    assert set(leaf_paths(plain["params"])) <= set(leaf_paths(variables["params"]))
    assert new == {path for path in leaf_paths(variables["params"]) if lora.is_leaf(path)}
    for path in new:
        layer = path.rpartition("/")[0]
        assert model.groups.depth(path) == model.groups.depth(f"{layer}/kernel")
    assert len(new) == (2 * 4 * 2 if name == "all" else 2)


def test_rematerialisation_and_cuts_see_the_same_leaves():
    _, model, variables = network("all")
    remat = model.clone(remat=True)
    assert jax.tree.structure(init(remat, jax.random.key(0), 32)) == jax.tree.structure(variables)
    variables = drawn(variables)
    whole = model.apply(variables, images())
    cut = model.apply(variables, model.apply(variables, images(), stop=2), start=2)
    np.testing.assert_array_equal(cut, whole)
    np.testing.assert_allclose(remat.apply(variables, images()), whole, atol=1e-5)


@adapters
def test_merged_it_is_a_plain_network_of_the_same_logits(name):
    plain, model, variables = network(name)
    variables = drawn(variables)
    merged, folded = tljax.merge_lora(model, variables)
    assert merged == PLAIN
    assert leaf_paths(folded) == leaf_paths(plain)
    adapted = model.apply(variables, images())
    assert np.abs(adapted - PLAIN.apply(plain, images())).max() > 1e-2, "or this tests nothing"
    np.testing.assert_allclose(merged.apply(folded, images()), adapted, rtol=0, atol=1e-5)
    assert tljax.merge_lora(merged, folded) == (merged, folded)


# --- the plan's laws ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "optimizer", "slots"), [("all", "adamw", 2), ("one layer", "sgd", 1)]
)
def test_updates_and_head_move_and_the_optimizer_knows_of_nothing_else(name, optimizer, slots):
    _, model, variables = network(name)
    variables = jax.tree.map(lambda leaf: jnp.where(leaf == 0, -0.0, leaf), variables)
    plan = plan_of(model)
    tx = plan.optimizer(optimizer, learning_rate=0.0, clip_norm=1.0)
    step = train_step(model, plan, PREPROCESSING, tx)
    state, frozen = train_state.create(plan, variables, tx)
    held = sorted(leaf.shape for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim)
    moving = {p: x for p, x in rules.flatten(variables).items() if lora.is_leaf(p) or "head" in p}
    assert set(leaf_paths(state.trained)) == set(moving)
    assert held == sorted([leaf.shape for leaf in moving.values()] * slots)
    for batch in batches(STEPS):
        state, _ = step(state, frozen, batch, jax.random.key(1), 0.1, 0.0)
    after = train_state.model_variables(state, frozen)
    assert_frozen_identical_and_trained_moved(plan, variables, after)


def test_the_step_costs_what_the_law_allows():
    _, model, variables = network("all")
    plan, batch_size = plan_of(model), 16
    given = (model, variables, 32, batch_size)
    counts, products = cost.group_flops(*given), cost.group_products(*given)
    law = sum(map(sum, cost.law_terms(counts, products, plan.trained_groups(variables["params"]))))
    arguments = cost.step_arguments(model, plan, variables, 32, batch_size)
    step = jax.jit(cost.step_function(model, plan, PREPROCESSING))
    assert counted_flops(step.lower(*arguments).compile()) <= 1.05 * law


def test_weights_that_lack_a_part_or_hold_an_update_without_a_place_are_refused():
    plain, model, variables = network("all")
    random = init(model, jax.random.key(1), 32)
    less = {"params": {**plain["params"], "block0": {}}}
    with pytest.raises(InputError, match="block0/attn/qkv/kernel is missing"):
        plan_of(model).initialise(random, less)
    with pytest.raises(InputError, match="lora_a is not in the model; merge LoRA"):
        feature_extraction(PLAIN.groups).initialise(plain, variables)
    again = plan_of(model).initialise(random, drawn(variables))  # e.g. to fit a new head
    assert same(again["params"]["block1"], drawn(variables)["params"]["block1"])


# --- runs ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return draw_file(tmp_path_factory.mktemp("source") / "vit.safetensors", RUN["model"])


RUN = {
    "data": "embedded:digits",
    "model": "vit_micro_patch4_32",
    "train_size": 40,
    "steps": 8,
    "batch_size": 16,
    "eval_every": 4,
    "lr": 0.02,
    "augment": "crop",
}


def lora_config(source, **fields):
    config = config_lib.base()
    config.augment = "crop_flip"
    more = {"init_from": str(source), "backbone_lr_scale": 1.0, "drop_path": 0.1}
    config.update({**RUN, **more, "lora_rank": 4, "lora_alpha": 8.0, **fields})
    return config


@pytest.fixture(scope="module")
def trained(source, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained") / "run"
    experiment.run(lora_config(source), workdir, progress=False)
    return workdir


def test_a_run_trains_updates_and_head_alone(trained, source):
    before, after = weights.load(str(source), RUN["model"]).arrays, best_variables(trained)
    after = rules.flatten(after)
    assert {path for path in after if path not in before} == set(filter(lora.is_leaf, after))
    for path, array in before.items():
        moved = np.asarray(after[path]).tobytes() != array.tobytes()
        assert moved == path.startswith("head/"), path
    result = json.loads((trained / "result.json").read_text())
    assert result["best_step"] > 0, "or this tests nothing"
    assert all(np.any(after[path]) for path in after if lora.is_leaf(path))
    moving = [leaf for path, leaf in after.items() if lora.is_leaf(path) or "head/" in path]
    assert result["trainable_parameters"] == sum(leaf.size for leaf in moving)
    assert result["plan"]["train"] == lora.TRAINED


def test_resumed_equals_uninterrupted_to_the_bit(source, tmp_path):
    exp = experiment.build(lora_config(source))
    digits = data_lib.load(RUN["data"], train_size=40)
    start = weights.variables_for(weights.load(str(source), RUN["model"]), exp.model, 32)
    options = dataclasses.asdict(exp.options) | {"preprocessing": exp.preprocessing}

    def run(train, folder):
        args = (exp.model, start, exp.plan, train, digits.val)
        return tljax.fit(*args, workdir=tmp_path / folder, progress=False, **options)

    straight = run(digits.train, "straight")
    with pytest.raises(KeyboardInterrupt):
        run(Watched(digits.train, fail_at=16 * 5), "killed")
    resumed = run(digits.train, "killed")
    assert same(straight.variables, resumed.variables)
    assert straight.history == resumed.history
    assert without_time(straight.summary) == without_time(resumed.summary)


def test_export_and_init_from_merge(trained, tmp_path):
    run = experiment.read_workdir(trained)
    model, x = run.experiment.model, images()
    adapted = model.apply(run.variables, x)
    output = tmp_path / "timm.safetensors"
    argv = ["export", "--workdir", str(trained), "--format", "timm", "--output", str(output)]
    assert cli.main(argv) == 0
    assert "| lora_rank | 4 |" in output.with_suffix(".md").read_text()
    for source in (output, trained):
        plain, variables, _ = tljax.load(RUN["model"], source, num_classes=None)
        assert plain.lora is None
        np.testing.assert_allclose(plain.apply(variables, x), adapted, rtol=0, atol=1e-5)
    base = {"scenario": "feature_extraction", "init_from": str(trained), "augment": "none"}
    base["accept_source"] = True  # it is too short to beat the naive baseline
    config = lora_config(trained, **base, lora_rank=None, lora_alpha=None, steps=1)
    result = experiment.run(config, tmp_path / "probe", progress=False)
    np.testing.assert_allclose(
        tljax.features(plain, result.variables, x), tljax.features(plain, variables, x), atol=1e-5
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"scenario": "from_scratch"}, "starts from random weights"),
        ({"init_k": 2}, "fine_tune with init_k=2 starts from random weights"),
        ({"scenario": "feature_extraction"}, "of LoRA's 32 leaves are frozen"),
        ({"scenario": "freeze_first", "k": 3}, "block0/attn/proj/lora_a"),
        ({"train": "head/.*"}, "of LoRA's 32 leaves are frozen"),
        ({"lora_rank": 65}, "at most 64"),
        ({"l2_sp_alpha": 0.1}, "stay where it would pull them"),
        ({"lora_targets": "attn"}, "block0/attn/qkv"),
        ({"model": "resnet10_32"}, "choose a ViT"),
    ],
)
def test_what_makes_no_sense_is_refused(fields, words, source):
    with pytest.raises(InputError, match=words):
        experiment.build(lora_config(source, **fields))


def test_updates_in_the_groups_that_train_go_with_frozen_ones(source):
    fields = {"scenario": "freeze_first", "k": 3, "lora_targets": "block[23]/.*"}
    exp = experiment.build(lora_config(source, **fields))
    assert exp.plan.frozen_prefix(init(exp.model, jax.random.key(0), 32)["params"]) == 3
