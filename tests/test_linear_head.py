"""Linear heads solved on kept features: scikit-learn finds the same, and so do its folds."""

import os
import subprocess
import sys

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from tests.scaled_features import scaled, scales
from tljax.errors import InputError
from tljax.frozen import rows
from tljax.frozen.cross_validation import assign_folds, choose
from tljax.frozen.linear_head import solve_head

ROWS, WIDTH, CLASSES = 120, 20, 3


@pytest.fixture(autouse=True)
def one_thread():
    """scikit-learn's threads wait for each other for long where other processes compute."""
    with threadpool_limits(1):
        yield


def draw(rows=ROWS, width=WIDTH, classes=CLASSES, seed=0):
    """Correlated raw features, far from zero and of different sizes, and labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % classes
    x = rng.normal(size=(classes, width))[labels] * 0.5 + rng.normal(size=(rows, width))
    x = x @ rng.normal(size=(width, width)) * np.logspace(-1, 1, width) + 5
    return x.astype(np.float32), labels


def objective(x, labels, head, l2, weights=None):
    """(loss with penalty in float64, by the definition; log-probabilities)."""
    logits = x.astype(np.float64) @ head.kernel + head.bias
    logs = logits - logits.max(axis=1, keepdims=True)
    logs -= np.log(np.exp(logs).sum(axis=1, keepdims=True))
    loss = -np.average(logs[np.arange(len(x)), labels], weights=weights)
    return loss + l2 / 2 * np.square(head.kernel * scales(x)[:, None]).sum(), logs


def scikit(x, labels, l2, weights=None):
    """(loss with penalty, log-probabilities) of scikit-learn's solution."""
    features = scaled(x)
    classes = len(np.unique(labels))
    # of two classes scikit-learn has one logit, and so half our penalty
    strength = (2 if classes == 2 else 1) / (l2 * len(x))
    weights = None if weights is None else weights / np.mean(weights)
    peer = LogisticRegression(C=strength, tol=1e-10, max_iter=10_000)
    peer.fit(features, labels, weights)
    logs = peer.predict_log_proba(features)
    loss = -np.average(logs[np.arange(len(x)), labels], weights=weights)
    penalty = l2 / 2 * np.square(peer.coef_).sum() / (2 if classes == 2 else 1)
    return loss + penalty, logs


def test_a_feature_that_hardly_varies_does_not_decide():
    """On one test image it is as large as others are on all."""
    x, labels = draw()
    x[:, 0] = 0.0
    x[7, 0] = 1e-3  # of one training image
    head = solve_head(x, labels, CLASSES, l2=3e-4)
    unseen = x.copy()
    unseen[:, 0] = x.std(axis=0).max()
    before, after = (one @ head.kernel + head.bias for one in (x, unseen))
    assert np.abs(after - before).max() < np.abs(before - before.mean(axis=0)).max()


@pytest.mark.parametrize("l2", [3.0, 0.03, 3e-4])
@pytest.mark.parametrize("case", ["plain", "weights", "constant", "two classes", "wide"])
def test_the_head_is_scikit_learns(case, l2):
    x, labels = draw(rows=40, width=60) if case == "wide" else draw()
    weights = None
    if case == "weights":
        weights = np.where(labels == 0, 3.0, 0.5)
    elif case == "constant":
        x[:, 4] = 0.1  # its mean in float32 is not 0.1
        x[:, 7] = 0.0
    elif case == "two classes":
        labels = labels % 2
    classes = int(labels.max()) + 1
    head = solve_head(x, labels, classes, l2=l2, weights=weights)
    loss, logs = objective(x, labels, head, l2, weights)
    least, wanted = scikit(x, labels, l2, weights)
    assert loss == pytest.approx(least, abs=1e-6)
    np.testing.assert_allclose(logs, wanted, atol=0.02)
    assert head.report["loss"] == pytest.approx(loss, abs=1e-6)
    assert head.report["converged"]
    right = logs.argmax(axis=1) == labels
    assert head.report["train_accuracy"] == pytest.approx(np.average(right, weights=weights))
    assert (head.kernel.dtype, head.bias.dtype) == (np.float32, np.float32)
    assert head.out_of_fold is None
    if case == "constant":
        assert not head.kernel[[4, 7]].any()
        assert head.kernel[[3, 5]].all()


def test_cross_validation_is_scikit_learns():
    x, labels = draw()
    x = x / x.std(axis=0)  # the heads of folds are solved roughly: less so what hardly varies
    head = solve_head(x, labels, CLASSES, seed=3)
    found = head.report["cross_validation"]
    assert (found["folds"], found["repeats"], found["images"]) == (5, 5, ROWS)
    assert found["naive_accuracy"] == pytest.approx(1 / 3)
    folds = assign_folds(labels, seed=3)
    features = scaled(x)
    for row in found["grid"][3:9:4]:
        logs = np.empty((len(folds), ROWS, CLASSES))
        for repeat, assigned in enumerate(folds):
            for fold in range(5):
                held = assigned == fold
                peer = LogisticRegression(C=1 / (row["l2"] * ROWS), tol=1e-8, max_iter=5000)
                peer.fit(features[~held], labels[~held])
                logs[repeat, held] = peer.predict_log_proba(features[held])
        accuracy = (logs.argmax(-1) == labels).mean()
        assert row["accuracy"] == pytest.approx(accuracy, abs=2 / ROWS / len(folds))
        loss = -logs[:, np.arange(ROWS), labels].mean()
        assert row["loss"] == pytest.approx(loss, rel=0.01)
    assert head.l2 == head.report["l2"]
    (chosen,) = [row for row in found["grid"] if row["l2"] == head.l2]
    assert (found["accuracy"], found["loss"]) == (chosen["accuracy"], chosen["loss"])
    assert found["accuracy"] >= max(row["accuracy"] for row in found["grid"]) - 0.05
    assert (head.out_of_fold == labels).mean() == pytest.approx(found["accuracy"], abs=0.05)
    given = solve_head(x, labels, CLASSES, l2=head.l2)
    np.testing.assert_allclose(
        head.kernel, given.kernel, rtol=0, atol=2e-3 * abs(head.kernel).max()
    )


def test_same_input_same_bits():
    x, labels = draw()
    one, two, other = (solve_head(x, labels, CLASSES, seed=seed) for seed in (0, 0, 1))
    assert one.kernel.tobytes() == two.kernel.tobytes()
    assert one.report == two.report
    assert other.report["cross_validation"] != one.report["cross_validation"]


def test_views_of_an_image_are_held_out_together():
    """Views are copies here, of noise: a head that had seen one would know the others."""
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(ROWS // 3, WIDTH)), np.arange(ROWS // 3) % CLASSES
    head = solve_head(np.tile(images, (3, 1)), np.tile(labels, 3), CLASSES, views=3)
    assert head.report["train_accuracy"] > 0.6
    found = head.report["cross_validation"]
    assert found["images"] == ROWS // 3
    assert max(row["accuracy"] for row in found["grid"]) < 0.5
    views = head.out_of_fold.reshape(3, -1)
    assert (views == views[0]).all()


def test_folds_are_stratified():
    labels = np.repeat([0, 1, 2, 3], [50, 23, 5, 2])
    folds = assign_folds(labels, seed=0)
    assert folds.shape == (5, 80)
    for assigned in folds:
        counts = np.array([np.bincount(assigned[labels == c], minlength=5) for c in range(4)])
        assert (np.ptp(counts, axis=1) <= 1).all()
        assert np.ptp(counts.sum(axis=0)) <= 1
        assert counts[3].max() == 1  # never is a class held out whole
    assert not (folds[0] == folds[1]).all()
    assert assign_folds(np.arange(600) % 2, 0).shape == (2, 600)
    assert assign_folds(np.arange(3000) % 2, 0).shape == (1, 3000)
    assert assign_folds(np.arange(4) % 2, 0).max() == 3


def test_a_strength_is_chosen_among_those_as_good_as_the_best():
    rng = np.random.default_rng(0)
    difficulty, weights = rng.random(200), np.full(200, 1 / 200)

    def right(*accuracies):
        return np.array([difficulty < accuracy for accuracy in accuracies], float)

    assert choose(right(0.5, 0.6, 0.9, 0.6, 0.5), weights) == 2
    assert choose(right(0.5, 0.9, 0.9, 0.9, 0.9), weights) == 2  # a third of the way
    assert choose(right(0.5, 0.84, 0.9, 0.9, 0.5), weights) == 2  # 12 of 200 images are no chance
    assert choose(right(0.9, 0.9), weights) == 0
    few = np.where(np.arange(200) < 10, 0.1, 0.0)  # all weight on ten images
    assert choose(np.stack([few == 0, few > 0]).astype(float), few) == 1


def test_a_class_without_images():
    x, labels = draw(classes=2)
    head = solve_head(x, 2 * labels, CLASSES)
    assert head.kernel.shape == (WIDTH, CLASSES)
    assert np.isfinite(head.kernel).all()
    assert head.report["converged"]
    logits = x @ head.kernel + head.bias
    assert (logits[:, 1] < logits.max(axis=1) - 5).all()
    assert set(head.out_of_fold) == {0, 2}


def test_blocks_of_rows_are_one_sum(monkeypatch):
    x, labels = draw()
    whole = solve_head(x, labels, CLASSES)
    monkeypatch.setattr(rows, "_BLOCK", 1300)  # 7 blocks, of which one is padded
    blocks = solve_head(x, labels, CLASSES)
    np.testing.assert_allclose(blocks.kernel, whole.kernel, atol=2e-3 * abs(whole.kernel).max())
    ours, theirs = (head.report["cross_validation"]["grid"] for head in (blocks, whole))
    assert ours == [pytest.approx(row, rel=0.02) for row in theirs]


def test_very_wide_features_are_not_rotated(monkeypatch):
    monkeypatch.setattr(rows, "_WIDEST", WIDTH - 1)
    x, labels = draw()
    head = solve_head(x, labels, CLASSES, l2=0.03)
    assert objective(x, labels, head, 0.03)[0] == pytest.approx(
        scikit(x, labels, 0.03)[0], abs=1e-6
    )


def test_the_end_of_the_grid_is_a_warning(caplog):
    x, labels = draw()
    solve_head(x, labels, CLASSES)
    assert not caplog.records
    # what tells the classes apart is small beside what all features share
    shared = np.random.default_rng(0).normal(size=(ROWS, 1))
    hidden = shared + 6e-4 * np.eye(CLASSES, WIDTH)[labels] + 1e-4 * x / x.std(axis=0)
    head = solve_head(hidden, labels, CLASSES)
    (record,) = caplog.records
    assert f"cross-validation chose l2 = {head.l2:.3g}, the weakest" in record.getMessage()


def features(**changes):
    x, labels = draw()
    return {"features": x, "labels": labels, "num_classes": CLASSES} | changes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": np.r_[np.zeros(119, int), 1]}, "1 of 2 classes have a single training image"),
        ({"labels": np.zeros(120, int)}, "all 120 training images are of one class"),
        ({"labels": np.zeros(120, int), "l2": 1.0}, "all 120 training images are of one class"),
        ({"features": np.full((120, 20), 0.1)}, "all 20 features are the same for all 120 rows"),
        ({"features": np.where(np.eye(120, 20) > 0, np.nan, 1.0)}, "20 of 120 rows are not finite"),
        ({"features": np.where(np.eye(120, 20) > 0, np.inf, 1.0)}, "20 of 120 rows are not finite"),
        ({"l2": -1.0}, "l2 is -1.0; set it to a number above 0"),
        ({"l2": 0.0}, "l2 is 0.0; set it to a number above 0"),
        ({"l2": float("nan")}, "l2 is nan; set it to a number above 0"),
        ({"l2": float("inf")}, "l2 is inf; set it to a number above 0"),
    ],
)
def test_what_cannot_be_solved_is_said_in_a_sentence(changes, words):
    with pytest.raises(InputError, match=words) as error:
        solve_head(**features(**changes))
    assert "\n" not in str(error.value)


def test_a_class_of_one_image_needs_no_cross_validation_if_l2_is_given():
    x, labels = draw()
    labels[:] = np.arange(120) == 0
    assert solve_head(x, labels, 2, l2=0.1).report["converged"]


_PRINT_BITS = """
import hashlib, jax
from tests.test_linear_head import draw, CLASSES
from tljax.frozen.linear_head import solve_head
head = solve_head(*draw(), CLASSES)
print(jax.device_count(), hashlib.sha256(head.kernel.tobytes() + head.bias.tobytes()).hexdigest())
"""


@pytest.mark.soak
def test_the_number_of_devices_changes_no_bit():
    found = {}
    for devices in (1, 4):
        flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
        process = subprocess.run(
            [sys.executable, "-c", _PRINT_BITS],
            env={**os.environ, "XLA_FLAGS": flags},
            capture_output=True,
            text=True,
            check=True,
        )
        count, found[devices] = process.stdout.split()
        assert int(count) == devices
    assert found[1] == found[4]


def test_images_that_every_strength_classifies_correctly():
    """Rounding may take the sum of 40 weights above 1."""
    x = np.repeat([[-1.0, 0.5], [1.0, -0.5]], 20, axis=0) + np.linspace(0, 0.1, 80).reshape(40, 2)
    report = solve_head(x, np.repeat([0, 1], 20), 2).report
    assert report["cross_validation"]["accuracy"] == pytest.approx(1.0)
    assert choose(np.ones((3, 40), np.float32), np.full(40, 0.025)) == 0
