"""Scores of frozen features, against closed forms and independent computations."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment, minimize
from scipy.spatial.distance import cdist
from scipy.special import softmax
from scipy.stats import multivariate_normal, ortho_group
from sklearn.covariance import ledoit_wolf

from tljax.advice.neighbours import leave_one_out, near_duplicates
from tljax.advice.similarity import cui_similarity, emd, frechet, mmd, proxy_a
from tljax.advice.transferability import h_score, leep, logme, nce, nleep, sfda
from tljax.errors import InputError

SCORES = (logme, h_score, nleep, sfda, leave_one_out)


def sample(n, d, classes, apart, seed=0):
    """Features whose class means are about `apart` deviations from each other, and labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    means = apart * rng.standard_normal((classes, d)) / np.sqrt(2 * d)
    return means[labels] + rng.standard_normal((n, d)) / np.sqrt(d), labels


# --- every score --------------------------------------------------------------------------------


@pytest.mark.parametrize("score", SCORES)
def test_features_that_separate_the_classes_score_higher(score):
    found = [score(*sample(120, 12, 4, apart)) for apart in (0, 1, 3)]
    assert found == sorted(found)
    assert found[0] < found[2]


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("shape", [(60, 8), (30, 80)])
def test_a_rotation_changes_nothing(score, shape):
    x, labels = sample(*shape, 3, 1)
    turned = x @ ortho_group.rvs(shape[1], random_state=0)
    assert score(turned, labels) == pytest.approx(score(x, labels), rel=1e-6)


@pytest.mark.parametrize("score", [h_score, nleep, leave_one_out])
def test_a_scale_changes_nothing(score):
    x, labels = sample(60, 8, 3, 1)
    assert score(1000 * x, labels) == pytest.approx(score(x, labels), rel=1e-9)


@pytest.mark.parametrize("score", [h_score, nleep, sfda])
def test_a_shift_changes_nothing(score):
    x, labels = sample(60, 8, 3, 1)
    assert score(x + 100, labels) == pytest.approx(score(x, labels), rel=1e-6)


@pytest.mark.parametrize("score", SCORES)
def test_names_and_order_of_the_labels_change_nothing(score):
    x, labels = sample(60, 8, 3, 1)
    order = np.random.default_rng(0).permutation(60)
    wanted = score(x, labels)
    assert score(x, np.array([7, 2, 5])[labels]) == pytest.approx(wanted, rel=1e-9)
    if score is not nleep:  # k-means starts at images by their order
        assert score(x[order], labels[order]) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("score", SCORES)
def test_float32_is_computed_in_float64(score):
    x, labels = sample(60, 8, 3, 1)
    x = (x + 300).astype(np.float32)
    assert score(x, labels) == score(x.astype(np.float64), labels)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("value", [0.0, 0.1, 1e4])
def test_constant_features_say_nothing_and_are_no_error(score, value):
    labels = np.array([0, 0, 0, 1])
    found = score(np.full((4, 6), value, np.float32), labels)
    assert np.isfinite(found)
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    wanted = {h_score: 0.0, nleep: -entropy, sfda: 0.75**2 + 0.25**2}
    assert found == pytest.approx(wanted.get(score, found), abs=1e-9)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("shape", [(6, 40), (40, 6)])
def test_a_class_of_one_image_is_no_error(score, shape):
    x, labels = sample(*shape, 2, 1)
    labels[-1] = 2
    assert np.isfinite(score(x, labels))
    assert np.isfinite(score(x, np.arange(len(x)))), "every class has one image"


@pytest.mark.parametrize("score", [logme, h_score, nleep, sfda])
def test_bad_input(score):
    x, labels = sample(8, 3, 2, 1)
    with pytest.raises(InputError, match="one class"):
        score(x, np.zeros(8, int))
    with pytest.raises(InputError, match="one row of features for each label"):
        score(x, labels[:-1])
    x[3, 1] = np.nan
    with pytest.raises(InputError, match="1 of 8 rows are not finite"):
        score(x, labels)


# --- one by one ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(40, 5), (12, 30)])
def test_logme_is_the_largest_evidence(shape):
    x, labels = sample(*shape, 3, 2)
    x *= 3

    def negative(parameters, y):
        alpha, beta = np.exp(np.clip(parameters, -20, 20))
        covariance = np.eye(len(x)) / beta + x @ x.T / alpha
        return -multivariate_normal(cov=covariance).logpdf(y) / len(y)

    found = []
    for label in range(3):
        y = (labels == label).astype(float)
        starts = [minimize(negative, (a, b), (y,), "Nelder-Mead") for a in (0, 3) for b in (0, 3)]
        found.append(-min(start.fun for start in starts))
    assert logme(x, labels) == pytest.approx(np.mean(found), abs=1e-3)


@pytest.mark.parametrize("shape", [(50, 6), (20, 60)])
def test_h_score_is_a_trace(shape):
    x, labels = sample(*shape, 4, 1)
    shrunk, share = ledoit_wolf(x)
    means = np.array([x[labels == label].mean(axis=0) for label in labels])
    between = np.cov(means.T, bias=True)
    wanted = (1 - share) * np.trace(np.linalg.solve(shrunk, between))
    assert 0 < share < 1
    assert h_score(x, labels) == pytest.approx(wanted, rel=1e-9)


def test_h_score_of_separate_classes_is_their_number_minus_one():
    x, labels = np.repeat(np.eye(4), 500, axis=0), np.repeat(np.arange(4), 500)
    noise = 1e-4 * np.random.default_rng(0).standard_normal(x.shape)
    assert h_score(x + noise, labels) == pytest.approx(3, abs=0.02)


def test_leep_of_a_sure_head_is_nce():
    rng = np.random.default_rng(0)
    source, labels = rng.integers(0, 5, 80), rng.integers(0, 3, 80)
    assert leep(np.eye(5)[source], labels) == pytest.approx(nce(source, labels), abs=1e-12)
    joint = np.array([[np.mean((source == z) & (labels == y)) for y in range(3)] for z in range(5)])
    kept = joint[joint > 0]
    conditional = (joint / joint.sum(axis=1, keepdims=True))[joint > 0]
    assert nce(source, labels) == pytest.approx((kept * np.log(conditional)).sum(), abs=1e-12)


def test_leep_as_in_its_definition():
    rng = np.random.default_rng(0)
    theta, labels = rng.dirichlet(np.ones(4), 30), np.arange(30) % 3
    joint = np.zeros((3, 4))
    for row, label in zip(theta, labels, strict=True):
        joint[label] += row / 30
    wanted = [
        np.log(sum(joint[y, z] / joint[:, z].sum() * row[z] for z in range(4)))
        for row, y in zip(theta, labels, strict=True)
    ]
    assert leep(theta, labels) == pytest.approx(np.mean(wanted), abs=1e-12)


def test_nce_and_leep_have_their_bounds():
    labels = np.arange(40) % 2
    assert nce(labels + 3, labels) == pytest.approx(0, abs=1e-12)
    assert nce(np.zeros(40, int), labels) == pytest.approx(-np.log(2))
    assert leep(np.full((40, 7), 1 / 7), labels) == pytest.approx(-np.log(2))


def test_nleep_of_clusters_that_are_classes_is_zero():
    x, labels = sample(100, 6, 4, 100)
    assert nleep(x, labels) == pytest.approx(0, abs=1e-6)


def test_sfda_as_in_its_definition():
    x, labels = sample(90, 4, 3, 2)
    right = np.arange(90), labels

    def class_means(x):
        return np.array([x[labels == label].mean(axis=0) for label in range(3)])

    def within(x):
        return sum(np.cov(x[labels == label].T, bias=True) for label in range(3)) / 3

    share = np.exp(-5 * np.linalg.eigvalsh(within(x))[-1])
    assert 0.01 < share < 0.99

    def probabilities(x):
        """Bayes' rule for Gaussians with one covariance."""
        covariance = (1 - share) * within(x) + share * np.trace(within(x)) / 4 * np.eye(4)
        likelihood = [multivariate_normal(mean, covariance).pdf(x) for mean in class_means(x)]
        return (np.array(likelihood) / np.sum(likelihood, axis=0)).T

    sure = softmax(probabilities(x), axis=1)[right][:, None]
    others = np.array([np.delete(class_means(x), label, axis=0).mean(axis=0) for label in labels])
    mixed = sure * x + (1 - sure) * others
    assert sfda(x, labels) == pytest.approx(probabilities(mixed)[right].mean())
    assert sfda(*sample(90, 4, 3, 60)) > 0.99


# --- neighbours ---------------------------------------------------------------------------------


def test_leave_one_out_does_not_see_the_image_itself():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 50))
    assert leave_one_out(x, np.arange(200) % 4) < 0.4
    twice, labels = np.concatenate([x, x]), np.tile(np.arange(200), 2)
    assert leave_one_out(twice, labels) == 1, "its copy is the nearest"


def test_leave_one_out_as_a_plain_loop():
    x, labels = sample(90, 5, 3, 2)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    right = 0
    for i in range(90):
        similar = unit @ unit[i]
        others = [j for j in np.argsort(-similar) if j != i][:20]
        votes = [sum(np.exp(similar[j] / 0.07) for j in others if labels[j] == c) for c in range(3)]
        right += int(np.argmax(votes) == labels[i])
    assert leave_one_out(x, labels) == right / 90
    assert leave_one_out(np.tile(x, (20, 1)), np.tile(labels, 20)) == 1, "more than one block"


def test_images_with_a_near_duplicate_are_counted():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((30, 40))
    assert near_duplicates(x) == 0
    copies = np.concatenate([x, x[[4, 9, 4]] + 1e-2 * rng.standard_normal((3, 40))])
    assert near_duplicates(copies) == 5, "the fourth, its two copies, the ninth and its copy"
    assert near_duplicates(100 + copies) == 5, "what all have in common does not count"
    assert near_duplicates(np.tile(x, (40, 1))) == 1200, "more than one block"
    other = np.concatenate([copies[30:], rng.standard_normal((2, 40))])
    assert near_duplicates(100 + other, among=100 + x) == 3, "of another split"


# --- similarity ---------------------------------------------------------------------------------


def test_frechet_of_diagonal_gaussians():
    rng = np.random.default_rng(0)
    means, deviations = rng.standard_normal((2, 6)), rng.uniform(0, 2, (2, 6))
    covs = [np.diag(np.square(row)) for row in deviations]
    wanted = np.square(means[0] - means[1]).sum() + np.square(deviations[0] - deviations[1]).sum()
    assert frechet(means[0], covs[0], means[1], covs[1]) == pytest.approx(wanted)
    turn = ortho_group.rvs(6, random_state=0)
    turned = [turn @ cov @ turn.T for cov in covs]
    assert frechet(turn @ means[0], turned[0], turn @ means[1], turned[1]) == pytest.approx(wanted)
    assert frechet(means[0], covs[0], means[0], covs[0]) == pytest.approx(0, abs=1e-9)
    assert frechet([1.0], [[4.0]], [0.0], [[1.0]]) == pytest.approx(2.0)


def test_frechet_of_covariances_without_full_rank():
    x = np.random.default_rng(0).standard_normal((2, 5, 30))
    distance = frechet(x[0].mean(0), np.cov(x[0].T), x[1].mean(0), np.cov(x[1].T))
    other_way = frechet(x[1].mean(0), np.cov(x[1].T), x[0].mean(0), np.cov(x[0].T))
    assert distance == pytest.approx(other_way)


def test_mmd_is_unbiased():
    rng = np.random.default_rng(0)
    same = [mmd(rng.standard_normal((25, 3)), rng.standard_normal((40, 3))) for _ in range(100)]
    assert abs(np.mean(same)) < 3 * np.std(same) / 10
    assert mmd(rng.standard_normal((25, 3)), 2 + rng.standard_normal((40, 3))) > 10 * np.std(same)


def test_mmd_as_in_its_definition():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((7, 2)), 1 + rng.standard_normal((5, 2))
    both = np.concatenate([x, y])
    median = np.median([np.linalg.norm(both[i] - both[j]) for i in range(12) for j in range(i)])

    def mean(a, b, same):
        pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if not (same and i == j)]
        squares = [np.square(a[i] - b[j]).sum() for i, j in pairs]
        return np.mean(np.exp(-np.array(squares) / (2 * median**2)))

    wanted = mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)
    assert mmd(x, y) == pytest.approx(wanted)
    assert mmd(5 * x, 5 * y) == pytest.approx(wanted), "the width follows the scale"
    assert mmd(np.ones((3, 2)), np.ones((4, 2))) == pytest.approx(0)


def test_mmd_of_many_images_takes_some():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2500, 2))
    assert mmd(x, x + 1) == mmd(
        x[np.linspace(0, 2499, 1000).astype(int)], (x + 1)[np.linspace(0, 2499, 1000).astype(int)]
    )
    with pytest.raises(InputError, match="a sample has 1 images"):
        mmd(x, x[:1])


def test_proxy_a():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 4))
    assert proxy_a(x, 20 + rng.standard_normal((30, 4))) == pytest.approx(2)
    assert proxy_a(x, rng.standard_normal((60, 4))) < 0.6
    assert proxy_a(x, np.concatenate([x, x, x])) < 0.6, "samples of different sizes"


def test_emd_of_a_shift_is_its_length():
    rng = np.random.default_rng(0)
    means, counts = 10 * rng.standard_normal((5, 3)), np.array([1, 2, 3, 4, 5])
    shift = np.array([0.3, 0, 0.4])
    order = rng.permutation(5)
    distance = emd(means, counts, (means + shift)[order], 7 * counts[order])
    assert distance == pytest.approx(0.5)
    assert emd(means, counts, means, counts) == pytest.approx(0, abs=1e-9)
    assert cui_similarity(distance) == pytest.approx(np.exp(-0.005))


def test_emd_of_equal_masses_is_an_assignment():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 6, 3))
    cost = cdist(x, y)
    wanted = cost[linear_sum_assignment(cost)].mean()
    assert emd(x, np.ones(6), y, np.ones(6)) == pytest.approx(wanted)
    one = emd(x, np.ones(6), y[:1], [3])
    assert one == pytest.approx(np.linalg.norm(x - y[0], axis=1).mean()), "everything goes to it"
    with pytest.raises(InputError, match="no images"):
        emd(x, np.zeros(6), y, np.ones(6))
