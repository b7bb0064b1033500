"""A run as a source: whether it beats the naive baseline, what it keeps, and how it is reused."""

import json
import logging
import shutil

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from scipy import stats

import tljax
from tests.bits import same
from tljax import cli, experiment
from tljax.config import base
from tljax.data import ArraySource, eval_batches, normalise
from tljax.errors import InputError
from tljax.experiment.statistics import MOST_IMAGES, STATISTICS_FILE, Moments, _choose
from tljax.runs import baseline
from tljax.runs.proportions import clopper_pearson
from tljax.training import solved_head
from tljax.weights import rules
from tljax.weights.read import read_metadata

NETWORK = {"model": "resnet10_32", "last_group": "layer2_0"}


def make_config(**fields):
    config = base()
    short = {"scenario": "from_scratch", "steps": 2, "batch_size": 16, "augment": "none"}
    config.update({**NETWORK, **short, "lr": 0.1, "eval_every": 40, **fields})
    return config


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A run that has learnt something about digits."""
    workdir = tmp_path_factory.mktemp("good") / "run"
    experiment.run(make_config(train_size=200, steps=40), workdir, progress=False)
    return workdir


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """A folder of noise whose labels are drawn at random, and a run that was trained on it."""
    root = tmp_path_factory.mktemp("noise")
    rng = np.random.default_rng(0)
    for i in range(40):
        file = root / "images" / "ab"[rng.integers(2)] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(file)
    config = make_config(data=f"folder:{root / 'images'}", steps=20)
    experiment.run(config, root / "run", progress=False)
    return root


def result_of(workdir):
    return json.loads((workdir / "result.json").read_text())


# --- the naive baseline ---------------------------------------------------------------------------


def test_the_interval_is_the_exact_one():
    # Newcombe 1998 ("Two-sided confidence intervals for the single proportion"), table I, method 5
    assert clopper_pearson(81, 263) == pytest.approx((0.2527, 0.3676), abs=5e-5)
    assert clopper_pearson(1, 29) == pytest.approx((0.0009, 0.1776), abs=5e-5)
    for correct, count in ((0, 20), (20, 20), (1, 1), (4999, 5000)):
        exact = stats.binomtest(correct, count).proportion_ci(0.95, "exact")
        assert clopper_pearson(correct, count) == pytest.approx((exact.low, exact.high), rel=1e-9)


def test_a_run_beats_the_baseline_if_the_whole_interval_is_above_it():
    low = clopper_pearson(15, 20).low
    assert baseline.compare(0.75, low - 1e-6, 20, "test")["verdict"]
    assert not baseline.compare(0.75, low, 20, "test")["verdict"]
    assert not baseline.compare(1.0, 1.0, 20, "test")["verdict"], "one class alone"
    mean_of_repeats = baseline.compare(15.9 / 20, low, 20, "cross-validation")
    assert mean_of_repeats["interval"][0] == low


def test_a_result_says_whether_the_run_beats_the_baseline(good, noise):
    for workdir, verdict in ((good, True), (noise / "run", False)):
        result = result_of(workdir)
        found = result["beats_naive"]
        correct = round(result["test_accuracy"] * result["test_size"])
        exact = stats.binomtest(correct, result["test_size"]).proportion_ci(0.95, "exact")
        assert found["interval"] == pytest.approx([exact.low, exact.high], rel=1e-9)
        assert found["naive_accuracy"] == result["naive_accuracy"]
        assert (found["verdict"], found["on"]) == (verdict, "test")
        assert found["images"] == result["test_size"]
        assert found["verdict"] == (exact.low > result["naive_accuracy"])


PIXELS = np.random.default_rng(0).integers(0, 256, (30, 16, 16, 3), np.uint8)
LABELS = np.array([0] * 18 + [1] * 12)


@pytest.mark.parametrize(
    ("val", "options", "on"),
    [
        (True, {}, "val"),
        (False, {}, None),
        (False, {"optimizer": "lbfgs"}, "cross-validation"),
        (False, {"optimizer": "lbfgs", "class_weights": "balanced"}, "cross-validation"),
        (False, {"optimizer": "lbfgs", "l2": 0.1}, None),
        (False, {"head_init": "solved"}, None),
    ],
)
def test_without_test_images_others_tell(val, options, on):
    model = tljax.create("vit_micro_patch4_32", 2)
    model, variables, _ = tljax.load("vit_micro_patch4_32", num_classes=2, image_size=16)
    plan = tljax.feature_extraction(model.groups)
    images = (PIXELS[:10], np.array([1] * 7 + [0] * 3)) if val else None
    given = {"steps": 1, "batch_size": 10, "progress": False, **options}
    result = tljax.fit(model, variables, plan, (PIXELS, LABELS), images, **given).summary
    found = result["beats_naive"]
    if on is None:
        assert found is None
        return
    wanted = {"val": (10, 3 / 10), "cross-validation": (30, 18 / 30)}[on]
    assert (found["images"], found["naive_accuracy"]) == pytest.approx(wanted)
    assert found["on"] == on
    assert found["accuracy"] == result["val_accuracy"]


def test_each_task_and_the_whole_run_are_compared(tmp_path, capsys):
    config = make_config(data="embedded:digits,embedded:textures", train_size=32)
    result = experiment.run(config, tmp_path / "run", progress=False).summary
    for part in (result, *result["tasks"].values()):
        wanted = baseline.compare(
            part["test_accuracy"], part["naive_accuracy"], part["test_size"], "test"
        )
        assert part["beats_naive"] == wanted
    statistics, why_not = experiment.source_statistics(tmp_path / "run")
    assert (statistics.means.shape[0], why_not) == (20, "")
    assert statistics.counts.sum() == result["train_size"]


def test_train_prints_a_sentence_if_the_run_does_not_beat_it(good, noise, tmp_path, capsys):
    from tljax.commands.train import print_result

    print_result(result_of(good))
    assert "does not beat" not in capsys.readouterr().out
    print_result(result_of(noise / "run"))
    out = capsys.readouterr().out
    low, high = result_of(noise / "run")["beats_naive"]["interval"]
    (line,) = [line for line in out.splitlines() if "does not beat the naive baseline" in line]
    assert f"{low:.4f} to {high:.4f}" in line
    print_result({**result_of(good), "beats_naive": None})
    assert "tells whether the run beats the naive baseline" in capsys.readouterr().out


# --- init_from ------------------------------------------------------------------------------------

TUNE = [*("--config", "fine_tune", "--config.model=resnet10_32", "--config.last_group=layer2_0")]
TUNE += [*("--config.train_size=40", "--config.steps=2", "--config.batch_size=16")]
SWEEP = """
from tljax.config import base, load

def get_config(arg=None):
    return load("fine_tune")

def sweep():
    yield {"seed": 0}
"""


@pytest.mark.parametrize("command", ["train", "probe", "find_lr", "sweep"])
def test_a_source_below_the_baseline_is_refused(command, noise, tmp_path, capsys):
    argv = [command, *TUNE, f"--config.init_from={noise / 'run'}"]
    if command == "probe":
        argv += ["--config.scenario=feature_extraction"]
        argv[2] = "feature_extraction"
    if command == "sweep":
        (tmp_path / "page.py").write_text(SWEEP)
        argv[2] = str(tmp_path / "page.py")
    if command != "find_lr":
        argv += ["--workdir", str(tmp_path / "new")]
    assert cli.main(argv) == 2
    err = capsys.readouterr().err
    (line,) = [line for line in err.splitlines() if line.startswith("tljax: ")]
    found = result_of(noise / "run")["beats_naive"]
    low, high = found["interval"]
    figures = f"accuracy {found['accuracy']:.4f} on {found['images']} test images, exact 95 %"
    assert figures in line
    assert f"{low:.4f} to {high:.4f}" in line
    assert f"{found['naive_accuracy']:.4f}" in line
    assert "--config.accept_source=True" in line
    assert not (tmp_path / "new").exists()


def start_of(config, caplog):
    """Where a run would start, and the warnings about its source."""
    caplog.clear()
    with caplog.at_level(logging.WARNING, "tljax"):
        exp = experiment.build(config, fetch_weights=True)
        (setup,) = exp.setups(experiment.load_data(exp.config))
        variables, _ = solved_head.initial_variables(setup, exp.read_pretrained())
    return exp, variables, [text for text in caplog.messages if "naive baseline" in text]


def tuned(source, **fields):
    fields = {"scenario": "fine_tune", "train_size": 40, "init_from": str(source), **fields}
    return make_config(**fields)


def test_a_source_is_accepted_if_it_beats_the_baseline_or_on_request(good, noise, caplog):
    assert start_of(tuned(good), caplog)[2] == []
    _, _, (said,) = start_of(tuned(noise / "run", accept_source=True), caplog)
    assert "accept_source=True" in said
    experiment.build(tuned(noise / "run"))  # as `tljax plan` does
    scratch = tuned(noise / "run", scenario="from_scratch")
    assert start_of(scratch, caplog)[2] == [], "no weights of it are used"


def test_what_an_older_run_does_not_say_is_computed_or_said_to_be_unknown(good, noise, caplog):
    older = noise / "older"
    shutil.copytree(noise / "run", older)
    result = result_of(older)
    del result["beats_naive"]
    (older / "result.json").write_text(json.dumps(result))
    with pytest.raises(InputError, match="does not beat the naive baseline"):
        experiment.build(tuned(older), fetch_weights=True)
    for content in (None, {}, {"beats_naive": None}, {"beats_naive": {"verdict": "yes"}}, [1]):
        (older / "result.json").unlink()
        if content is not None:
            (older / "result.json").write_text(json.dumps(content))
        _, _, (said,) = start_of(tuned(older), caplog)
        assert "is not known" in said
        (older / "result.json").touch()
    shutil.rmtree(older)


def test_load_warns(noise, caplog):
    with caplog.at_level(logging.WARNING, "tljax"):
        tljax.load("resnet10_32", noise / "run", num_classes=3, last_group="layer2_0")
    (said,) = caplog.messages
    assert "does not beat the naive baseline" in said


# --- reuse up to a group --------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 3])
def test_the_groups_below_init_k_are_those_of_the_source(n, good, caplog):
    source = rules.flatten(experiment.read_workdir(good).variables)
    exp, variables, _ = start_of(tuned(good, init_k=n, scenario="fine_tune", seed=5), caplog)
    fresh, _ = solved_head.initial_variables(
        experiment.build(tuned(good, scenario="from_scratch", seed=5)).setups(
            experiment.load_data(exp.config)
        )[0],
        None,
    )
    fresh = rules.flatten(fresh)
    compared = 0
    for path, value in rules.flatten(variables).items():
        if path.startswith("head/"):
            continue
        below = exp.model.groups.depth(path) < n
        assert same(value, (source if below else fresh)[path]), path
        if np.any(source[path] != fresh[path]):
            assert same(value, source[path]) == below, path
            compared += 1
    assert compared > 5


def test_a_network_that_ends_early_takes_the_first_groups_of_a_longer_one(good, caplog):
    source = rules.flatten(experiment.read_workdir(good).variables)
    exp, variables, _ = start_of(tuned(good, last_group="layer1_0"), caplog)
    assert exp.model.groups.names == ("stem", "layer1_0", "head")
    for path, value in rules.flatten(variables).items():
        if not path.startswith("head/"):
            assert same(value, source[path]), path


def test_a_longer_network_takes_the_first_groups_of_one_that_ends_early(good, caplog):
    source = rules.flatten(experiment.read_workdir(good).variables)
    exp, variables, _ = start_of(tuned(good, last_group=None, init_k=3), caplog)
    for path, value in rules.flatten(variables).items():
        if exp.model.groups.depth(path) < 3:
            assert same(value, source[path]), path
    with pytest.raises(InputError, match="layer3_0"):
        start_of(tuned(good, last_group=None, init_k=4), caplog)


# --- what a source knows of itself ----------------------------------------------------------------


def features_of(trained, source):
    exp = trained.experiment
    (batch,) = eval_batches(source, exp.preprocessing, batch_size=len(source))
    images = normalise(batch["image"], exp.preprocessing)
    found = tljax.features(exp.model, trained.variables, images)
    return np.asarray(found, np.float64), batch["label"], images


def test_statistics_are_those_of_the_features_and_are_kept(good, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(good, workdir)
    before = {path.name for path in workdir.iterdir()}
    statistics, why_not = experiment.source_statistics(workdir)
    assert why_not == ""
    assert {path.name for path in workdir.iterdir()} - before == {STATISTICS_FILE}
    trained = experiment.read_workdir(workdir)
    train = experiment.load_data(trained.config, trained.splits).train
    x, labels, _ = features_of(trained, train)
    means = [x[labels == label].mean(axis=0) for label in range(10)]
    np.testing.assert_allclose(statistics.means, means, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(statistics.covariance, np.cov(x.T), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(statistics.mean, x.mean(axis=0), rtol=1e-5, atol=1e-6)
    assert statistics.counts.tolist() == np.bincount(labels).tolist()
    assert len(statistics.sample) == len(x), "all of so few"
    np.testing.assert_allclose(statistics.sample, x, rtol=1e-5, atol=1e-6)
    kept = (workdir / STATISTICS_FILE).read_bytes()
    assert all(map(same, experiment.source_statistics(workdir)[0], statistics))
    (workdir / STATISTICS_FILE).write_bytes(kept[:-3])  # damaged: computed again, to the same bits
    assert all(map(same, experiment.source_statistics(workdir)[0], statistics))
    assert (workdir / STATISTICS_FILE).read_bytes() == kept


@pytest.mark.parametrize("damage", ["other weights", "other shapes", "not finite"])
def test_statistics_that_are_not_those_of_the_weights_are_computed_again(damage, good, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(good, workdir)
    statistics, _ = experiment.source_statistics(workdir)
    path = workdir / STATISTICS_FILE
    whole = path.read_bytes()
    metadata = read_metadata(path)
    arrays = {name: np.zeros_like(array) for name, array in statistics._asdict().items()}
    if damage == "other weights":
        metadata = {"weights": "0" * 64}
    elif damage == "other shapes":
        arrays["covariance"] = arrays["covariance"][:1]
    else:
        arrays["means"][0] = np.nan
    save_file(arrays, path, metadata)
    assert all(map(same, experiment.source_statistics(workdir)[0], statistics))
    assert path.read_bytes() == whole


def test_statistics_need_the_images_once(noise, tmp_path):
    shutil.copytree(noise / "run", tmp_path / "first")
    shutil.copytree(noise / "run", tmp_path / "second")
    statistics, _ = experiment.source_statistics(tmp_path / "first")
    (noise / "images").rename(noise / "away")
    try:
        again, why_not = experiment.source_statistics(tmp_path / "first")
        assert (same(again.means, statistics.means), why_not) == (True, "")
        nothing, why_not = experiment.source_statistics(tmp_path / "second")
        assert nothing is None
        assert str(noise / "images") in why_not
        assert not (tmp_path / "second" / STATISTICS_FILE).exists()
    finally:
        (noise / "away").rename(noise / "images")


def test_moments_of_batches_are_those_of_all():
    rng = np.random.default_rng(0)
    x = (1e4 + rng.normal(size=(500, 6)) @ rng.normal(size=(6, 6))).astype(np.float32)
    labels = rng.integers(0, 3, 500)
    moments = Moments(4, 6)
    for start in range(0, 500, 37):
        moments.add(x[start : start + 37], labels[start : start + 37])
    moments.add(x[:0], labels[:0])
    found = moments.statistics(x[:2])
    np.testing.assert_allclose(found.covariance, np.cov(x.T.astype(np.float64)), rtol=1e-6)
    assert found.counts.tolist() == [*np.bincount(labels), 0]
    assert not found.means[3].any()


def test_of_many_images_statistics_take_some_of_each_class():
    labels = np.repeat([0, 1, 2], [9000, 900, 100])
    source = ArraySource(np.zeros((10_000, 1, 1, 3), np.uint8), labels)
    chosen = _choose(source)
    assert len(chosen) == MOST_IMAGES
    assert np.bincount(chosen.labels) == pytest.approx([4500, 450, 50], abs=1)
    assert same(chosen.indices, _choose(source).indices)


def test_a_sources_probabilities_for_other_images_are_the_softmax_of_its_logits(good):
    trained = experiment.read_workdir(good)
    rng = np.random.default_rng(0)
    other = ArraySource(rng.integers(0, 256, (40, 48, 40, 3), np.uint8), np.full(40, 99))
    _, _, images = features_of(trained, other)
    logits = trained.experiment.model.apply(trained.variables, images, train=False)
    found = experiment.source_probabilities(trained, other)
    assert (found.shape, found.dtype) == ((40, 10), np.float32)
    np.testing.assert_allclose(found, jax.nn.softmax(logits), atol=1e-5)
