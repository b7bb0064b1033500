"""Linear heads solved for several labels an image and for numbers: scikit-learn finds the same."""

import re

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV
from sklearn.metrics import average_precision_score
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

import tljax
from tests.scaled_features import scaled, scales
from tests.tiny_networks import NETWORKS, PREPROCESSING
from tljax import console
from tljax.commands.probe.linear_probe import check_kind
from tljax.data import ArraySource, balanced_label_weights, strata
from tljax.errors import InputError
from tljax.frozen.cache import CachedSource
from tljax.frozen.cross_validation import assign_folds, choose_by_loss
from tljax.frozen.linear_head import logistic, ridge, solve_head
from tljax.training import solved_head
from tljax.training.options import TrainingOptions
from tljax.training.setup import Setup

ROWS, WIDTH, OUTPUTS = 120, 20, 4
NEVER = -np.log(2 * ROWS + 1)  # the logit of a class that no row has


@pytest.fixture(autouse=True)
def one_thread():
    """scikit-learn's threads wait for each other for long where other processes compute."""
    with threadpool_limits(1):
        yield


def draw(kind, rows=ROWS, width=WIDTH, seed=0):
    """Correlated raw features, far from zero and of different sizes, and labels of a kind."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(rows, width))
    numbers = hidden @ rng.normal(size=(width, OUTPUTS)) + rng.normal(size=(rows, OUTPUTS))
    x = hidden @ rng.normal(size=(width, width)) * np.logspace(-1, 1, width) + 5
    if kind == "regression":
        return x.astype(np.float32), (numbers * [1, 9, 0.1, 50] + 100).astype(np.float32)
    return x.astype(np.float32), (numbers > [0, 2, 5, -2]).astype(np.uint8)


def standardised(values):
    """Standardised in float64; a constant is 0."""
    return StandardScaler().fit_transform(values.astype(np.float64))


def outputs_of(head, x):
    return x.astype(np.float64) @ head.kernel + head.bias


def sigmoid_losses(logits, has):
    return np.logaddexp(0, np.where(has > 0, -1, 1) * logits)


def penalty(head, x, l2):
    return l2 / 2 * np.square(head.kernel * scales(x)[:, None]).sum()


# --- several labels an image --------------------------------------------------------------------


@pytest.mark.parametrize("l2", [3.0, 0.03, 3e-4])
@pytest.mark.parametrize("case", ["plain", "rows", "balanced", "constant", "wide"])
def test_each_class_is_scikit_learns(case, l2):
    x, has = draw("multi_label", *((40, 60) if case == "wide" else ()))
    weights = None
    if case == "rows":
        weights = np.where(np.arange(len(x)) < 50, 3.0, 0.5)
    elif case == "balanced":
        absent, present = balanced_label_weights(has)
        weights = np.where(has > 0, present, absent)
    elif case == "constant":
        x[:, 4] = 0.1  # its mean in float32 is not 0.1
    head = solve_head(x, has, OUTPUTS, l2=l2, weights=weights)
    logits, features = outputs_of(head, x), scaled(x)
    least = 0.0
    for c in range(OUTPUTS):
        of_class = None if weights is None else weights if weights.ndim == 1 else weights[:, c]
        of_class = None if of_class is None else of_class / of_class.mean()
        peer = LogisticRegression(C=1 / (l2 * len(x)), tol=1e-10, max_iter=10_000)
        wanted = peer.fit(features, has[:, c], of_class).decision_function(features)
        np.testing.assert_allclose(logits[:, c], wanted, rtol=0.01, atol=0.02)
        coefficients = head.kernel[:, c] * scales(x)
        np.testing.assert_allclose(coefficients, peer.coef_[0], atol=0.02)
        least += np.average(sigmoid_losses(wanted, has[:, c]), weights=of_class)
        least += l2 / 2 * np.square(peer.coef_).sum()
    rows = sigmoid_losses(logits, has)
    if weights is not None and weights.ndim == 1:
        weights = np.tile(weights[:, None], OUTPUTS)
    loss = np.average(rows, axis=0, weights=weights).mean() + penalty(head, x, l2) / OUTPUTS
    assert loss == pytest.approx(least / OUTPUTS, abs=1e-6)
    assert head.report["loss"] == pytest.approx(loss, abs=1e-6)
    assert head.report["converged"]
    precision = np.mean(
        [average_precision_score(*pair) for pair in zip(has.T, logits.T, strict=True)]
    )
    assert head.report["train_mean_average_precision"] == pytest.approx(precision, abs=1e-3)
    assert (head.kernel.dtype, head.bias.dtype, head.out_of_fold) == (np.float32, np.float32, None)
    assert head.kernel[4].any() == (case != "constant")


def test_cross_validation_of_classes_is_scikit_learns():
    x, has = draw("multi_label")
    head = solve_head(x, has, OUTPUTS, seed=3)
    found = head.report["cross_validation"]
    assert (found["folds"], found["repeats"], found["images"]) == (5, 5, ROWS)
    folds, features = assign_folds(strata(has), seed=3), scaled(x)

    def out_of_fold(l2):
        logits = np.empty((len(folds), ROWS, OUTPUTS))
        for repeat, assigned in enumerate(folds):
            for fold in range(5):
                held = assigned == fold
                for c in range(OUTPUTS):
                    peer = LogisticRegression(C=1 / (l2 * ROWS), tol=1e-5, max_iter=5000)
                    peer.fit(features[~held], has[~held, c])
                    logits[repeat, held, c] = peer.decision_function(features[held])
        return logits

    logits = out_of_fold(head.l2)
    assert found["loss"] == pytest.approx(sigmoid_losses(logits, has).mean(), rel=0.01)
    probability = (1 / (1 + np.exp(-logits))).mean(axis=0)
    np.testing.assert_allclose(head.out_of_fold, probability, atol=0.02)
    assert head.out_of_fold.dtype == np.float32
    assert found["mean_average_precision"] == pytest.approx(
        np.mean(
            [average_precision_score(*pair) for pair in zip(has.T, probability.T, strict=True)]
        ),
        abs=0.01,
    )
    (chosen,) = [row for row in found["grid"] if row["l2"] == head.l2]
    assert found["loss"] == chosen["loss"]
    assert found["loss"] < 1.05 * min(row["loss"] for row in found["grid"])
    share = has.mean(axis=0)
    entropy = -(share * np.log(share) + (1 - share) * np.log(1 - share)).mean()
    assert found["naive_loss"] == pytest.approx(entropy)
    assert found["naive_mean_average_precision"] == pytest.approx(share.mean())
    assert found["loss"] < entropy
    given = solve_head(x, has, OUTPUTS, l2=head.l2)
    np.testing.assert_allclose(
        head.kernel, given.kernel, rtol=0, atol=2e-3 * abs(head.kernel).max()
    )


def test_a_class_that_all_images_have_or_none_has_a_constant_logit(caplog, monkeypatch):
    monkeypatch.setattr(console, "_said", set())
    x, has = draw("multi_label")
    has[:, 1], has[:, 3] = 0, 1
    for head in (solve_head(x, has, OUTPUTS), solve_head(x, has, OUTPUTS, l2=0.1)):
        assert not head.kernel[:, [1, 3]].any()
        np.testing.assert_allclose(head.bias[[1, 3]], [NEVER, -NEVER], rtol=1e-6)
        assert head.kernel[:, [0, 2]].all()
        assert head.report["converged"]
    said = [record.getMessage() for record in caplog.records]
    assert sum("2 of 4 classes are on all training images or on none" in s for s in said) == 1


def test_a_class_of_one_image_is_constant_where_that_is_held_out():
    x, has = draw("multi_label")
    has[:, 1] = np.arange(ROWS) == 7
    head = solve_head(x, has, OUTPUTS)
    fitted = ROWS * 4 // 5
    assert head.out_of_fold[7, 1] == pytest.approx(1 / (2 * fitted + 2), rel=1e-5)
    assert np.isfinite(head.kernel).all()
    assert head.report["converged"]
    assert all(np.isfinite(row["loss"]) for row in head.report["cross_validation"]["grid"])


def test_a_class_without_weight_says_nothing():
    x, has = draw("multi_label")
    weights = np.ones(has.shape)
    weights[:, 2] = 0.0
    head = solve_head(x, has, OUTPUTS, weights=weights)
    assert not head.kernel[:, 2].any()
    assert head.bias[2] == 0
    assert head.report["converged"]


@pytest.mark.parametrize("balanced", [False, True])
def test_classes_in_parts_are_those_of_one(monkeypatch, balanced):
    x, has = draw("multi_label")
    weights = np.where(has > 0, *balanced_label_weights(has)[::-1]) if balanced else None
    whole = solve_head(x, has, OUTPUTS, weights=weights)
    monkeypatch.setattr(logistic, "_HEADS", 25 * (WIDTH + 1) * 3)  # three classes at most
    parts = solve_head(x, has, OUTPUTS, weights=weights)
    assert parts.l2 == whole.l2
    np.testing.assert_allclose(parts.kernel, whole.kernel, atol=2e-3 * abs(whole.kernel).max())
    np.testing.assert_allclose(parts.out_of_fold, whole.out_of_fold, atol=0.01)
    ours, theirs = (
        [row for row in head.report["cross_validation"]["grid"] if row["l2"] > whole.l2 / 100]
        for head in (parts, whole)
    )  # weaker penalties are left before they converge
    assert ours == [pytest.approx(row, rel=1e-3) for row in theirs]


def test_weights_of_rows_and_classes_agree():
    x, has = draw("multi_label")
    weights = np.linspace(0.5, 2, ROWS)
    one, two = (
        solve_head(x, has, OUTPUTS, l2=0.03, weights=w)
        for w in (weights, np.tile(7 * weights[:, None], OUTPUTS))
    )
    np.testing.assert_allclose(one.kernel, two.kernel, atol=1e-4 * abs(one.kernel).max())
    assert one.report["loss"] == pytest.approx(two.report["loss"], abs=1e-6)


# --- numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("l2", [3.0, 0.03, 3e-4])
@pytest.mark.parametrize("case", ["plain", "weights", "constant", "wide"])
def test_the_head_of_numbers_is_scikit_learns(case, l2):
    x, numbers = draw("regression", *((40, 60) if case == "wide" else ()))
    weights = None
    if case == "weights":
        weights = np.where(np.arange(ROWS) < 50, 3.0, 0.5)
    elif case == "constant":
        x[:, 4] = 0.1
        numbers[:, 1] = 0.1
    head = solve_head(x, numbers, OUTPUTS, l2=l2, weights=weights)
    features, targets = scaled(x), standardised(numbers)
    if case == "constant":
        np.testing.assert_allclose(targets[:, 1], 0, atol=1e-6)
    of_rows = None if weights is None else weights / weights.mean()
    peer = Ridge(alpha=l2 * len(x)).fit(features, targets, of_rows)
    wanted = peer.predict(features)
    np.testing.assert_allclose(outputs_of(head, x), wanted, atol=1e-4)
    coefficients = head.kernel * scales(x)[:, None]
    np.testing.assert_allclose(coefficients, peer.coef_.T, atol=1e-5)
    squared = np.average(np.square(wanted - targets), axis=0, weights=weights)
    loss = squared.mean() + l2 / OUTPUTS * np.square(peer.coef_).sum()
    assert head.report["loss"] == pytest.approx(loss, rel=1e-5)
    mean = np.average(targets, axis=0, weights=weights)
    around = np.average(np.square(targets - mean), axis=0, weights=weights)
    r2 = [0 if a < 1e-9 else 1 - s / a for s, a in zip(squared, around, strict=True)]
    assert head.report["train_r2"] == pytest.approx(np.mean(r2), abs=1e-6)
    assert (head.kernel.dtype, head.bias.dtype, head.out_of_fold) == (np.float32, np.float32, None)
    if case == "constant":
        assert not head.kernel[4].any()
        np.testing.assert_allclose(head.kernel[:, 1], 0, atol=1e-12)


@pytest.mark.parametrize("size", [(ROWS, WIDTH), (50, 70)])
def test_cross_validation_of_numbers_is_scikit_learns(size):
    x, numbers = draw("regression", *size)
    head = solve_head(x, numbers, OUTPUTS, seed=3)
    found = head.report["cross_validation"]
    folds = assign_folds(strata(numbers), seed=3)
    features, targets = scaled(x), standardised(numbers)

    def out_of_fold(l2):
        predicted = np.empty((len(folds), *targets.shape))
        for repeat, assigned in enumerate(folds):
            for fold in range(folds.max() + 1):
                held = assigned == fold
                peer = Ridge(alpha=l2 * len(x)).fit(features[~held], targets[~held])
                predicted[repeat, held] = peer.predict(features[held])
        return predicted

    for row in found["grid"][::4]:
        errors = np.square(out_of_fold(row["l2"]) - targets).mean(axis=(0, 1))
        assert row["loss"] == pytest.approx(errors.mean(), rel=1e-4)
        assert row["r2"] == pytest.approx(1 - errors.mean(), rel=1e-3, abs=1e-4)
    predicted = out_of_fold(head.l2)
    np.testing.assert_allclose(head.out_of_fold, predicted.mean(axis=0), atol=1e-4)
    assert head.out_of_fold.dtype == np.float32
    rmse = np.sqrt(np.square(predicted - targets).mean(axis=(0, 1))) * numbers.std(axis=0)
    np.testing.assert_allclose(found["rmse"], rmse, rtol=1e-3)
    np.testing.assert_allclose(found["naive_rmse"], numbers.std(axis=0), rtol=1e-5)
    assert found["naive_loss"] == pytest.approx(1)
    splits = [(f != k, f == k) for f in folds for k in range(folds.max() + 1)]
    alphas = [row["l2"] * len(x) for row in found["grid"]]
    peer = RidgeCV(
        alphas,
        cv=[(np.flatnonzero(a), np.flatnonzero(b)) for a, b in splits],
        scoring="neg_mean_squared_error",
    ).fit(features, targets)
    best = min(found["grid"], key=lambda row: row["loss"])
    assert best["l2"] * len(x) == pytest.approx(peer.alpha_)
    assert best["loss"] == pytest.approx(-peer.best_score_, rel=1e-4)
    assert head.l2 >= best["l2"]
    assert found["loss"] < 1.05 * best["loss"]
    given = solve_head(x, numbers, OUTPUTS, l2=head.l2)
    np.testing.assert_allclose(head.kernel, given.kernel, atol=1e-6 * abs(given.kernel).max())


def test_blocks_of_rows_are_one_sum_of_numbers(monkeypatch):
    x, numbers = draw("regression")
    whole = solve_head(x, numbers, OUTPUTS)
    monkeypatch.setattr(ridge, "PART", 17 * WIDTH)
    blocks = solve_head(x, numbers, OUTPUTS)
    np.testing.assert_allclose(blocks.kernel, whole.kernel, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(blocks.out_of_fold, whole.out_of_fold, rtol=1e-5, atol=1e-6)


# --- both ---------------------------------------------------------------------------------------

both = pytest.mark.parametrize("kind", ["multi_label", "regression"])


@both
def test_same_input_same_bits(kind):
    x, labels = draw(kind)
    one, two, other = (solve_head(x, labels, OUTPUTS, seed=seed) for seed in (0, 0, 1))
    assert one.kernel.tobytes() == two.kernel.tobytes()
    assert one.out_of_fold.tobytes() == two.out_of_fold.tobytes()
    assert one.report == two.report
    assert other.report["cross_validation"] != one.report["cross_validation"]


@both
def test_the_order_of_features_and_outputs_does_not_matter(kind):
    x, labels = draw(kind)
    features, outputs = np.random.default_rng(0).permutation(WIDTH), [2, 0, 3, 1]
    head = solve_head(x, labels, OUTPUTS, l2=0.03)
    turned = solve_head(x[:, features], labels[:, outputs], OUTPUTS, l2=0.03)
    wanted = outputs_of(head, x)[:, outputs]
    np.testing.assert_allclose(outputs_of(turned, x[:, features]), wanted, atol=0.01)
    assert turned.report["loss"] == pytest.approx(head.report["loss"], abs=1e-6)


@both
def test_weights_are_repetitions_of_rows(kind):
    """The mirror images of some rows keep means and deviations, so the penalty is the same."""
    x, labels = draw(kind, rows=60)
    mirrored = 2 * x.mean(axis=0, dtype=np.float64) - x
    x, labels = np.concatenate([x, mirrored]).astype(np.float32), np.tile(labels, (2, 1))
    labels[60:] = np.random.default_rng(0).permutation(labels[60:])
    twice = np.repeat(np.arange(120), np.where(np.arange(120) < 60, 2, 1))
    weighted = solve_head(x, labels, OUTPUTS, l2=0.03, weights=np.repeat([2.0, 1.0], 60))
    repeated = solve_head(x[twice], labels[twice], OUTPUTS, l2=0.03)
    np.testing.assert_allclose(outputs_of(weighted, x), outputs_of(repeated, x), atol=5e-3)
    assert weighted.report["loss"] == pytest.approx(repeated.report["loss"], abs=1e-5)


def test_figures_out_of_fold_count_every_image_once():
    x, numbers = draw("regression", rows=1000)  # so many that the folds are not repeated
    first = standardised(numbers)[:, 0]
    weights = np.where(first < 0, 9.0, 1.0)
    head = solve_head(x, numbers, OUTPUTS, weights=weights)
    found, errors = head.report["cross_validation"], head.out_of_fold - standardised(numbers)
    squared = np.square(errors).mean(axis=0)
    np.testing.assert_allclose(found["rmse"], np.sqrt(squared) * numbers.std(axis=0), rtol=1e-4)
    assert found["r2"] == pytest.approx(1 - squared.mean(), abs=1e-5)
    assert found["loss"] == pytest.approx(
        np.average(np.square(errors), axis=0, weights=weights).mean(), rel=1e-4
    )
    labels = (first + np.random.default_rng(0).normal(size=1000) < 0).astype(int)
    head = solve_head(x, labels, 2, weights=np.where(labels, 9.0, 1.0))
    found, right = head.report["cross_validation"], head.out_of_fold == labels
    assert found["accuracy"] == pytest.approx(right.mean())
    assert found["naive_accuracy"] == pytest.approx(max(labels.mean(), 1 - labels.mean()))
    (row,) = (row for row in found["grid"] if row["l2"] == head.l2)
    assert row["accuracy"] == pytest.approx(np.average(right, weights=np.where(labels, 9.0, 1.0)))


@both
@pytest.mark.parametrize("together", ["views", "groups"])
def test_what_belongs_together_is_held_out_together(kind, together):
    """Copies of noise: a head that had seen one would know the others."""
    x = np.random.default_rng(9).normal(size=(ROWS // 3, WIDTH))
    labels = draw(kind, rows=ROWS // 3)[1]
    copies = np.tile(x, (3, 1)), np.tile(labels, (3, 1))
    groups = np.tile(np.arange(ROWS // 3), 3)
    how = {"views": {"views": 3}, "groups": {"groups": groups}, "none": {}}
    loose, tied = (
        solve_head(*copies, OUTPUTS, **how[name]).report["cross_validation"]
        for name in ("none", together)
    )
    assert min(row["loss"] for row in loose["grid"]) < 0.9 * tied["naive_loss"]
    assert min(row["loss"] for row in tied["grid"]) > 0.95 * tied["naive_loss"]
    assert tied["images"] == (ROWS // 3 if together == "views" else ROWS)


def test_a_strength_is_chosen_among_those_whose_loss_is_the_lowest():
    rng = np.random.default_rng(0)
    hard, noise = rng.random(200), rng.normal(size=(5, 200))
    noise -= noise.mean(axis=1, keepdims=True)
    weights = np.full(200, 1 / 200)

    def choice(*losses):
        return choose_by_loss(
            np.array([hard + loss + 0.1 * z for loss, z in zip(losses, noise, strict=False)]),
            weights,
        )

    assert choice(0.5, 0.4, 0.1, 0.4, 0.5) == 2
    assert choice(0.5, 0.1, 0.1, 0.1, 0.1) == 2  # a third of the way
    assert choice(0.5, 0.14, 0.1, 0.4, 0.5) == 2  # more than a standard error of the difference
    assert choice(0.5, 0.105, 0.1, 0.4, 0.5) == 1
    few = np.where(np.arange(200) < 10, 0.1, 0.0)  # all weight on ten images
    assert choose_by_loss(np.stack([few > 0, few == 0]).astype(float), few) == 1


X, HAS = draw("multi_label")
NUMBERS = draw("regression")[1]


@pytest.mark.parametrize(
    ("labels", "changes", "words"),
    [
        (HAS * 0, {}, "none of the 120 training images has a label"),
        (HAS * 0, {"l2": 1.0}, "none of the 120 training images has a label"),
        (HAS * 0 + [1, 0, 1, 0], {}, "all 120 training images have the same labels"),
        (NUMBERS * 0 + 0.1, {}, "all 120 training images have the same numbers"),
        (NUMBERS * 0 + 0.1, {"l2": 1.0}, "all 120 training images have the same numbers"),
        (np.where(np.eye(120, 4) > 0, np.nan, NUMBERS), {}, "the numbers of 4 of 120 training"),
        (HAS, {"features": X[:2], "rows": 2}, "there are 2 training images, too few"),
        (NUMBERS, {"features": X[:2], "rows": 2}, "there are 2 training images, too few"),
        (HAS, {"features": np.full((120, 20), 0.1)}, "all 20 features are the same"),
        (NUMBERS, {"features": np.full((120, 20), 0.1)}, "all 20 features are the same"),
        (HAS, {"features": X * np.inf}, "120 of 120 rows are not finite"),
        (NUMBERS, {"features": X * np.nan}, "120 of 120 rows are not finite"),
        (HAS, {"l2": 0.0}, "l2 is 0.0; set it to a number above 0"),
        (NUMBERS, {"features": np.tile(X[:, :10], 2), "l2": 1e-30}, "l2 is 1e-30, too small"),
        (NUMBERS, {"groups": np.zeros(120, int)}, "there are 1 groups of images, too few"),
    ],
)
def test_what_cannot_be_solved_is_said_in_a_sentence(labels, changes, words):
    rows = changes.pop("rows", 120)
    given = {"features": X, "labels": labels.astype(labels.dtype)[:rows], "num_classes": OUTPUTS}
    if labels is not NUMBERS and labels.dtype.kind != "f":
        given["labels"] = given["labels"].astype(np.uint8)
    with pytest.raises(InputError, match=words) as error:
        solve_head(**given | changes)
    assert "\n" not in str(error.value)


def test_two_images_need_no_cross_validation_if_l2_is_given():
    for labels in (np.array([[0], [1]], np.uint8), np.array([[0.0], [1.0]], np.float32)):
        head = solve_head(X[:2], labels, 1, l2=0.1)
        low, high = outputs_of(head, X[:2])[:, 0]
        assert low < high


# --- in a run -----------------------------------------------------------------------------------


def test_label_weights_balance_both_sides_of_each_class():
    has = np.zeros((8, 4), np.uint8)
    has[:2, 0], has[:4, 1], has[:, 3] = 1, 1, 1
    absent, present = weights = balanced_label_weights(has)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(absent, [8 / 12, 1, 1, 0], rtol=1e-6)
    np.testing.assert_allclose(present, [2, 1, 0, 1])
    np.testing.assert_allclose(np.where(has > 0, present, absent).mean(axis=0), 1, rtol=1e-6)


def solve_in_a_run(labels, **options):
    """The head of a run on the features."""
    train = ArraySource(np.zeros((ROWS, 2, 2), np.uint8), labels)
    model = NETWORKS["resnet"].clone(num_classes=OUTPUTS)
    plan = tljax.feature_extraction(model.groups)
    setup = Setup(model, plan, TrainingOptions(**options), PREPROCESSING, train)
    return solved_head.solve(CachedSource(1, X, np.arange(ROWS), labels), setup)


@pytest.mark.parametrize(
    ("labels", "score"),
    [
        (
            HAS,
            r"mean average precision 0\.\d{3} out of fold \(the same answer for every image: 0\.",
        ),
        (NUMBERS, r"R2 0\.\d{3} out of fold \(the mean of the training images: 0\)"),
    ],
)
def test_a_run_solves_its_head_and_says_so(labels, score):
    solved, alone = solve_in_a_run(labels), solve_head(X, labels, OUTPUTS)
    np.testing.assert_array_equal(solved.kernel, alone.kernel)
    said = solved_head.describe(solved.report)
    assert said.startswith(f"a head was solved with L2 strength {alone.l2:.3g}, chosen among 14 by")
    assert re.search("on 120 training images: " + score, said)


def test_a_run_balances_its_labels():
    solved = solve_in_a_run(HAS, class_weights="balanced", l2=0.1)
    absent, present = balanced_label_weights(HAS)
    alone = solve_head(X, HAS, OUTPUTS, l2=0.1, weights=np.where(HAS > 0, present, absent))
    np.testing.assert_array_equal(solved.kernel, alone.kernel)


def test_a_probe_of_other_labels_than_classes_is_refused():
    check_kind("folder:PETS", np.arange(3))
    for labels, words in ((HAS, "several labels an image"), (NUMBERS, "numbers")):
        with pytest.raises(InputError, match=f"'csv:FILE' has {words}, but a probe is for"):
            check_kind("csv:FILE", labels)
