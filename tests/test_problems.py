"""What a head learns: several labels an image, and numbers, through the same loop as classes."""

import json

import jax
import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

import tljax
from tests.bits import changed_paths, same
from tests.tiny_networks import NETWORKS, PREPROCESSING
from tljax import data as data_lib
from tljax.data import ArraySource, Subset
from tljax.errors import InputError
from tljax.models import init
from tljax.runs.answers import Outputs, read_answers
from tljax.runs.resume import best_variables
from tljax.training.evaluation import evaluate
from tljax.training.loss.objective import Objective
from tljax.training.options import TrainingOptions
from tljax.training.problems import CLASSES, MultiLabel, Regression, Scale
from tljax.training.problems.intervals import bootstrap
from tljax.training.problems.multi_label import average_precision, choose_thresholds
from tljax.training.setup import Setup

OUTPUTS = 3
OPTIONS = {
    "preprocessing": PREPROCESSING,
    "batch_size": 16,
    "steps": 8,
    "eval_every": 4,
    "checkpoint_every": 2,
    "lr": 0.05,
    "augment": "crop",
    "progress": False,
}


class Images(ArraySource):
    """Raises once after some images, as if the process was killed there."""

    left = None

    def __getitem__(self, index):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
        return super().__getitem__(index)


def labels_of(kind, digits):
    """Of digits: whether it is odd, above 4 and has a hole; or numbers of quite unlike units."""
    if kind == "multi_label":
        return np.stack([digits % 2, digits > 4, np.isin(digits, (0, 6, 8, 9))], 1).astype(np.uint8)
    return np.stack([digits, 1e6 - 2e4 * digits, 0.001 * (digits % 2)], 1).astype(np.float32)


@pytest.fixture(scope="module")
def splits():
    """A function of the kind: train, val and test images of digits."""
    whole = data_lib.load("embedded:digits", train_size=60)

    def make(kind):
        found = []
        for source, count in ((whole.train, 60), (whole.val, 40), (whole.test, 50)):
            images = np.stack([source[i]["image"] for i in range(count)])
            found.append(Images(images, labels_of(kind, source.labels[:count])))
        return found

    return make


@pytest.fixture(scope="module")
def start():
    model = NETWORKS["resnet"].clone(num_classes=OUTPUTS)
    return model, init(model, jax.random.key(0), 16)


@pytest.mark.parametrize("kind", ["multi_label", "regression"])
def test_a_run_learns_resumes_to_the_bit_and_keeps_what_is_frozen(kind, splits, start, tmp_path):
    model, variables = start
    plan = tljax.freeze_first(model.groups, k=1)
    train, val, test = splits(kind)
    whole = tljax.fit(model, variables, plan, train, val, test, workdir=tmp_path / "a", **OPTIONS)
    train.left = 5 * 16 + 3
    with pytest.raises(KeyboardInterrupt):
        tljax.fit(model, variables, plan, train, val, test, workdir=tmp_path / "b", **OPTIONS)
    train.left = None
    resumed = tljax.fit(model, None, plan, train, val, test, workdir=tmp_path / "b", **OPTIONS)
    assert same(whole.variables, resumed.variables)
    rows = [(tmp_path / name / "metrics.jsonl").read_text() for name in "ab"]
    assert rows[0] == rows[1]
    changed = changed_paths(variables["params"], whole.variables["params"])
    assert changed
    assert not any(path.startswith(model.groups.names[0]) for path in changed)

    summary = json.loads((tmp_path / "a" / "result.json").read_text())
    assert summary["kind"] == kind
    first = summary["score"]
    assert first == {"multi_label": "mean_average_precision", "regression": "r2"}[kind]
    answers = read_answers(tmp_path / "a")
    assert isinstance(answers, Outputs)
    assert same(answers.labels, test.labels.astype(np.float32))
    low, high = summary["test_intervals"][first]
    assert low < summary[f"test_{first}"] < high
    of_several = kind == "multi_label"
    problem = MultiLabel(tuple(summary["thresholds"])) if of_several else Regression()
    for name, bounds in bootstrap(problem, answers, train.labels).of.items():
        assert summary["test_intervals"][name] == list(bounds), "with the thresholds of F1"
    if of_several:
        validated = evaluate(model, whole.variables, val, PREPROCESSING, 16, problem=problem)
        for name, value in validated.metrics.items():
            assert summary[f"val_{name}"] == pytest.approx(value), "with the thresholds too"
    assert summary["beats_naive"]["naive"] == summary[f"naive_{first}"]
    best = best_variables(tmp_path / "a")
    assert same(best, whole.variables)


def test_answers_are_in_units_and_metrics_are_scikit_learn_s(splits, start):
    model, variables = start
    train, _, test = splits("regression")
    problem = Regression("huber", Scale.of(train.labels))
    found = evaluate(model, variables, test, PREPROCESSING, 16, problem=problem, with_answers=True)
    images = data_lib.eval_batches(test, PREPROCESSING, batch_size=50)
    (batch,) = list(images)
    x = data_lib.normalise(batch["image"], PREPROCESSING)
    outputs = np.asarray(model.apply(variables, x, train=False), np.float64)
    numbers = outputs * train.labels.std(0, dtype=float) + train.labels.mean(0, dtype=float)
    np.testing.assert_allclose(found.answers.outputs, numbers, rtol=1e-4)
    assert found.metrics["rmse"] == pytest.approx(
        sklearn_metrics.root_mean_squared_error(test.labels, numbers), rel=1e-4
    )
    assert found.metrics["mae"] == pytest.approx(
        sklearn_metrics.mean_absolute_error(test.labels, numbers), rel=1e-4
    )
    assert found.metrics["r2"] == pytest.approx(
        sklearn_metrics.r2_score(test.labels, numbers), rel=1e-4
    )
    naive = problem.naive(train.labels, test.labels)
    assert naive["r2"] <= 0
    constant = np.tile(train.labels.mean(0), (50, 1))
    assert naive["r2"] == pytest.approx(sklearn_metrics.r2_score(test.labels, constant), abs=1e-4)


def test_metrics_of_several_labels_are_scikit_learn_s():
    rng = np.random.default_rng(0)
    labels = (rng.random((200, 5)) < (0.5, 0.1, 0.9, 0.3, 0)).astype(np.uint8)
    probabilities = np.round(0.3 * labels + 0.7 * rng.random((200, 5)), 1).astype(np.float32)
    for column in range(4):
        expected = sklearn_metrics.average_precision_score(
            labels[:, column], probabilities[:, column]
        )
        found = average_precision(labels[:, column] > 0, probabilities[:, column])
        assert found == pytest.approx(expected, rel=1e-6)
    thresholds = (0.4, 0.5, 0.6, 0.7, 0.5)
    scores = MultiLabel(thresholds).scores(labels, probabilities)
    answers = probabilities >= np.float32(thresholds)
    assert scores["micro_f1"] == pytest.approx(
        sklearn_metrics.f1_score(labels, answers, average="micro")
    )
    assert scores["macro_f1"] == pytest.approx(
        sklearn_metrics.f1_score(labels[:, :4], answers[:, :4], average="macro")
    ), "a class that no image has counts in no mean"
    naive = MultiLabel().naive(labels, labels)
    assert naive["mean_average_precision"] == pytest.approx(labels[:, :4].mean(), rel=1e-6)


def test_thresholds_have_the_highest_f1_of_all():
    rng = np.random.default_rng(1)
    labels = (rng.random((80, 2)) < 0.2).astype(np.uint8)
    labels[:, 1] = 0
    probabilities = (0.2 * labels + 0.5 * rng.random((80, 2))).astype(np.float32)
    first, second = choose_thresholds(labels, probabilities)
    assert second == 0.5, "no image has the second class"

    def f1(threshold):
        return sklearn_metrics.f1_score(labels[:, 0], probabilities[:, 0] >= threshold)

    assert f1(first) == max(f1(threshold) for threshold in np.unique(probabilities[:, 0]))


def test_macro_f1_is_scikit_learn_s_and_may_decide(start, splits):
    whole = data_lib.load("embedded:digits", train_size=60)
    model = NETWORKS["resnet"]
    variables = init(model, jax.random.key(0), 16)
    val, test = Subset(whole.val, range(60)), Subset(whole.test, range(60))
    plan = tljax.fine_tune(model.groups)
    options = {**OPTIONS, "eval_every": 1, "select_by": "macro_f1"}
    result = tljax.fit(model, variables, plan, whole.train, val, test, **options)
    rows = [row for row in result.history if row["event"] == "val"]
    best = max(rows, key=lambda row: (row["macro_f1"], -row["loss"], -row["step"]))
    assert result.summary["best_step"] == best["step"]
    assert result.summary["score"] == "macro_f1"
    found = evaluate(model, result.variables, test, PREPROCESSING, 16, with_answers=True)
    for name, average in (("macro_f1", "macro"),):
        expected = sklearn_metrics.f1_score(
            found.answers.labels, found.answers.predicted, average=average
        )
        assert found.metrics[name] == pytest.approx(expected)
    recalls = sklearn_metrics.recall_score(
        found.answers.labels, found.answers.predicted, average=None, labels=range(10)
    )
    assert found.by_class["accuracy"] == pytest.approx(tuple(recalls))
    assert result.summary["test_by_class"]["accuracy"] == pytest.approx(list(recalls))


@pytest.mark.parametrize("problem", [CLASSES, MultiLabel(), Regression("l1"), Regression("huber")])
def test_an_image_of_weight_two_counts_as_two(problem):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4, OUTPUTS)).astype(np.float32)
    label = rng.integers(0, 2, 4).astype(np.int32)
    if problem.kind != "classes":
        label = rng.integers(0, 2, (4, OUTPUTS)).astype(np.float32)
    twice = [0, 1, 1, 2, 3]
    weighted = Objective().loss(
        logits, {"label": label, "weight": np.float32([1, 2, 1, 1])}, problem
    )
    repeated = Objective().loss(logits[twice], {"label": label[twice]}, problem)
    assert 4 * float(weighted) == pytest.approx(5 * float(repeated), rel=1e-6)


def test_weights_of_images_reach_the_step(start):
    """A run whose weights are all 2 takes the steps of one with twice the rate."""
    model, variables = start
    images = np.random.default_rng(0).integers(0, 255, (32, 16, 16, 3)).astype(np.uint8)
    plan = tljax.feature_extraction(model.groups)
    options = {**OPTIONS, "augment": "none", "momentum": 0.0, "steps": 4}

    def train(lr, weights):
        source = ArraySource(images, np.arange(32) % OUTPUTS)
        source.weights = weights
        return tljax.fit(model, variables, plan, source, None, **{**options, "lr": lr}).variables

    weighted = train(0.1, np.full(32, 2, np.float32))
    faster = train(0.2, None)
    for one, other in zip(jax.tree.leaves(weighted), jax.tree.leaves(faster), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_a_network_that_says_the_same_does_not_beat_the_baseline():
    rng = np.random.default_rng(0)
    labels = rng.normal(size=(60, 1)).astype(np.float32)
    same_answer = Outputs(np.arange(60), labels, np.zeros_like(labels))
    found = bootstrap(Regression(scale=Scale.of(labels)), same_answer, labels)
    assert found.gain[0] <= 0
    right = bootstrap(Regression(), Outputs(np.arange(60), labels, 0.9 * labels), labels)
    assert right.gain[0] > 0.5
    assert right == bootstrap(Regression(), Outputs(np.arange(60), labels, 0.9 * labels), labels)


@pytest.mark.parametrize(
    ("alpha", "which"), [(0.0, "training images out of fold"), (1.0, "no images: 0.5")]
)
def test_a_solved_head_that_stays_keeps_its_thresholds(alpha, which, splits, start):
    model, variables = start
    train, _, _ = splits("multi_label")
    options = {**OPTIONS, "steps": 2, "eval_every": 2, "head_init": "solved"}
    options |= {"wise_ft": True, "wise_ft_alpha": alpha, "lr": 1e-4}  # which damages nothing
    plan = tljax.fine_tune(model.groups)
    summary = tljax.fit(model, variables, plan, train, None, **options).summary
    assert summary["thresholds_chosen_on"] == which
    expected = summary["solved_head"]["thresholds"] if alpha == 0 else [0.5] * OUTPUTS
    assert summary["thresholds"] == expected


def test_intervals_hold_the_metric_of_rare_labels_too():
    rng = np.random.default_rng(0)
    labels = (rng.random((40, 60)) < 0.04).astype(np.float32)
    outputs = np.clip(0.1 * labels + 0.5 * rng.random(labels.shape), 0, 1).astype(np.float32)
    problem = MultiLabel((0.45,) * 60)
    values = problem.scores(labels, outputs)
    resampled = []
    for _ in range(50):
        rows = rng.integers(40, size=40)
        resampled.append(problem.scores(labels[rows], outputs[rows])["mean_average_precision"])
    assert np.percentile(resampled, 25) > values["mean_average_precision"], "or this tests nothing"
    found = bootstrap(problem, Outputs(np.arange(40), labels, outputs), labels)
    for name, (low, high) in found.of.items():
        assert 0 <= low < values[name] < high <= 1
        assert high - low < 0.2
    naive = problem.naive(labels, labels)["mean_average_precision"]
    assert found.gain[0] < values["mean_average_precision"] - naive < found.gain[1]
    perfect = bootstrap(problem, Outputs(np.arange(40), labels, labels), labels)
    assert perfect.of["mean_average_precision"] == (1, 1)


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("regression", {"class_weights": "balanced"}, "class_weights is balanced, which is for"),
        ("regression", {"label_smoothing": 0.1}, "label_smoothing is 0.1, which is for classes"),
        ("regression", {"mixup": 0.2}, "mixup is 0.2, which is for classes"),
        ("multi_label", {"sampling": "balanced"}, "sampling is balanced, which is for classes"),
        ("multi_label", {"regression_loss": "l1"}, "regression_loss is l1, but the labels are of"),
        ("multi_label", {"select_by": "rmse"}, "there is no select_by 'rmse'"),
        ("multi_label", {"tasks": {"a": 1, "b": 2}}, "there are 2 tasks, which are for classes"),
        ("regression", {"select_by": "cleverness"}, "there is no select_by"),
        (
            "regression",
            {"regression_loss": "l1", "optimizer": "lbfgs", "augment": "none"},
            "regression_loss is l1, but optimizer is lbfgs",
        ),
    ],
)
def test_options_of_another_kind_are_refused(kind, options, expected, splits, start):
    model, variables = start
    train, val, test = splits(kind)
    with pytest.raises(InputError, match=expected):
        tljax.fit(
            model, variables, tljax.fine_tune(model.groups), train, val, test, **OPTIONS | options
        )


def test_labels_that_do_not_fit_are_refused(splits, start):
    model, _ = start
    plan = tljax.fine_tune(model.groups)
    train, _, _ = splits("regression")
    several = splits("multi_label")[1]
    narrow = ArraySource(np.zeros((4, 16, 16), np.uint8), np.zeros((4, 2)))
    for sources, expected in (
        ((train, several), "of one split are of the kind multi_label"),
        ((narrow, None), "each image has 2 labels of the kind regression, but the model has 3"),
    ):
        setup = Setup(model, plan, TrainingOptions(), PREPROCESSING, *sources)
        with pytest.raises(InputError, match=expected):
            setup.check()
