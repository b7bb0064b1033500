"""Runs in stages: what moves when, what is carried on, and how they go on after a kill."""

import json
import shutil

import jax
import numpy as np
import pytest

import tljax
from tests.soak.campaign import compare
from tests.watched import Watched
from tljax import cli
from tljax import data as data_lib
from tljax.data import Preprocessing
from tljax.errors import InputError
from tljax.models import init
from tljax.models.groups import leaf_paths
from tljax.training import experiment
from tljax.training.checkpointing import Checkpoints, best_variables
from tljax.training.workdir import read_rows
from tljax.transfer import Stage, feature_extraction, fine_tune, gradual_unfreezing, lp_ft

OPTIONS = {
    "preprocessing": Preprocessing(32, (0.5,) * 3, (0.5,) * 3),
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
    return data_lib.load("embedded:digits", train_size=40)


@pytest.fixture(scope="module", params=["resnet10_32", "vit_micro_patch4_32"])
def start(request):
    model = tljax.create(request.param, 10)
    return model, init(model, jax.random.key(0), 32)


@pytest.fixture(scope="module")
def resnet():
    model = tljax.create("resnet10_32", 10)
    return model, init(model, jax.random.key(0), 32)


def same(a, b):
    flat = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in flat
    )


def changed_paths(before, after):
    """Paths, with the collection's name, of the leaves that are not the same bits."""
    flat = zip(leaf_paths(before), jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return {path for path, a, b in flat if np.asarray(a).tobytes() != np.asarray(b).tobytes()}


def saved(workdir, step):
    return Checkpoints(workdir / "checkpoints").read(step)


def last_row(workdir, event="val"):
    return [row for row in read_rows(workdir / "metrics.jsonl") if row["event"] == event][-1]


# --- LP-FT ----------------------------------------------------------------------------------------


def test_lp_ft_fine_tunes_from_the_probes_head(start, digits, tmp_path):
    model, variables = start
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
    assert first["loss"] == pytest.approx(best["loss"], rel=1e-6), "of the weights carried on"
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
    assert seen == [0, 16, 16, 32, 48], "of the run, whichever stage saw them"
    in_memory = tljax.fit_stages(model, variables, stages, *data, **options)
    assert same(in_memory.variables, on_disk.variables)
    assert in_memory.history == on_disk.history


@pytest.mark.parametrize(
    "images", [8 * 2, 8 * 3 + 8 * 2], ids=["in the first stage", "in the second"]
)
def test_killed_in_either_stage_it_ends_with_the_same_bits(images, resnet, digits, tmp_path):
    """Nothing is read ahead of a dying image, so it is counted over all stages."""
    model, variables = resnet
    stages = lp_ft(fine_tune(model.groups), probe_lr=1.0)
    options = {**OPTIONS, "cache": "off"}
    rest = (digits.val, digits.test)

    def fit(workdir, source=None):
        source = source or digits.train
        return tljax.fit_stages(
            model, variables, stages, source, *rest, workdir=tmp_path / workdir, **options
        )

    straight = fit("straight")
    dying = Watched(digits.train, fail_at=images + 8)
    with pytest.raises(KeyboardInterrupt):
        fit("killed", dying)
    second_began = (tmp_path / "killed" / "checkpoints").exists()
    assert second_began or not (tmp_path / "killed" / "stages" / "1" / "result.json").exists()
    resumed = fit("killed")
    assert compare(tmp_path / "straight", tmp_path / "killed") == []
    first = [tmp_path / name / "stages" / "1" for name in ("straight", "killed")]
    assert compare(*first) == []
    assert resumed.history == straight.history


def test_a_finished_stage_is_read_and_not_run_again(resnet, digits, tmp_path):
    model, variables = resnet
    stages = lp_ft(fine_tune(model.groups))
    data = (digits.train, digits.val)
    whole = tljax.fit_stages(model, variables, stages, *data, workdir=tmp_path / "whole", **OPTIONS)
    first = shutil.copytree(tmp_path / "whole" / "stages", tmp_path / "cut" / "stages") / "1"
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*") if path.name != ".lock"}
    cut = tljax.fit_stages(model, None, stages, *data, workdir=tmp_path / "cut", **OPTIONS)
    after = {path: path.stat().st_mtime_ns for path in first.rglob("*") if path.name != ".lock"}
    assert before == after
    assert compare(tmp_path / "whole", tmp_path / "cut") == []
    assert cut.history == whole.history
    other = lp_ft(fine_tune(model.groups), probe_lr=0.5)
    with pytest.raises(InputError, match=r"lr was 0.05 and is 0.5"):
        tljax.fit_stages(model, None, other, *data, workdir=tmp_path / "cut", **OPTIONS)


def test_the_probes_features_are_computed_once(resnet, digits):
    model, variables = resnet
    train = Watched(digits.train)
    stages = lp_ft(fine_tune(model.groups))
    options = {**OPTIONS, "steps": 40, "augment": "none", "cache": "memory"}
    probe_steps = 20
    tljax.fit_stages(model, variables, stages, train, None, **options)
    assert probe_steps * 8 == 4 * len(train), "the probe sees each image four times"
    second = (40 - probe_steps) * 8
    assert train.reads.total() < len(train) + second + 8 * 20, "with what is read ahead"


# --- gradual unfreezing ---------------------------------------------------------------------------


@pytest.mark.parametrize("groups_per_stage", [1, 2])
def test_each_stage_moves_the_groups_promised_and_no_other(groups_per_stage, start, tmp_path):
    model, variables = start
    digits = data_lib.load("embedded:digits", train_size=40)
    stages = gradual_unfreezing(fine_tune(model.groups, backbone=0.5), groups_per_stage)
    below = len(model.groups) - 1
    assert len(stages) == 1 + -(-below // groups_per_stage)
    options = {**OPTIONS, "steps": 3 * len(stages), "eval_every": 3, "lr": 0.5}
    tljax.fit_stages(
        model, variables, stages, digits.train, digits.val, workdir=tmp_path, **options
    )
    before = variables
    for number in range(1, len(stages) + 1):
        workdir = tmp_path if number == len(stages) else tmp_path / "stages" / str(number)
        after = saved(workdir, 3).variables
        lowest = max(0, below - groups_per_stage * (number - 1))
        for path in changed_paths(variables, after):
            assert model.groups.depth(path.split("/", 1)[1]) >= lowest, path
        moved = changed_paths(before, after)
        for path in leaf_paths(variables["params"]):
            assert (f"params/{path}" in moved) == (model.groups.depth(path) >= lowest), path
        before = after
    assert lowest == 0, "in the last stage everything has moved"


def test_what_the_plan_freezes_has_no_stage(start):
    model, _ = start
    plan = tljax.freeze_first(model.groups, 3)
    stages = gradual_unfreezing(plan)
    lowest = [next(d for d, scale in enumerate(s.plan.lr_scale) if scale) for s in stages]
    assert lowest == list(range(len(model.groups) - 1, 2, -1))
    assert stages[-1].plan.lr_scale == plan.lr_scale
    assert sum(stage.share for stage in stages) == pytest.approx(1)


# --- slips ----------------------------------------------------------------------------------------


def test_stages_that_make_no_sense_are_refused(resnet, digits):
    model, variables = resnet
    for plan in (feature_extraction(model.groups), tljax.from_scratch(model.groups)):
        with pytest.raises(InputError, match="use scenario fine_tune"):
            lp_ft(plan)
    plan = fine_tune(model.groups)
    stages = gradual_unfreezing(plan)
    with pytest.raises(InputError, match="set it to 6 or more"):
        tljax.fit_stages(model, variables, stages, digits.train, None, **OPTIONS | {"steps": 5})
    with pytest.raises(InputError, match="stage 1 of 2: warmup is 3 steps"):
        tljax.fit_stages(
            model, variables, lp_ft(plan), digits.train, None, **OPTIONS | {"warmup": 3}
        )
    with pytest.raises(InputError, match="add up to 1"):
        tljax.fit_stages(model, variables, [Stage(plan, 0.5)], digits.train, None, **OPTIONS)


# --- on the command line --------------------------------------------------------------------------


def test_a_workdir_of_stages_serves_every_command(tiny_config, photo_folder, tmp_path, capsys):
    fields = {"data": "embedded:digits", "steps": 6, "eval_every": 2}
    experiment.run(tiny_config(data="embedded:glyphs", val_fraction=0.01), tmp_path / "source")
    tuned = {
        **fields,
        "scenario": "fine_tune",
        "stages": "lp_ft",
        "init_from": str(tmp_path / "source"),
    }
    workdir = tmp_path / "runs" / "staged"
    first = experiment.run(tiny_config(**tuned), workdir)
    assert first.summary["scenario"] == "fine_tune"
    shutil.rmtree(tmp_path / "source")
    again = experiment.run(tiny_config(**tuned), workdir)
    assert again.summary == first.summary
    assert again.history == first.history
    with pytest.raises(InputError, match="stages was lp_ft and is None"):
        experiment.run(tiny_config(**tuned | {"stages": None}), workdir)
    (workdir / "result.json").unlink()
    shutil.rmtree(workdir / "checkpoints")
    with pytest.raises(InputError, match=r"lr was 0.05 and is 0.5"):
        experiment.run(tiny_config(**tuned, lr=0.5), workdir)
    rest = experiment.run(tiny_config(**tuned), workdir)
    assert rest.history == first.history
    experiment.run(tiny_config(**fields), tmp_path / "runs" / "scratch")
    capsys.readouterr()
    for argv in (
        ["evaluate", "--workdir", str(workdir)],
        ["predict", "--workdir", str(workdir), str(photo_folder)],
        ["report", str(tmp_path / "runs"), "--output", str(tmp_path / "report.html")],
    ):
        assert cli.main(argv) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert f"accuracy {first.summary['test_accuracy']:.4f}" in out
    assert "2 runs" in out
