"""Heads that are solved: as a run of their own, and as the start of fine-tuning (LP-FT)."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

import tljax
from tests.bits import same
from tests.tiny_networks import NETWORKS, PREPROCESSING
from tljax import data as data_lib
from tljax import experiment
from tljax.errors import InputError
from tljax.experiment import read_workdir
from tljax.frozen import cache as feature_cache
from tljax.frozen.linear_head import solve_head
from tljax.models import init
from tljax.runs.checkpoints import Checkpoints
from tljax.runs.metrics import read_rows
from tljax.runs.resume import best_variables
from tljax.training import wise_ft
from tljax.training.evaluation import evaluate

OPTIONS = {"preprocessing": PREPROCESSING, "batch_size": 16, "progress": False}
TUNING = {
    "head_init": "solved",
    "wise_ft": True,
    "steps": 6,
    "eval_every": 3,
    "lr": 0.02,
    "keep": 9,
}


@pytest.fixture(scope="module")
def digits():
    whole = data_lib.load("embedded:digits", train_size=60, val_fraction=0.05)
    return dataclasses.replace(whole, test=data_lib.Subset(whole.test, range(128)))


@pytest.fixture(scope="module")
def network():
    model = NETWORKS["resnet"].clone(widths=(32,))
    return model, init(model, jax.random.key(0), 16)


def features_of(network, source):
    model, variables = network
    groups = len(model.groups) - 1
    return feature_cache.cached(model, variables, PREPROCESSING, groups, source, None)


@pytest.fixture(scope="module")
def solved(network, digits, tmp_path_factory):
    """A run with optimizer=lbfgs, and its workdir; there are no validation images."""
    model, variables = network
    workdir = tmp_path_factory.mktemp("solved")
    plan = tljax.feature_extraction(model.groups)
    splits = (digits.train, None, digits.test)
    options = {**OPTIONS, "optimizer": "lbfgs"}
    return tljax.fit(model, variables, plan, *splits, workdir=workdir, **options), workdir


def test_the_run_is_the_solution_on_its_features(solved, network, digits):
    result, _ = solved
    features = features_of(network, digits.train).features
    head = solve_head(features, digits.train.labels, 10)
    np.testing.assert_allclose(result.variables["params"]["head"]["kernel"], head.kernel, 1e-5)
    np.testing.assert_allclose(result.variables["params"]["head"]["bias"], head.bias, 1e-5)
    model, _ = network
    tested = evaluate(model, result.variables, digits.test, PREPROCESSING, 16)
    assert result.summary["test_accuracy"] == tested.accuracy, "the standardisation is folded in"


def test_all_but_the_head_is_bit_identical(solved, network):
    result, _ = solved
    _, variables = network
    for collection in ("params", "batch_stats"):
        for group, before in variables[collection].items():
            if group != "head":
                assert same(before, result.variables[collection][group])


def test_its_result_says_how_the_strength_was_chosen_and_by_how_many_images(solved, digits):
    summary = solved[0].summary
    found = summary["solved_head"]["cross_validation"]
    assert found["images"] == len(digits.train) == 60
    assert summary["val_accuracy"] == found["accuracy"]
    assert summary["val_size"] == 0
    assert summary["validated_by"] == "cross-validation"
    assert summary["steps"] == 1
    assert summary["examples_seen"] == 60
    assert found["naive_accuracy"] < found["accuracy"] <= 1


@pytest.mark.parametrize("left", ["nothing", "all but the result"])
def test_a_run_that_was_killed_ends_with_the_same_bits(left, solved, network, digits, tmp_path):
    result, workdir = solved
    again = tmp_path / "again"
    if left == "all but the result":
        shutil.copytree(workdir, again)
        (again / "result.json").unlink()
    model, variables = network
    plan = tljax.feature_extraction(model.groups)
    splits = (digits.train, None, digits.test)
    options = {**OPTIONS, "optimizer": "lbfgs"}
    resumed = tljax.fit(model, variables, plan, *splits, workdir=again, **options)
    assert same(result.variables, resumed.variables)
    assert read_rows(again / "metrics.jsonl") == read_rows(workdir / "metrics.jsonl")
    assert resumed.summary["solved_head"] == result.summary["solved_head"]


def test_fixed_views_of_an_image_are_in_one_fold(solved, network, digits):
    """Views of a held-out image in the training part would give cross-validation away."""
    model, variables = network
    plan = tljax.feature_extraction(model.groups)
    options = {**OPTIONS, "optimizer": "lbfgs", "augment": "crop", "crop_area": (0.99, 1.0)}
    result = tljax.fit(model, variables, plan, digits.train, None, views=2, **options)
    accuracies = [
        run.summary["solved_head"]["cross_validation"]["accuracy"] for run in (result, solved[0])
    ]
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.1)


def fine_tuned(network, digits, workdir, statistics="follow", **options):
    model, variables = network
    plan = tljax.fine_tune(model.groups, backbone=1.0, statistics=statistics)
    splits = (digits.train, digits.val, digits.test)
    return tljax.fit(
        model, variables, plan, *splits, workdir=workdir, **{**OPTIONS, **TUNING, **options}
    )


@pytest.fixture(scope="module")
def tuned(network, digits, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("tuned")
    return fine_tuned(network, digits, workdir), workdir


def test_fine_tuning_starts_from_the_solved_head(tuned, network, digits):
    result, _ = tuned
    model, variables = network
    head = solve_head(features_of(network, digits.train).features, digits.train.labels, 10)
    params = {**variables["params"], "head": {"kernel": head.kernel, "bias": head.bias}}
    start = {**variables, "params": params}
    accuracy = evaluate(model, start, digits.val, PREPROCESSING, 16).accuracy
    first = next(row for row in result.history if row["event"] == "val")
    assert first["step"] == 0
    assert first["accuracy"] == accuracy
    assert result.summary["solved_head"]["l2"] == head.l2


def test_it_ends_with_the_choice_on_the_line(tuned, digits):
    """The result's weights are (1 - alpha) * start + alpha * end, as the report says."""
    result, workdir = tuned
    choice = result.summary["wise_ft"]
    assert choice["images"] == len(digits.val)
    assert [one["alpha"] for one in choice["candidates"]] == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    chosen = next(one for one in choice["candidates"] if one["alpha"] == choice["alpha"])
    assert result.summary["val_accuracy"] == chosen["accuracy"]
    checkpoints = Checkpoints(workdir / "checkpoints")
    start, end = (checkpoints.read(step).variables["params"] for step in (0, 6))
    alpha = choice["alpha"]
    wanted = jax.tree.map(lambda a, b: (1 - alpha) * a + alpha * b, start, end)
    for a, b in zip(
        jax.tree.leaves(wanted), jax.tree.leaves(result.variables["params"]), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert result.summary["steps"] == 6


@pytest.mark.parametrize("lost", [("result.json",), ("result.json", 7), ("result.json", 7, 6)])
def test_killed_near_its_end_it_makes_the_same_choice(lost, tuned, network, digits, tmp_path):
    """Before, during and after the choice: steps 6 and 7 hold the last and the chosen weights."""
    result, workdir = tuned
    again = shutil.copytree(workdir, tmp_path / "again")
    for name in lost:
        path = again / "checkpoints" / str(name) if isinstance(name, int) else again / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    resumed = fine_tuned(network, digits, again)
    assert same(result.variables, resumed.variables)
    assert read_rows(again / "metrics.jsonl") == read_rows(workdir / "metrics.jsonl")


@pytest.mark.parametrize("alpha", [None, 0.5])
def test_a_rate_that_is_far_too_high_costs_time_and_not_accuracy(alpha, network, digits):
    """With validation images, and without, where training images tell that it went wrong."""
    options = {"lr": 30.0, "clip_norm": 1.0, "wise_ft_alpha": alpha}
    few = digits if alpha is None else dataclasses.replace(digits, val=None)
    result = fine_tuned(network, few, None, **options)
    assert result.summary["wise_ft"]["alpha"] == 0.0
    assert result.summary["wise_ft"]["which"] == ("validation" if alpha is None else "training")


def test_without_validation_images_the_place_on_the_line_is_given(network, digits, tmp_path):
    few = dataclasses.replace(digits, val=None)
    options = {"statistics": "stored", "wise_ft_alpha": 0.5, "lr": 1e-4}
    result = fine_tuned(network, few, tmp_path / "run", **options)
    choice = result.summary["wise_ft"]
    assert (choice["alpha"], choice["images"]) == (0.5, len(digits.train))
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    start, end = (checkpoints.read(step).variables["params"] for step in (0, 6))
    wanted = jax.tree.map(lambda a, b: (a + b) / 2, start, end)
    for a, b in zip(
        jax.tree.leaves(wanted), jax.tree.leaves(result.variables["params"]), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert result.summary["val_accuracy"] is None
    assert same(best_variables(tmp_path / "run"), result.variables), "what a workdir gives"


def test_images_count_for_the_end_as_they_did_for_the_start_out_of_fold(network, digits):
    """Half of them have a wrong label and hardly any weight: nothing is damaged if they stay so."""
    rows = np.flatnonzero(digits.test.labels < 2)[:40]
    images = np.stack([digits.test[row]["image"] for row in rows])
    is_wrong = np.arange(len(rows)) % 4 > 1
    train = data_lib.ArraySource(images, digits.test.labels[rows] ^ is_wrong)
    train.weights = np.where(is_wrong, 1e-9, 1).astype(np.float32)
    few = dataclasses.replace(digits, train=train, val=None, test=None)
    options = {"statistics": "stored", "wise_ft_alpha": 0.5, "lr": 1e-5}
    summary = fine_tuned(network, few, None, **options).summary
    about = summary["solved_head"]
    grid = {row["l2"]: row["accuracy"] for row in about["cross_validation"]["grid"]}
    found = grid[about["l2"]]
    assert about["cross_validation"]["accuracy"] < found - 0.2, "which counts every image once"
    assert all(one["accuracy"] < found - 0.2 for one in summary["wise_ft"]["candidates"])
    assert summary["wise_ft"]["alpha"] == 0.5


def test_views_that_judge_the_line_are_not_cropped_twice(network, digits):
    """Cached features are of views as they are; without a cache they give the same numbers."""
    model, variables = network
    plan = tljax.freeze_first(model.groups, k=1)
    options = {**OPTIONS, "steps": 4, "lr": 0.5, "augment": "crop", "views": 2}
    options["preprocessing"] = dataclasses.replace(PREPROCESSING, crop_ratio=0.5)
    options |= {"wise_ft": True, "wise_ft_alpha": 0.5}
    cached, computed = (
        tljax.fit(model, variables, plan, digits.train, None, cache=cache, **options)
        for cache in ("memory", "off")
    )
    losses = [
        [one["loss"] for one in run.summary["wise_ft"]["candidates"]] for run in (cached, computed)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_few_images_do_not_tell_candidates_apart():
    """One of four answers is noise; three of four are not."""
    correct = np.array([[1, 1, 0, 1], [1, 0, 0, 1], [0, 0, 0, 0]])
    assert wise_ft.no_worse(correct, than=0).tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("right", "taken"),
    [
        ((70, 80, 90), 0.5),
        ((90, 85, 80), 0.5),  # fitted less closely than the start, but better than unseen images
        ((75, 72, 69), 0.25),  # fitted, and no better than the start on unseen images
        ((75, 68, 69), 0.0),
    ],
)
def test_a_given_place_has_to_fit_what_it_was_fitted_to(right, taken):
    """Of 100 training images; of images it was not fitted to the start knows 70."""
    alphas = wise_ft.candidates(0.5)
    good = np.array([np.arange(100) < number for number in right], float)
    assert alphas[wise_ft._checked(good, 0.7, None)] == taken
    few_count = np.where(np.arange(100) < 90, 1.0, 1e-9)
    assert alphas[wise_ft._checked(good, 0.7 / 0.9, few_count)] == taken


def test_a_workdir_is_used_like_any_other(tiny_config, tmp_path):
    """Train by the page's rule, then evaluate: what is read is what was tested."""
    source = tmp_path / "source"
    experiment.run(tiny_config(), source, progress=False)
    config = tiny_config(
        scenario="feature_extraction", augment="none", hyperrule="default", init_from=str(source)
    )
    config.hyperrule_keeps = ("last_group",)
    for name in ("steps", "batch_size", "eval_every", "log_every", "lr"):
        config[name] = tljax.config.base()[name]
    result = experiment.run(config, tmp_path / "run", progress=False)
    kept = json.loads((tmp_path / "run" / "config.json").read_text())
    assert kept["optimizer"] == "lbfgs"
    assert any(sentence.startswith("optimizer=lbfgs: ") for sentence in kept["hyperrule_chose"])
    trained = read_workdir(tmp_path / "run")
    assert same(trained.variables, result.variables)
    again = experiment.run(config, tmp_path / "run", progress=False)
    assert again.summary == result.summary


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"augment": "crop"}, "augment is crop, but optimizer is lbfgs"),
        ({"mixup": 0.1}, "mixup is 0.1, but optimizer is lbfgs"),
        ({"cache": "off"}, "cache is off, but optimizer is lbfgs"),
        ({"on_error": "skip"}, "on_error is skip, but optimizer is lbfgs"),
        ({"label_smoothing": 0.1}, "label_smoothing is 0.1, but optimizer is lbfgs"),
        ({"weight_decay": 0.1}, "weight_decay is 0.1, but optimizer is lbfgs"),
        ({"select_by": "macro_f1"}, "select_by is macro_f1, but optimizer is lbfgs"),
        ({"optimizer": "sgd", "l2": 1.0}, "l2 is 1.0, but no head is solved"),
        ({"l2": -1.0}, "l2 is -1.0; set it to a finite number"),
    ],
)
def test_what_a_solution_cannot_use_is_refused(options, said, network, digits):
    model, variables = network
    plan = tljax.feature_extraction(model.groups)
    options = {**OPTIONS, "optimizer": "lbfgs", **options}
    with pytest.raises(InputError, match=said):
        tljax.fit(model, variables, plan, digits.train, None, **options)


@pytest.mark.parametrize(
    ("plan", "options", "said"),
    [
        (tljax.fine_tune, {"optimizer": "lbfgs"}, "solves the head alone and all of it"),
        (tljax.from_scratch, {"head_init": "solved"}, "some groups below the head start from"),
        (tljax.fine_tune, {"wise_ft": True}, "there are no validation images to choose on"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(plan, options, said, network, digits):
    model, variables = network
    with pytest.raises(InputError, match=said):
        tljax.fit(model, variables, plan(model.groups), digits.train, None, **OPTIONS, **options)


def test_two_tasks_have_no_solved_head(network, digits):
    model, variables = network
    plan = tljax.feature_extraction(model.groups)
    options = {**OPTIONS, "optimizer": "lbfgs", "tasks": {"a": 5, "b": 5}}
    with pytest.raises(InputError, match="which is for one data set, but there are 2 tasks"):
        tljax.fit(model, variables, plan, digits.train, None, **options)


def test_the_head_of_zeros_before_the_solution_is_no_candidate(network):
    """It answers the first class throughout, which is the commonest one here."""
    model, variables = network
    rng = np.random.default_rng(0)
    labels = np.array([0] * 36 + [1] * 12)
    images = rng.integers(0, 256, (48, 16, 16, 3), np.uint8)
    pair = images, labels
    options = {**OPTIONS, "optimizer": "lbfgs", "class_weights": "balanced"}
    plan = tljax.feature_extraction(model.groups)
    result = tljax.fit(model, variables, plan, pair, pair, None, **options)
    assert result.summary["best_step"] == 1
    assert np.abs(result.variables["params"]["head"]["kernel"]).max() > 0


def test_without_a_cache_a_solved_start_writes_no_features(network, digits, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model, variables = network
    options = {**OPTIONS, "head_init": "solved", "cache": "off", "steps": 1}
    tljax.fit(model, variables, tljax.fine_tune(model.groups), digits.train, None, None, **options)
    assert not (tmp_path / "tljax" / "features").exists()


def test_the_option_that_changes_images_is_named():
    with pytest.raises(InputError, match="augment is crop, but optimizer is lbfgs"):
        tljax.training.TrainingOptions(optimizer="lbfgs", cache="memory", augment="crop")
