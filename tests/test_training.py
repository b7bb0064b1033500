"""The training loop: resuming, selection on validation, one test evaluation, files, stops."""

import dataclasses
import json
import logging
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax import monitoring
from sklearn import metrics as sklearn_metrics
from sklearn.metrics import balanced_accuracy_score

import tljax
from tests.bits import same
from tests.soak.campaign import ROOT
from tests.tiny_networks import NETWORKS, PREPROCESSING, network
from tests.watched import Watched
from tljax import data as data_lib
from tljax import experiment
from tljax.data import Preprocessing
from tljax.errors import InputError
from tljax.models import init
from tljax.runs.checkpoints import has_checkpoint
from tljax.runs.metrics import read_rows
from tljax.runs.resume import best_variables
from tljax.training.evaluation import evaluate
from tljax.training.options import TrainingOptions
from tljax.training.problems import CLASSES
from tljax.training.problems.classification import naive_correct, naive_scores
from tljax.training.step import predict_step
from tljax.transfer import feature_extraction, from_scratch

OPTIONS = {
    "preprocessing": PREPROCESSING,
    "batch_size": 16,
    "steps": 12,
    "eval_every": 4,
    "log_every": 2,
    "lr": 0.05,
    "augment": "crop",
    "progress": False,
}


@pytest.fixture(scope="module")
def digits():
    whole = data_lib.load("embedded:digits", train_size=50)
    some = {"val": data_lib.Subset(whole.val, range(64))}
    some["test"] = data_lib.Subset(whole.test, range(128))
    return dataclasses.replace(whole, **some)


@pytest.fixture(scope="module", params=NETWORKS)
def start(request):
    return network(request.param)


def without_time(summary):
    return {name: value for name, value in summary.items() if name != "wall_seconds"}


@pytest.fixture(scope="module")
def straight(start, digits, tmp_path_factory):
    model, variables = start
    plan = tljax.fine_tune(model.groups)
    given = (model, variables, plan, digits.train, digits.val, digits.test)
    return tljax.fit(*given, workdir=tmp_path_factory.mktemp("straight"), **OPTIONS)


@pytest.mark.parametrize("images_before_the_end", [16 * 3, 16 * 10])  # before and after a save
def test_resumed_equals_uninterrupted_to_the_bit(
    start, straight, images_before_the_end, digits, tmp_path
):
    model, variables = start
    plan = tljax.fine_tune(model.groups)
    args = (digits.val, digits.test)
    dying = Watched(digits.train, fail_at=images_before_the_end)
    with pytest.raises(KeyboardInterrupt):
        tljax.fit(model, variables, plan, dying, *args, workdir=tmp_path / "killed", **OPTIONS)
    assert not (tmp_path / "killed" / "result.json").exists()
    steps = [row["step"] for row in read_rows(tmp_path / "killed" / "metrics.jsonl")]
    assert 0 <= max(steps) < 12
    resumed = tljax.fit(
        model, variables, plan, digits.train, *args, workdir=tmp_path / "killed", **OPTIONS
    )
    assert same(straight.variables, resumed.variables)
    assert straight.history == resumed.history
    assert without_time(straight.summary) == without_time(resumed.summary)
    assert read_rows(tmp_path / "killed" / "metrics.jsonl") == resumed.history
    again = tljax.fit(
        model, variables, plan, digits.train, *args, workdir=tmp_path / "killed", **OPTIONS
    )
    assert same(again.variables, resumed.variables)
    assert again.history == resumed.history


def test_the_same_seed_gives_the_same_run_and_another_seed_another(start, digits):
    model, variables = start
    plan = from_scratch(model.groups)
    runs = [
        tljax.fit(model, variables, plan, digits.train, digits.val, seed=seed, **OPTIONS)
        for seed in (0, 0, 1)
    ]
    assert same(runs[0].variables, runs[1].variables)
    assert without_time(runs[0].summary) == without_time(runs[1].summary)
    assert not same(runs[0].variables, runs[2].variables)


def test_the_best_weights_on_validation_are_kept(digits, tmp_path):
    """Training on wrong labels makes accuracy fall, so the best weights are not the last."""
    model, variables = network("resnet")
    images = np.stack([digits.train[i]["image"] for i in range(len(digits.train))])
    wrong = (images, (digits.train.labels + 1) % 10)
    options = {**OPTIONS, "steps": 40, "eval_every": 5}
    result = tljax.fit(
        model,
        variables,
        from_scratch(model.groups),
        wrong,
        digits.val,
        workdir=tmp_path,
        **options,
    )
    rows = [row for row in result.history if row["event"] == "val"]
    best = max(rows, key=lambda row: (row["accuracy"], -row["loss"]))
    assert best["step"] < rows[-1]["step"], "or this tests nothing"
    assert result.summary["best_step"] == best["step"]
    assert result.summary["val_accuracy"] == best["accuracy"]
    kept = evaluate(model, result.variables, digits.val, PREPROCESSING, 16)
    assert kept.accuracy == best["accuracy"]
    assert same(best_variables(tmp_path), result.variables)


def test_test_images_are_read_once_and_at_the_end(digits):
    model, variables = network("resnet")
    test = Watched(digits.test)
    result = tljax.fit(
        model, variables, from_scratch(model.groups), digits.train, digits.val, test, **OPTIONS
    )
    assert set(test.reads) == set(range(len(test)))
    assert set(test.reads.values()) == {1}
    events = [row["event"] for row in result.history]
    assert events.count("test") == 1
    assert events[-1] == "test"


@pytest.mark.parametrize("count", [1, 15, 16, 17])
def test_evaluation_counts_every_image_once(count, digits):
    model, variables = network("resnet")
    source = data_lib.Subset(digits.test, range(count))
    in_batches = evaluate(model, variables, source, PREPROCESSING, 16)
    one_by_one = [
        evaluate(model, variables, data_lib.Subset(digits.test, [i]), PREPROCESSING, 16)
        for i in range(count)
    ]
    assert in_batches.count == count
    assert in_batches.accuracy == pytest.approx(np.mean([e.accuracy for e in one_by_one]))
    assert in_batches.loss == pytest.approx(np.mean([e.loss for e in one_by_one]), rel=1e-5)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_balanced_accuracy_is_scikit_learns(digits):
    """On ten classes of different sizes, two of them absent, in batches."""
    model = NETWORKS["resnet"]
    result = tljax.fit(
        model, None, from_scratch(model.groups), digits.train, digits.val, digits.test, **OPTIONS
    )
    labels = digits.test.labels
    rare = np.isin(labels, (0, 1, 2)) & (np.arange(len(labels)) % 4 > 0)
    source = data_lib.Subset(digits.test, np.flatnonzero(~rare & (labels != 5) & (labels != 9)))
    step = predict_step(model, PREPROCESSING)
    predicted = np.concatenate(
        [
            np.asarray(step(result.variables, batch)["predicted"])[batch["mask"] > 0]
            for batch in data_lib.eval_batches(source, PREPROCESSING, batch_size=16)
        ]
    )
    evaluation = evaluate(model, result.variables, source, PREPROCESSING, 16)
    assert evaluation.accuracy == pytest.approx(np.mean(predicted == source.labels))
    assert evaluation.balanced_accuracy == pytest.approx(
        balanced_accuracy_score(source.labels, predicted)
    )
    assert evaluation.balanced_accuracy != pytest.approx(evaluation.accuracy), "or it tests nothing"
    rows = {(row["event"], row["step"]): row for row in result.history}
    best = result.summary["best_step"]
    for split in ("val", "test"):
        reported = result.summary[f"{split}_balanced_accuracy"]
        assert reported == rows[split, best]["balanced_accuracy"]
    again = evaluate(model, result.variables, digits.test, PREPROCESSING, 16)
    assert result.summary["test_balanced_accuracy"] == again.balanced_accuracy


def test_naive_accuracy_answers_the_commonest_training_class():
    train = data_lib.ArraySource(np.zeros((5, 8, 8, 3), np.uint8), [2, 2, 2, 0, 1])
    assert naive_correct(train.labels, (3, 0, 2)) == 2
    true, said = np.array([0, 0, 0, 2, 2]), np.full(5, 2)
    found = naive_scores(train.labels, (3, 0, 2))
    assert found["accuracy"] == 0.4
    assert found["balanced_accuracy"] == sklearn_metrics.balanced_accuracy_score(true, said)
    expected = sklearn_metrics.f1_score(true, said, average="macro")
    assert found["macro_f1"] == pytest.approx(expected)
    assert found == CLASSES.naive(train.labels, true)


def test_of_several_tasks_each_answers_its_commonest_class():
    trained_on = np.array([0, 0, 1, 3, 3, 2])
    found = naive_scores(trained_on, (1, 2, 3, 4), (2, 2))
    true = np.repeat(range(4), (1, 2, 3, 4))
    said = np.where(true < 2, 0, 3)
    assert found["accuracy"] == 0.5
    assert found["macro_f1"] == pytest.approx(sklearn_metrics.f1_score(true, said, average="macro"))


def test_a_loss_that_is_not_finite_stops_the_run_at_once(digits, tmp_path):
    model, variables = network("vit")
    options = {**OPTIONS, "lr": 1e20, "steps": 500}
    with pytest.raises(InputError, match=r"loss became \S+ at step \d+ .*lower lr"):
        tljax.fit(
            model,
            variables,
            from_scratch(model.groups),
            digits.train,
            digits.val,
            workdir=tmp_path,
            **options,
        )
    assert max(row["step"] for row in read_rows(tmp_path / "metrics.jsonl")) < 20
    assert not (tmp_path / "result.json").exists()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(best_variables(tmp_path)))


def test_the_callers_variables_are_left_alone(digits):
    model, variables = network("resnet")
    before = jax.tree.map(np.array, variables)
    tljax.fit(
        model, variables, feature_extraction(model.groups), digits.train, digits.val, **OPTIONS
    )
    assert same(variables, before)


def test_without_validation_the_last_weights_are_kept_and_nothing_is_written(digits, tmp_path):
    model, variables = network("resnet")
    images = np.stack([digits.train[i]["image"] for i in range(len(digits.train))])
    pair = (images, digits.train.labels)
    result = tljax.fit(model, variables, from_scratch(model.groups), pair, None, **OPTIONS)
    assert result.summary["best_step"] == 12
    assert result.summary["val_accuracy"] is None
    assert list(tmp_path.iterdir()) == []


def test_runs_of_several_seeds_can_share_their_images(tiny_config):
    def rows(**seeds):
        dataset = experiment.load_data(tiny_config(**seeds))
        parts = (dataset.train, dataset.val)
        return [data_lib.unwrap_subset(part)[1].tolist() for part in parts]

    assert rows(seed=3) == rows(seed=4, data_seed=3) == rows(seed=3, data_seed=3)
    assert rows(seed=3) != rows(seed=3, data_seed=4)


def test_a_workdir_is_a_source(tiny_config, tmp_path):
    """A source run on 37 letters, then a target run on 10 digits with a new zero head."""
    glyphs = {"data": "embedded:glyphs", "val_fraction": 0.01}
    source = tiny_config(**glyphs, normalisation="imagenet")
    source_result = experiment.run(source, tmp_path / "source")
    target = tiny_config(
        scenario="feature_extraction",
        init_from=str(tmp_path / "source"),
        augment="none",
    )
    assert experiment.build(target).preprocessing.mean == (0.485, 0.456, 0.406), "the source's"
    _, variables, preprocessing = tljax.load(
        "resnet10_32", tmp_path / "source", num_classes=10, last_group=source.last_group
    )
    assert preprocessing == experiment.build(target).preprocessing
    assert same(variables["params"]["layer1_0"], source_result.variables["params"]["layer1_0"])
    assert same(variables["batch_stats"], source_result.variables["batch_stats"])
    assert not np.any(variables["params"]["head"]["kernel"])
    result = experiment.run(target, tmp_path / "target")
    assert same(result.variables["params"]["stem"], source_result.variables["params"]["stem"])
    assert same(result.variables["batch_stats"], source_result.variables["batch_stats"])
    assert result.summary["trainable_parameters"] == 16 * 10 + 10


def test_features_are_what_the_head_sees(digits):
    model, variables, _ = tljax.load("vit_micro_patch4_32", num_classes=10, last_group="block0")
    images = jax.random.normal(jax.random.key(0), (3, 32, 32, 3))
    features = tljax.features(model, variables, images)
    logits = model.apply(variables, features, start=len(model.groups) - 1)
    np.testing.assert_allclose(logits, model.apply(variables, images), atol=1e-5)


def test_the_plan_decides_where_each_group_starts(digits):
    """The same pretrained variables serve every scenario."""
    model = NETWORKS["resnet"]
    pretrained = init(model, jax.random.key(7), 32)
    options = {**OPTIONS, "steps": 1, "lr": 0.0, "preprocessing": None}

    def start(plan):
        run = tljax.fit(model, pretrained, plan, digits.train, None, **options)
        return run.variables["params"]

    scratch, tuned = start(from_scratch(model.groups)), start(tljax.fine_tune(model.groups))
    assert same(tuned["layer1_0"], pretrained["params"]["layer1_0"])
    assert not np.any(tuned["head"]["kernel"])
    assert not same(scratch["stem"], pretrained["params"]["stem"])
    assert same(scratch, init(model, jax.random.key(0), 32)["params"] | {"head": scratch["head"]})


def test_a_workdir_needs_its_source_no_more(tiny_config, tmp_path):
    """A run that has started does not change if its source is moved or retrained."""
    experiment.run(tiny_config(image_size=24), tmp_path / "source")
    start = {"init_from": str(tmp_path / "source"), "image_size": None}  # as the source has it
    target = tiny_config(scenario="fine_tune", **start)
    first = experiment.run(target, tmp_path / "target")
    (tmp_path / "source").rename(tmp_path / "elsewhere")
    (tmp_path / "target" / "result.json").unlink()
    again = experiment.run(target, tmp_path / "target")
    assert without_time(again.summary) == without_time(first.summary)
    assert experiment.build(experiment.read_config(tmp_path / "target")).preprocessing == (
        Preprocessing(24, (0.5,) * 3, (0.5,) * 3)
    )


def test_a_run_that_is_done_is_not_run_again(tiny_config, tmp_path):
    first = experiment.run(tiny_config(), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = experiment.run(tiny_config(), tmp_path)
    assert again.summary == first.summary
    assert again.history == first.history
    assert same(again.variables, first.variables)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_a_run_that_another_one_has_overtaken_leaves_its_files_alone(tiny_config, tmp_path):
    """The other begins and ends in the same workdir while this one reads data and weights."""
    other, workdir = tmp_path / "other", tmp_path / "run"
    experiment.run(tiny_config(steps=2), other, progress=False)

    class Overtakes(logging.Handler):
        def emit(self, record):
            shutil.copytree(other, workdir, dirs_exist_ok=True)

    config = tiny_config(scenario="fine_tune", init_from=str(other), steps=2, data_seed=1)
    logger, overtakes = logging.getLogger("tljax"), Overtakes(logging.WARNING)
    logger.addHandler(overtakes)
    try:
        with pytest.raises(InputError, match=r"another run began in .* meanwhile"):
            experiment.run(config, workdir, progress=False)
    finally:
        logger.removeHandler(overtakes)
    for name in ("config.json", "splits.json", "metrics.jsonl", "result.json"):
        assert (workdir / name).read_bytes() == (other / name).read_bytes()


def test_reading_a_workdir_leaves_a_save_in_progress_alone(tiny_config, tmp_path):
    experiment.run(tiny_config(), tmp_path)
    in_progress = tmp_path / "checkpoints" / "99.orbax-checkpoint-tmp"
    in_progress.mkdir()
    best_variables(tmp_path)
    assert in_progress.exists()


def test_fit_says_what_does_not_fit(digits):
    model = tljax.create("resnet10_32", 5)
    plan = from_scratch(model.groups)
    with pytest.raises(InputError, match="label 9, but the model has 5 classes"):
        tljax.fit(model, None, plan, digits.train, digits.val, **OPTIONS)
    vit = tljax.create("vit_micro_patch4_32", 10)
    bad_size = {**OPTIONS, "preprocessing": Preprocessing(30, (0.5,) * 3, (0.5,) * 3)}
    with pytest.raises(InputError, match="try 32"):
        tljax.fit(vit, None, from_scratch(vit.groups), digits.train, digits.val, **bad_size)
    empty = data_lib.Subset(digits.val, [])
    with pytest.raises(InputError, match="no images"):
        tljax.fit(vit, None, from_scratch(vit.groups), digits.train, empty, **OPTIONS)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lr": "0.1"}, "lr is '0.1'; set it to a number"),
        ({"lr": None}, "lr is None; set it to a number"),
        ({"lr": True}, "lr is True; set it to a number"),
        ({"seed": 1.5}, "seed is 1.5; set it to a whole number"),
        ({"batch_size": 32.0}, "batch_size is 32.0; set it to a whole number"),
        ({"steps": "7"}, "steps is '7'; set it to a whole number or None"),
        ({"crop_area": 0.5}, "crop_area is 0.5; set it to a tuple of numbers"),
        ({"milestones": 0.5}, "milestones is 0.5; set it to a tuple of numbers"),
        ({"milestones": ("a",)}, "set it to shares of the steps"),
        ({"wise_ft": "yes"}, "wise_ft is 'yes'; set it to True or False"),
        ({"decayed": None}, "decayed is None; set it to a text"),
    ],
)
def test_an_option_of_another_type_is_named(options, said):
    with pytest.raises(InputError, match=said):
        TrainingOptions(**options)
    TrainingOptions(lr=1, epochs=2, steps=None, crop_area=[0.5, 1])


def test_options_may_be_numpy_scalars(digits):
    model = NETWORKS["resnet"]
    options = {**OPTIONS, "lr": np.float32(0.05), "seed": np.int64(3), "steps": 1}
    result = tljax.fit(model, None, from_scratch(model.groups), digits.train, None, **options)
    assert json.loads(json.dumps(result.summary))["seed"] == 3


@pytest.mark.parametrize(
    "form",
    [
        *("images", "features", "resumed"),
        *(pytest.param(form, marks=pytest.mark.soak) for form in ("weighted", "on a device")),
    ],
)
def test_programs_compiled_ahead_are_the_ones_that_run(form, digits, tmp_path):
    """One training and one evaluation program are compiled; a call that misses them recompiles.

    A run that resumes in the same process reuses both.
    """
    model = NETWORKS["resnet"]
    plan = feature_extraction(model.groups) if form == "features" else from_scratch(model.groups)
    options = OPTIONS | {"augment": "none", "batch_size": 20 + len(form)}  # a new shape
    _, start = network("resnet")
    if form == "weighted":
        options["class_weights"] = "balanced"
    if form == "on a device":
        start = jax.device_put(start, jax.devices()[0])
    if form == "resumed":
        options |= {"workdir": tmp_path, "checkpoint_every": 2, "eval_every": 4}
        dying = Watched(digits.train, fail_at=6 * options["batch_size"])
        with pytest.raises(KeyboardInterrupt):
            tljax.fit(model, start, plan, dying, digits.val, cache="auto", **options)
        assert has_checkpoint(tmp_path)
    compiled = []

    def listen(event, duration_secs, fun_name="", **_):
        if event.endswith("backend_compile_duration"):
            compiled.append(fun_name)

    monitoring.register_event_duration_secs_listener(listen)
    try:
        tljax.fit(model, start, plan, digits.train, digits.val, cache="auto", **options)
    finally:
        monitoring.unregister_event_duration_listener(listen)
    assert compiled.count("jit(step)") == (0 if form == "resumed" else 2)


def test_no_import_reaches_into_programs_that_are_traced_beside_it(tmp_path):
    """While grain is imported, `import` gives placeholders of modules to every thread.

    The test prolongs this, so that a concurrent trace would meet the placeholders.
    """
    code = """
import contextlib, sys, time
from etils import epy
from tljax import cli

lazy_imports = epy.lazy_imports

@contextlib.contextmanager
def lasting(**given):
    with lazy_imports(**given):
        print("made to last")
        time.sleep(2)
        yield

epy.lazy_imports = lasting
sys.exit(cli.main(sys.argv[1:]))
"""
    run = ("train", "--config", "configs/from_scratch.py", "--workdir", str(tmp_path / "run"))
    options = ("--config.data=embedded:digits", "--config.train_size=20", "--config.steps=1")
    options += ("--config.model=resnet10_32", "--config.last_group=layer1_0")
    command = [sys.executable, "-c", code, *run, *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "made to last" in done.stdout


def test_a_trace_of_steps_and_times_are_in_the_workdir(tiny_config, tmp_path):
    """Also for a run shorter than the traced steps; results are the same as without a trace."""
    results = {}
    for steps, profiles in ((3, [True]), (10, [True, False])):
        for profile in profiles:
            workdir = tmp_path / f"{steps}_{profile}"
            config = tiny_config(steps=steps, eval_every=10)
            result = experiment.run(config, workdir, profile=profile)
            traces = list((workdir / "profile").rglob("*.xplane.pb"))
            assert len(traces) == int(profile)
            assert set(json.loads((workdir / "timing.json").read_text())) == {
                "first_step_seconds",
                "input_wait_seconds",
            }
            results[profile] = without_time(result.summary)
    assert results[True] == results[False]


def test_pytorch_is_not_imported_where_there_is_one(tmp_path):
    """The import would add seconds to every start; a later import of torch works."""
    (tmp_path / "torch.py").write_text("Tensor = object\n")
    code = "import sys, tljax.training; assert 'torch' not in sys.modules; import torch"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_the_result_has_the_public_fields(tiny_config, tmp_path):
    experiment.run(tiny_config(), tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    assert set(result) >= {
        "scenario",
        "plan",
        "model",
        "data",
        "train_size",
        "num_classes",
        "seed",
        "steps",
        "val_accuracy",
        "test_accuracy",
        "test_loss",
        "naive_accuracy",
        "trainable_parameters",
        "total_parameters",
        "examples_seen",
        "wall_seconds",
        "devices",
        "versions",
    }
    assert set(result["plan"]) == {"init", "lr_scale", "train", "statistics"}
    assert result["train_size"] == 40
    assert result["examples_seen"] == 160
    assert json.loads((tmp_path / "config.json").read_text())["lr"] == 0.05
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_another_config_in_the_same_workdir_is_refused(tiny_config, tmp_path):
    experiment.run(tiny_config(), tmp_path)
    with pytest.raises(InputError, match=r"lr was 0.05 and is 0.1"):
        experiment.run(tiny_config(lr=0.1), tmp_path)
