"""Runs in stages: what each trains, what the next one inherits, and resuming after a kill."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

import tljax
from tests.bits import changed_paths, same
from tests.soak.campaign import compare
from tests.tiny_networks import NETWORKS, PREPROCESSING, network
from tests.watched import Watched
from tljax import data as data_lib
from tljax.errors import InputError
from tljax.models.groups import leaf_paths
from tljax.runs.checkpoints import Checkpoints, has_checkpoint
from tljax.runs.metrics import read_rows
from tljax.runs.resume import best_variables
from tljax.transfer import Stage, feature_extraction, fine_tune, gradual_unfreezing, lp_ft

OPTIONS = {
    "preprocessing": PREPROCESSING,
    "batch_size": 8,
    "steps": 6,
    "eval_every": 2,
    "checkpoint_every": 1,
    "keep": 9,
    "log_every": 1,
    "lr": 0.05,
    "augment": "crop",
    "progress": False,
}


@pytest.fixture(scope="module")
def digits():
    whole = data_lib.load("embedded:digits", train_size=40)
    some = {split: data_lib.Subset(getattr(whole, split), range(64)) for split in ("val", "test")}
    return dataclasses.replace(whole, **some)


@pytest.fixture(params=NETWORKS)
def start(request):
    return network(request.param)


@pytest.fixture
def resnet():
    return network("resnet")


def saved(workdir, step):
    return Checkpoints(workdir / "checkpoints").read(step)


# --- LP-FT ----------------------------------------------------------------------------------------


def test_lp_ft_fine_tunes_from_the_probes_head(resnet, digits, tmp_path):
    model, variables = resnet
    stages = lp_ft(fine_tune(model.groups, backbone=0.5), probe_share=0.5, probe_lr=1.0)
    test = Watched(digits.test)
    result = tljax.fit_stages(
        model, variables, stages, digits.train, digits.val, test, workdir=tmp_path, **OPTIONS
    )
    probe = saved(tmp_path / "stages" / "1", 3)
    moved = changed_paths(variables, probe.variables)
    assert moved == {"params/head/kernel", "params/head/bias"}, "the backbone is the source's"
    rows = read_rows(tmp_path / "stages" / "1" / "metrics.jsonl")
    best = max(
        (row for row in rows if row["event"] == "val"),
        key=lambda row: (row["accuracy"], -row["loss"], -row["step"]),
    )
    carried = best_variables(tmp_path / "stages" / "1")
    first = read_rows(tmp_path / "metrics.jsonl")[0]
    assert (first["event"], first["step"]) == ("val", 0)
    assert first["loss"] == pytest.approx(best["loss"], rel=1e-6), "loss of the carried weights"
    beginning = saved(tmp_path, 0)
    assert same(beginning.variables, carried)
    momentum = [leaf for leaf in jax.tree.leaves(beginning.opt_state) if np.ndim(leaf)]
    assert momentum, "of all parameters"
    assert not any(np.any(leaf) for leaf in momentum), "fresh"
    assert changed_paths(carried, saved(tmp_path, 3).variables) >= {
        f"params/{path}" for path in leaf_paths(variables["params"])
    }
    assert set(test.reads.values()) == {1}
    assert [row["event"] for row in result.history].count("test") == 1
    assert result.history[-1]["event"] == "test"


def test_the_result_covers_all_stages(resnet, digits, tmp_path):
    model, variables = resnet
    plan = fine_tune(model.groups)
    stages = lp_ft(plan, probe_share=1 / 3)
    data = (digits.train, digits.val, digits.test)
    options = {**OPTIONS, "seed": 5}
    on_disk = tljax.fit_stages(model, variables, stages, *data, workdir=tmp_path, **options)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result == on_disk.summary
    assert (result["steps"], result["examples_seen"], result["seed"]) == (6, 48, 5)
    assert result["plan"] == plan.to_json()
    assert [stage["steps"] for stage in result["stages"]] == [2, 4]
    assert [stage["plan"]["init"][-1] for stage in result["stages"]] == ["random", "carried"]
    probe = json.loads((tmp_path / "stages" / "1" / "result.json").read_text())
    assert probe["val_accuracy"] == result["stages"][0]["val_accuracy"]
    assert "test_accuracy" not in probe
    assert result["wall_seconds"] > probe["wall_seconds"]
    seen = [row["examples"] for row in on_disk.history if row["event"] == "val"]
    assert seen == [0, 16, 16, 32, 48], "counted from the run's start"
    in_memory = tljax.fit_stages(model, variables, stages, *data, **options)
    assert same(in_memory.variables, on_disk.variables)
    assert in_memory.history == on_disk.history


@pytest.fixture(scope="module")
def fit_lp_ft(digits):
    """fit(workdir, fail_at=None, variables=..., probe_lr=1.0): trains a ResNet for 16 steps."""
    model, variables = network("resnet")
    options = OPTIONS | {"cache": "off", "steps": 16, "checkpoint_every": 2}

    def fit(workdir, fail_at=None, variables=variables, probe_lr=1.0):
        train = digits.train if fail_at is None else Watched(digits.train, fail_at)
        stages = lp_ft(fine_tune(model.groups), probe_lr=probe_lr)
        given = (model, variables, stages, train, digits.val, digits.test)
        return tljax.fit_stages(*given, workdir=workdir, **options)

    return fit


@pytest.fixture(scope="module")
def straight(fit_lp_ft, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("straight")
    return workdir, fit_lp_ft(workdir).history


@pytest.mark.parametrize("stage", [1, 2])
def test_killed_in_either_stage_it_ends_with_the_same_bits(stage, straight, fit_lp_ft, tmp_path):
    whole, history = straight
    if stage == 2:  # the first one is done
        shutil.copytree(whole / "stages", tmp_path / "stages")
    with pytest.raises(KeyboardInterrupt):
        fit_lp_ft(tmp_path, fail_at=8 * 5)
    assert has_checkpoint(tmp_path / "stages" / "1")
    assert has_checkpoint(tmp_path) == (stage == 2)
    assert fit_lp_ft(tmp_path).history == history
    assert compare(whole, tmp_path) == []
    assert compare(whole / "stages" / "1", tmp_path / "stages" / "1") == []


def test_a_finished_stage_is_read_and_not_run_again(straight, fit_lp_ft, tmp_path):
    whole, history = straight
    first = shutil.copytree(whole / "stages", tmp_path / "stages") / "1"

    def times():
        return {p: p.stat().st_mtime_ns for p in first.rglob("*") if p.name != ".lock"}

    before = times()
    cut = fit_lp_ft(tmp_path, variables=None)
    assert times() == before
    assert compare(whole, tmp_path) == []
    assert cut.history == history
    with pytest.raises(InputError, match=r"lr was 1.0 and is 0.5"):
        fit_lp_ft(tmp_path, probe_lr=0.5)


def test_the_probes_features_are_computed_once(resnet, digits):
    model, variables = resnet
    train = Watched(digits.train)
    stages = lp_ft(fine_tune(model.groups))
    options = {**OPTIONS, "steps": 40, "augment": "none", "cache": "memory"}
    probe_steps = 20
    tljax.fit_stages(model, variables, stages, train, None, **options)
    assert probe_steps * 8 == 4 * len(train), "the probe sees each image four times"
    second = (40 - probe_steps) * 8
    assert train.reads.total() < len(train) + second + 8 * 20, "plus images read ahead"


def test_the_line_of_wise_ft_is_drawn_in_the_last_stage_alone(resnet, digits, tmp_path):
    """A probe on the line to its start would be pulled back to a head of zeros."""
    model, variables = resnet
    stages = lp_ft(fine_tune(model.groups))

    def fit(workdir, test, **options):
        given = (model, variables, stages, digits.train, None, test)
        return tljax.fit_stages(*given, workdir=workdir, **OPTIONS | options)

    line = {"wise_ft": True, "wise_ft_alpha": 0.5}
    result = fit(tmp_path / "line", digits.test, **line)
    fit(tmp_path / "plain", None)
    probes = [tmp_path / name / "stages" / "1" for name in ("line", "plain")]
    assert same(saved(probes[0], 3).variables, saved(probes[1], 3).variables)
    assert [row["step"] for row in result.history if row["event"] == "wise_ft"] == [4]
    assert result.summary["examples_seen"] == 6 * 8

    def times():
        return {p: p.stat().st_mtime_ns for p in probes[0].rglob("*") if p.name != ".lock"}

    before = times()
    (tmp_path / "line" / "result.json").unlink()
    assert same(fit(tmp_path / "line", digits.test, **line).variables, result.variables)
    assert times() == before, "the first stage is done"


def test_a_solved_heads_penalty_is_of_the_first_stage(resnet, digits):
    model, variables = resnet
    stages = lp_ft(fine_tune(model.groups))
    given = (model, variables, stages, digits.train, None)
    options = {**OPTIONS, "steps": 2, "head_init": "solved", "l2": 0.5}
    assert tljax.fit_stages(*given, **options).history[0]["l2"] == 0.5
    with pytest.raises(InputError, match=r"stage 1 of 2: l2 is 0\.5, but no head is solved"):
        tljax.fit_stages(*given, **options | {"head_init": "zero"})


# --- gradual unfreezing ---------------------------------------------------------------------------


def test_each_stage_moves_the_groups_promised_and_no_other(start, digits, tmp_path):
    model, variables = start
    stages = gradual_unfreezing(fine_tune(model.groups, backbone=0.5))
    assert len(stages) == len(model.groups)
    options = {**OPTIONS, "steps": 3 * len(stages), "eval_every": 3, "lr": 0.5}
    tljax.fit_stages(
        model, variables, stages, digits.train, digits.val, workdir=tmp_path, **options
    )
    before = variables
    for number in range(1, len(stages) + 1):
        workdir = tmp_path if number == len(stages) else tmp_path / "stages" / str(number)
        after = saved(workdir, 3).variables
        lowest = len(stages) - number
        for path in changed_paths(variables, after):
            assert model.groups.depth(path.split("/", 1)[1]) >= lowest, path
        moved = changed_paths(before, after)
        for path in leaf_paths(variables["params"]):
            assert (f"params/{path}" in moved) == (model.groups.depth(path) >= lowest), path
        before = after
    assert lowest == 0, "the last stage trains everything"


@pytest.mark.parametrize(
    ("frozen", "more", "lowest"),
    [(0, 1, [5, 4, 3, 2, 1, 0]), (0, 2, [5, 3, 1, 0]), (2, 1, [5, 4, 3, 2]), (2, 9, [5, 2])],
)
def test_what_the_plan_freezes_has_no_stage(frozen, more, lowest):
    plan = tljax.freeze_first(tljax.create("resnet10_32", 10).groups, frozen)
    stages = gradual_unfreezing(plan, more)
    assert [stage.plan.lr_scale.index(1.0) for stage in stages] == lowest
    assert stages[-1].plan.lr_scale == plan.lr_scale
    assert sum(stage.share for stage in stages) == pytest.approx(1)


# --- mistakes -------------------------------------------------------------------------------------


def test_stages_that_make_no_sense_are_refused(resnet, digits):
    model, variables = resnet
    for plan in (feature_extraction(model.groups), tljax.from_scratch(model.groups)):
        with pytest.raises(InputError, match="use scenario fine_tune"):
            lp_ft(plan)
    plan = fine_tune(model.groups)
    stages = gradual_unfreezing(plan)
    with pytest.raises(InputError, match="set it to 3 or more"):
        tljax.fit_stages(model, variables, stages, digits.train, None, **OPTIONS | {"steps": 2})
    options = OPTIONS | {"optimizer": "lbfgs", "augment": "none"}
    with pytest.raises(InputError, match="optimizer is lbfgs, which is one step, but there are"):
        tljax.fit_stages(model, variables, stages, digits.train, None, **options)
    with pytest.raises(InputError, match="stage 1 of 2: warmup is 3 steps"):
        tljax.fit_stages(
            model, variables, lp_ft(plan), digits.train, None, **OPTIONS | {"warmup": 3}
        )
    with pytest.raises(InputError, match="add up to 1"):
        tljax.fit_stages(model, variables, [Stage(plan, 0.5)], digits.train, None, **OPTIONS)


def test_a_later_stage_that_would_begin_anew_is_refused(resnet, digits):
    model, variables = resnet
    first, second = tljax.feature_extraction(model.groups), tljax.fine_tune(model.groups)
    stages = [Stage(first, 0.5), Stage(second, 0.5)]
    with pytest.raises(InputError, match="stage 2 of 2 would begin anew"):
        tljax.fit_stages(model, variables, stages, digits.train, None, **OPTIONS)
