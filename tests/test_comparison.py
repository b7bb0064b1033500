"""Comparisons on the same test images: over seeds, and over seeds and images together."""

import math

import numpy as np
import pytest

from tljax.analysis import tables
from tljax.analysis.comparison import Comparison, compare, pack_right, right_images, unpack_right
from tljax.analysis.report.formatting import lead_over, verdict
from tljax.analysis.statistics import Interval, crossed_interval, mean_interval
from tljax.runs.answers import Answers

T_2 = 4.302653  # t(0.975) with 2 degrees of freedom, from printed tables


def answers(labels, predicted):
    count = len(labels)
    return Answers(
        np.arange(count, dtype=np.int32),
        np.array(labels, np.int32),
        np.array(predicted, np.int32),
        np.zeros((count, 3), np.float16),
        np.zeros(count, np.float32),
    )


# -------------------------------------------------------------------------------- the interval


def test_if_images_do_not_matter_the_interval_is_that_over_seeds():
    by_seed = [0.02, 0.04, 0.06]
    interval = crossed_interval(np.repeat(np.array(by_seed)[:, None], 50, axis=1))
    expected = mean_interval(by_seed)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


def test_if_seeds_do_not_matter_the_interval_is_that_of_a_paired_test_over_images():
    """The one of McNemar's table: b images only a gets right, c only b, of n."""
    b, c, n = 30, 18, 400
    gains = np.repeat([1.0, -1.0, 0.0], [b, c, n - b - c])
    interval = crossed_interval(np.tile(gains, (3, 1)))
    mean = (b - c) / n
    error = math.sqrt(((b + c) / n - mean**2) / (n - 1))
    assert interval.mean == pytest.approx(mean)
    assert interval.half_width == pytest.approx(1.965927 * error)  # t(0.975), 399 degrees


def test_variances_of_seeds_and_images_add_up():
    """Two rows, three columns, no rest: R = 2 * 3 * .01, C = 2 * 2 * .04 / 2 (by hand)."""
    rows, columns = np.array([-0.1, 0.1]), np.array([-0.2, 0.0, 0.2])
    interval = crossed_interval(0.3 + rows[:, None] + columns)
    r, c = 3 * (0.01 + 0.01) / 1, 2 * (0.04 + 0.04) / 2
    variance = (r + c) / 6
    assert variance == pytest.approx(0.01 / 1 + 0.04 / 3), "s^2 / n of the rows and of the columns"
    freedom = (r + c) ** 2 / (r**2 / 1 + c**2 / 2)
    assert freedom == pytest.approx(2.8824, abs=1e-4)
    # t(0.975) with 2.8824 degrees, between 4.3027 (2) and 3.1824 (3) in printed tables
    quantile = interval.half_width / math.sqrt(variance)
    assert 3.1824 < quantile < 3.3
    assert interval.mean == pytest.approx(0.3)


def test_no_luck_makes_it_narrower_than_its_parts():
    rest_only = crossed_interval(np.array([[0.1, -0.1], [-0.1, 0.1]]))
    assert rest_only.half_width == pytest.approx(12.7062 * math.sqrt(0.04 / 4), rel=1e-4)
    assert crossed_interval(np.zeros((3, 5))) == Interval(0, 0, 0)
    assert crossed_interval(np.ones((3, 5))) == Interval(1, 1, 1)
    for shape in ((1, 5), (5, 1)):
        one = crossed_interval(np.ones(shape))
        assert one.mean == 1
        assert math.isnan(one.half_width)
        assert not one.excludes_zero


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_the_interval_covers_what_it_says_and_that_over_seeds_does_not(seeds):
    """Two settings of equal accuracy: images differ in difficulty, for each setting and seed.

    The true difference over all images and seeds is 0. Images count for more than seeds here, as
    they do with 200 images.
    """
    rng, samples, images = np.random.default_rng(0), 500, 200
    held, seeds_only = 0, 0
    for _ in range(samples):
        difficulty = rng.normal(1, 1.5, images)
        right = [
            difficulty + rng.normal(0, 1.2, images) + rng.normal(0, 0.1, (seeds, 1))
            > rng.normal(0, 0.7, (seeds, images))
            for _ in range(2)
        ]
        gains = right[0].astype(float) - right[1]
        interval, over_seeds = crossed_interval(gains), mean_interval(gains.mean(axis=1))
        held += interval.low <= 0 <= interval.high
        seeds_only += over_seeds.low <= 0 <= over_seeds.high
    assert held / samples > 0.92  # three standard errors below .95
    assert seeds_only < held - 0.05 * samples


# -------------------------------------------------------------------------------- comparisons


def test_clear_needs_both_intervals():
    """Every seed gains two of 50 images, always the same: clear over seeds, not over images."""
    labels = np.zeros(50, int)
    scratch = {seed: answers(labels, np.repeat([0, 1], [40, 10])) for seed in range(3)}
    transfer = {seed: answers(labels, np.repeat([0, 1], [42, 8])) for seed in range(3)}
    transfer[2] = answers(labels, np.repeat([0, 1], [43, 7]))
    found = right_images(transfer, scratch)
    accuracies = [{s: float(r.mean()) for s, r in right.items()} for right in found]
    comparison = compare(*accuracies, *found)
    assert comparison.over_seeds.mean == pytest.approx(7 / 150)
    assert comparison.over_seeds.half_width == pytest.approx(T_2 * (1 / 3) / 50)
    assert comparison.over_seeds.excludes_zero
    assert not comparison.over_both.excludes_zero
    assert not comparison.is_clear
    assert verdict(comparison) == "within noise"
    assert tables.compared(comparison).endswith("with images (includes 0)")
    assert "with images over from scratch: <b>within noise</b>" in lead_over(
        comparison, "from_scratch"
    )

    unknown = compare(*accuracies)
    assert unknown == Comparison(comparison.over_seeds, None)
    assert unknown.is_clear
    assert verdict(unknown) == "clear over seeds only"
    assert tables.compared(unknown) == "+0.047 ±0.029 (over seeds only)"


def test_a_gain_on_many_images_is_clear():
    labels = np.zeros(50, int)
    worse = {seed: answers(labels, np.repeat([0, 1], [20 + seed, 30 - seed])) for seed in range(3)}
    better = {seed: answers(labels, np.repeat([0, 1], [41 + seed, 9 - seed])) for seed in range(3)}
    found = right_images(better, worse)
    comparison = compare({0: 0.82, 1: 0.84, 2: 0.861}, {0: 0.4, 1: 0.42, 2: 0.44}, *found)
    assert verdict(comparison) == "clear"
    assert "±" in tables.compared(comparison)
    assert tables.compared(comparison).endswith("with images")


def test_answers_to_other_images_or_none_are_not_compared():
    one = answers([0, 1, 2], [0, 1, 1])
    assert right_images({0: one}, {0: answers([0, 1, 1], [0, 1, 1])}) is None
    assert right_images({0: one}, {0: answers([0, 1], [0, 1])}) is None
    assert right_images({0: one}, {0: None}) is None
    (mine, theirs) = right_images({0: one, 1: one}, {1: answers([0, 1, 2], [2, 2, 2])})
    assert mine[1].tolist() == [True, True, False]
    assert theirs[1].tolist() == [False, False, True]
    lacks_a_seed = compare({0: 0.5, 1: 0.6}, {0: 0.4, 1: 0.5}, {0: mine[0]}, {0: mine[0]})
    assert lacks_a_seed.over_both is None
    with pytest.raises(ValueError, match="no values"):
        compare({0: 0.5}, {1: 0.5})


def test_one_seed_has_no_interval_of_either_kind():
    right = np.array([True, False, True])
    comparison = compare({0: 2 / 3}, {0: 1 / 3}, {0: right}, {0: ~right})
    assert verdict(comparison) == "one seed"
    assert not comparison.is_clear


@pytest.mark.parametrize("count", [1, 7, 8, 9, 592])
def test_right_images_are_kept_in_a_table(count):
    labels = np.random.default_rng(count).integers(0, 2, count)
    text = pack_right(answers(labels, np.zeros(count, int)))
    np.testing.assert_array_equal(unpack_right(text), labels == 0)
    assert len(text) <= count / 4 + 6
    assert pack_right(None) == ""
