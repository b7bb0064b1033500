"""Intervals and benefits against answers computed by hand, or known in closed form."""

import math

import numpy as np
import pytest

from tljax.analysis import benefits as b
from tljax.analysis import tables
from tljax.analysis.benefits import Ratio
from tljax.analysis.report.formatting import about_intervals
from tljax.analysis.report.measures import ACCURACY
from tljax.analysis.statistics import Interval, interval_name, mean_interval, paired_difference

# Images seen at each evaluation, as `eval_dense` places them.
EXAMPLES = [0, 32, 64, 128, 256, *range(320, 3201, 320)]


def line(slope, stop=10, start=0.0):
    """Accuracy that rises by `slope` per hundred images, to 1 at most."""
    return [(100 * i, min(start + slope * i, 1.0)) for i in range(stop + 1)]


def approach(tau, end=0.9, start=0.1, noise=0.0, seed=0, examples=EXAMPLES):
    """a(t) = end - (end - start) exp(-t / tau), plus noise."""
    t = np.array(examples, float)
    accuracy = end - (end - start) * np.exp(-t / tau)
    accuracy += noise * np.random.default_rng(seed).standard_normal(len(t))
    return list(zip(t.tolist(), accuracy.tolist(), strict=True))


# ----------------------------------------------------------------------------------- intervals


def test_mean_interval_is_student_t():
    # mean 4, s = 2, n = 3; t(0.975, 2) = 4.302653 and t(0.95, 2) = 2.919986 from printed tables.
    interval = mean_interval([2, 4, 6])
    assert interval.mean == 4
    assert interval.half_width == pytest.approx(4.302653 * 2 / 3**0.5)
    assert interval.low == pytest.approx(4 - 4.302653 * 2 / 3**0.5)
    assert mean_interval([2, 4, 6], 0.9).half_width == pytest.approx(2.919986 * 2 / 3**0.5)


def test_from_twenty_values_on_the_interval_follows_their_skew():
    values = np.random.default_rng(0).exponential(size=20)
    interval = mean_interval(values)
    assert interval.low < interval.mean < interval.high
    assert interval.high - interval.mean > 1.1 * (interval.mean - interval.low)
    assert interval == mean_interval(values)
    assert mean_interval([0.5] * 20) == Interval(0.5, 0.5, 0.5)


def test_intervals_are_called_what_they_are_and_uneven_ends_are_both_shown():
    few, many = [0.90, 0.92, 0.94], 1 - np.linspace(0.01, 0.2, 20) ** 2
    assert interval_name(19) == "t interval"
    assert interval_name(20) == "BCa bootstrap interval"
    t, bootstrap = mean_interval(few), mean_interval(many)
    half = f"{t.half_width:.3f}"
    assert tables.score(t) == f"0.920 ±{half}"
    assert tables.signed(t) == f"+0.920 ±{half}"
    assert ACCURACY.interval(t).endswith(f"&#160;&#177;&#160;{100 * t.half_width:.1f}")
    ends = f"({bootstrap.low:.3f} to {bootstrap.high:.3f})"
    assert tables.score(bootstrap) == f"{bootstrap.mean:.3f} {ends}"
    assert tables.signed(bootstrap).endswith(f" (+{bootstrap.low:.3f} to +{bootstrap.high:.3f})")
    percent = [f"{100 * value:.1f}" for value in (bootstrap.mean, bootstrap.low, bootstrap.high)]
    assert ACCURACY.interval(bootstrap) == "{} ({} to {})".format(*percent)
    assert tables.score(mean_interval([0.5] * 25)) == "0.500 ±0.000"
    assert "bootstrap" not in about_intervals([3, 19])
    assert "from 20 seeds on BCa bootstrap intervals" in about_intervals([3, 20])


def test_one_value_has_a_mean_and_no_interval():
    interval = mean_interval([0.7])
    assert interval.mean == 0.7
    assert math.isnan(interval.half_width)
    assert not interval.excludes_zero


def test_pairing_removes_what_seeds_share():
    luck = [0.0, 0.2, 0.4]
    a = [0.50 + x for x in luck]
    gain = paired_difference(a, [0.45 + x for x in luck])
    assert (gain.low, gain.high) == pytest.approx((0.05, 0.05), abs=1e-12)
    assert gain.excludes_zero
    assert mean_interval(a).half_width > 0.4


def test_no_values_is_an_error():
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])


def test_pairs_must_match():
    with pytest.raises(ValueError, match="shorter"):
        paired_difference([1, 2], [1])


@pytest.mark.parametrize(("count", "samples", "least"), [(5, 2000, 0.935), (20, 400, 0.89)])
def test_intervals_cover_what_they_say(count, samples, least):
    """For normal values; `least` is three standard errors below the long-run coverage."""
    values = np.random.default_rng(0).normal(3.0, 2.0, (samples, count))
    intervals = [mean_interval(row) for row in values]
    assert np.mean([i.low <= 3.0 <= i.high for i in intervals]) > least


def test_paired_benefits_cover_what_they_say():
    """Twins with shared noise: the interval of the asymptote's gain contains the true gain."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(300):
        luck = 0.05 * rng.standard_normal(5)
        seeds = rng.integers(2**32, size=(2, 5))
        scratch = {i: approach(400, 0.7 + luck[i], noise=0.02, seed=seeds[0, i]) for i in range(5)}
        transfer = {i: approach(100, 0.8 + luck[i], noise=0.02, seed=seeds[1, i]) for i in range(5)}
        gains = [b.higher_asymptote(transfer[i], scratch[i], window=0) for i in range(5)]
        interval = mean_interval(gains)
        held += interval.low <= 0.1 + 0.6 * math.exp(-3200 / 400) <= interval.high
    assert 0.91 < held / 300 < 0.99


# --------------------------------------------------------------------------------- straight lines


def test_benefits_of_straight_lines():
    scratch, transfer = line(0.08), line(0.16)
    assert b.higher_start(transfer, scratch) == pytest.approx(0.08)
    # the last tenth of each: .72 .80 against 1 1
    assert b.higher_asymptote(transfer, scratch) == pytest.approx(1 - 0.76)
    # theta = .9 * .76 = .684: at 500 images against 900
    assert b.threshold(scratch) == pytest.approx(0.684)
    assert b.time_ratio(transfer, scratch) == Ratio(900 / 500)
    # areas: .4 * 1000; .48 * 600 (to .96) + .98 * 100 + 300
    assert b.area(scratch, 1000) == pytest.approx(400)
    assert b.total_reward(transfer, scratch) == pytest.approx(0.288 + 0.098 + 0.3 - 0.4)
    assert b.transfer_ratio(transfer, scratch) == pytest.approx(0.286 / 0.4)


def test_benefits_change_sign_with_the_roles():
    x, y = line(0.04, start=0.1), line(0.07)
    for measure in (b.jumpstart, b.higher_start, b.higher_asymptote, b.total_reward):
        assert measure(x, y) == -measure(y, x) != 0


def test_a_curve_has_no_benefit_over_itself():
    curve = approach(300)
    for measure in (b.jumpstart, b.higher_start, b.higher_asymptote, b.transfer_ratio):
        assert measure(curve, curve) == 0
    assert b.time_ratio(curve, curve) == b.rate_ratio(curve, curve) == Ratio(1)


def test_start_ignores_step_0_and_compares_equal_numbers_of_images():
    scratch = [(0, 0.1), (100, 0.2), (200, 0.3)]
    assert b.higher_start([(0, 0.9), (100, 0.5)], scratch) == pytest.approx(0.3)
    assert b.higher_start([(0, 0.1), (150, 0.5)], scratch) == pytest.approx(0.25)
    assert b.jumpstart([(0, 0.9), (100, 0.5)], scratch) == pytest.approx(0.8)


def test_a_short_curve_does_not_end_where_it_began():
    assert b.asymptote([(0, 0.1), (100, 0.8), (200, 0.9)]) == 0.9
    assert b.asymptote([(0, 0.1), (100, 0.8)], window=0.999) == 0.8
    assert b.asymptote([(0, 0.1)]) == 0.1


def test_the_end_of_a_curve_is_a_share_of_its_images_however_often_it_is_evaluated():
    """A run of 40 steps evaluated as `eval_dense` does: steps 0, 1, 2, 4, 8, 16, 20, 40."""
    steps = [0, 1, 2, 4, 8, 16, 20, 40]
    fast = [(32 * step, 0.9 if step >= 10 else 0.1) for step in steps]
    slow = [(32 * step, 0.9 if step >= 30 else 0.1) for step in steps]
    assert b.asymptote(slow) == b.asymptote(fast) == 0.9
    assert b.higher_asymptote(fast, slow) == 0
    assert b.threshold(slow) == pytest.approx(0.81)
    assert b.time_ratio(fast, slow).value == 40 / 16
    # Evaluated ten times, evenly, the last tenth begins at the last evaluation but one.
    for images in (1, 7, 32, 64, 1000):
        even = [(images * 6 * i, i / 10) for i in range(11)]
        assert b.asymptote(even) == pytest.approx(0.95)
    often = [(i, i / 1000) for i in range(1001)]
    assert b.asymptote(often) == pytest.approx(0.95)


# ------------------------------------------------------------------------ exponential approaches


@pytest.mark.parametrize("tau", [15, 90, 700, 3000])
def test_the_fit_finds_an_exponential_approach(tau):
    fit = b.exponential_approach(approach(tau, 0.93, 0.12))
    assert (fit.start, fit.asymptote, fit.tau) == pytest.approx((0.12, 0.93, tau), rel=1e-4)
    assert fit.bound == "exact"


def test_the_benefits_of_exponential_approaches():
    transfer, scratch = approach(100, 0.95, 0.2), approach(400, 0.85, 0.1)
    assert b.jumpstart(transfer, scratch) == pytest.approx(0.1)
    assert b.rate_ratio(transfer, scratch).value == pytest.approx(4, rel=1e-3)
    start = 0.95 - 0.75 * math.exp(-0.32) - (0.85 - 0.75 * math.exp(-0.08))
    assert b.higher_start(transfer, scratch) == pytest.approx(start)
    assert b.higher_asymptote(transfer, scratch) == pytest.approx(0.1, abs=2e-3)
    # with frequent evaluations, theta is reached after tau log((end - start) / (end - theta)) ...
    fine = [approach(*args, examples=range(0, 3201)) for args in ((100, 0.95), (400, 0.85))]
    exact = 100 * math.log(0.85 / 0.25), 400 * math.log(0.75 / 0.15)
    times = [b.examples_to_threshold(curve, 0.7) for curve in fine]
    assert times == [math.ceil(t) for t in exact]
    assert b.time_ratio(*fine, theta=0.7).value == times[1] / times[0]
    # ... and the area is end t - (end - start) tau (1 - exp(-t / tau))
    area = 0.85 * 3200 - 0.75 * 400 * (1 - math.exp(-8))
    assert b.area(fine[1], 3200) == pytest.approx(area, rel=1e-6)


def test_noise_moves_the_rate_ratio_and_not_its_mean():
    transfer = {seed: approach(100, noise=0.02, seed=seed) for seed in range(40)}
    scratch = {seed: approach(400, noise=0.02, seed=100 + seed) for seed in range(40)}
    bought = b.benefits(transfer, scratch)
    assert bought.rate_ratio.interval.mean == pytest.approx(4, rel=0.05)  # 4 standard errors
    assert bought.rate_ratio.bound == "exact"
    assert bought.higher_start.excludes_zero
    assert abs(bought.higher_asymptote.mean) < 0.01


@pytest.mark.parametrize(
    ("curve", "bound"),
    [
        (approach(3), "at most"),  # the rise ends before the first evaluation
        (line(0.05), "at least"),  # the rise does not end
    ],
)
def test_a_rate_beyond_what_was_seen_is_a_bound(curve, bound):
    assert b.exponential_approach(curve).bound == bound
    ratio = b.rate_ratio(curve, approach(400))
    assert ratio.bound == {"at most": "at least", "at least": "at most"}[bound]


@pytest.mark.parametrize(
    "curve",
    [
        approach(300, end=0.1, noise=0.02, seed=3),  # flat
        approach(300, end=0.1, start=0.9),  # falling
        [(0, 0.1), (100, 0.5)],
    ],
)
def test_a_curve_that_does_not_rise_has_no_rate(curve):
    assert b.exponential_approach(curve) is None
    assert math.isnan(b.rate_ratio(approach(300), curve).value)


# ------------------------------------------------------------------------------------- censored


def test_thresholds_never_reached_are_bounds():
    flat, rising = [(0, 0.1), (1000, 0.1)], line(0.1)
    assert b.examples_to_threshold(flat, 0.5) is None
    assert b.time_ratio(flat, rising, 0.5) == Ratio(500 / 1000, "at most")
    assert b.time_ratio(rising, flat, 0.5) == Ratio(1000 / 500, "at least")
    assert math.isnan(b.time_ratio(flat, flat, 0.5).value)


def test_thresholds_reached_before_training():
    learns_nothing = [(0, 0.1), (100, 0.1)]
    assert math.isnan(b.time_ratio(line(0.1), learns_nothing).value)
    assert b.time_ratio(line(0, start=0.95), line(0.1)) == Ratio(9, "at least")


def test_a_time_before_which_nothing_was_seen_is_a_bound():
    steep = [(0, 0.1), (32, 0.8), (64, 0.9), (320, 0.9)]
    scratch = [(0, 0.1), (32, 0.1), (64, 0.3), (160, 0.5), (320, 0.9)]
    assert b.time_ratio(steep, scratch, 0.7) == Ratio(320 / 32, "at least")
    assert b.time_ratio(scratch, steep, 0.7) == Ratio(32 / 320, "at most")
    assert math.isnan(b.time_ratio(steep, steep, 0.7).value)
    # At a rate of 0 the first step changes nothing, so the second evaluation is the first to show.
    warm = [(0, 0.1), (32, 0.1), (64, 0.8), (320, 0.9)]
    assert b.time_ratio(warm, scratch, 0.7) == Ratio(320 / 64, "at least")
    stuck = [(0, 0.1), (32, 0.1), (64, 0.1), (160, 0.8), (320, 0.9)]  # after 64 for certain
    assert b.time_ratio(stuck, scratch, 0.7) == Ratio(320 / 160)
    # Once a lower accuracy was seen, the time is known to lie between two evaluations.
    assert b.time_ratio(steep, scratch, 0.85) == Ratio(320 / 64)
    # Scratch never gets there, and transfer did at once: still a lower bound.
    assert b.time_ratio(steep, scratch[:-1], 0.7) == Ratio(160 / 32, "at least")
    # Scratch was there at once, and transfer never gets there: still an upper bound.
    assert b.time_ratio(scratch[:-1], steep, 0.7) == Ratio(32 / 160, "at most")


def test_what_a_curve_below_0_does_not_determine_is_not_a_number():
    """As R2 may be: a share of what is below 0 lies above it, and an area may be nothing."""
    below, up = [(0, -2.0), (32, -0.5), (64, -0.2)], [(0, -2.0), (32, 0.1), (64, 0.5)]
    assert math.isnan(b.time_ratio(up, below).value)
    assert math.isnan(b.transfer_ratio(up, [(0, 0.0), (32, 0.0), (64, 0.0)]))
    found = b.benefits({0: up}, {0: below})
    assert found.higher_asymptote.mean == pytest.approx(0.7)
    assert found.time_ratio.undetermined == 1


def test_a_mean_of_bounds_is_a_bound_and_claims_no_interval():
    mean = b.geometric_mean([Ratio(2), Ratio(8, "at least")])
    assert mean.interval.mean == pytest.approx(4)
    assert math.isnan(mean.interval.low)
    assert (mean.bound, mean.seeds, mean.censored) == ("at least", 2, 1)
    both = b.geometric_mean([Ratio(2, "at most"), Ratio(8, "at least")])
    assert math.isnan(both.interval.mean)
    lost = b.geometric_mean([Ratio(2), Ratio(math.nan)])
    assert math.isnan(lost.interval.mean)
    assert lost.undetermined == 1


def test_a_mean_of_ratios_is_that_of_their_logarithms():
    mean = b.geometric_mean([Ratio(1), Ratio(4), Ratio(16)])
    half_width = 4.302653 * math.log(4) / 3**0.5
    assert mean.interval.mean == pytest.approx(4)
    assert mean.interval.high == pytest.approx(4 * math.exp(half_width))


# ------------------------------------------------------------------------------------ over seeds


def test_only_twins_are_compared():
    curves = {seed: approach(100, 0.8 + 0.1 * seed) for seed in range(3)}
    bought = b.benefits(curves, {seed: curves[seed] for seed in (1, 2)} | {7: line(0.1)})
    assert bought.seeds == 2
    assert bought.higher_asymptote == Interval(0, 0, 0)
    with pytest.raises(ValueError, match="no seed"):
        b.benefits({0: curves[0]}, {1: curves[1]})


def test_negative_transfer_is_said_only_of_a_gap_that_excludes_0():
    curves = {seed: approach(100) for seed in range(3)}
    worse, scratch = {0: 0.7, 1: 0.8, 2: 0.9}, {0: 0.75, 1: 0.84, 2: 0.95}
    bought = b.benefits(curves, curves, worse, scratch)
    assert bought.negative_transfer_gap.mean == pytest.approx(0.14 / 3)
    assert bought.is_negative_transfer
    assert not b.benefits(curves, curves, scratch, worse).is_negative_transfer
    assert not b.benefits(curves, curves, worse, scratch | {1: 0.7}).is_negative_transfer
    harmed = b.benefits({0: approach(100, 0.5)}, {0: approach(100, 0.8)})
    assert harmed.negative_transfer_gap.mean == pytest.approx(0.3)
