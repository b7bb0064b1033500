"""Shifted data: the drop, how much a new head recovers, and intervals as published."""

import re

import pytest

from tests.test_cli import config, run
from tljax.runs.proportions import newcombe, wilson


def test_wilson_as_published():
    # Newcombe 1998 ("Two-sided confidence intervals for the single proportion"), table I, method 3
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)
    assert wilson(1, 20)[1] == 1


def test_newcombe_as_published():
    # Newcombe 1998 ("Interval estimation for the difference"), table II, method 10
    assert newcombe(56 / 70, 70, 48 / 80, 80) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert newcombe(9 / 10, 10, 3 / 10, 10) == pytest.approx((0.1705, 0.8090), abs=5e-5)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    from tljax import cli

    folder = tmp_path_factory.mktemp("drift")
    for seed in (0, 1):
        argv = [*config("from_scratch"), "--workdir", str(folder / str(seed)), "--config.steps=60"]
        argv += ["--config.data=embedded:digits", "--config.train_size=200", "--config.lr=0.1"]
        argv += ["--config.batch_size=16", "--config.eval_every=30", f"--config.seed={seed}"]
        argv += ["--config.last_group=layer2_0", "--config.image_size=16"]
        assert cli.main(["train", *argv]) == 0
    return [folder / "0", folder / "1"]


SHIFTED = ["--data", "embedded:digits_shifted"]


def test_one_run_has_intervals_over_images(runs, capsys):
    code, out, err = run(capsys, "evaluate", "--workdir", runs[0], *SHIFTED)
    assert code == 0, err
    assert "Wilson interval over images" in out
    drop = float(re.search(r"drop (-?[\d.]+) points", out)[1])
    low, high = map(float, re.search(r"Newcombe .*: (-?[\d.]+) to (-?[\d.]+)", out).groups())
    assert low < drop < high


def test_several_runs_have_one_over_seeds_and_a_new_head_recovers(runs, capsys):
    code, out, err = run(capsys, "evaluate", "--workdir", *runs, *SHIFTED, "--refit_head")
    assert code == 0, err
    rows = re.findall(r"│ \S+ +│ +(\d) │ +([\d.]+) │ +([\d.]+) │ +(-?[\d.]+) │ +([\d.]+) │", out)
    assert [row[0] for row in rows] == ["0", "1"]
    for _, own, shifted, drop, new_head in rows:
        assert float(own) - float(shifted) == pytest.approx(float(drop), abs=2e-4)
        assert float(new_head) > float(shifted)
    assert "95 % t interval over seeds only" in out
    assert "chosen among 3 on validation images" in out


def test_the_same_seed_twice_makes_no_interval(runs, capsys):
    code, out, _ = run(capsys, "evaluate", "--workdir", runs[0], runs[0], *SHIFTED)
    assert code == 0
    assert "no interval over seeds: runs share a seed" in out
