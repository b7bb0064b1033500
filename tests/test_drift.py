"""Shifted data: the drop, how much a new head recovers, and intervals as published."""

import re

import numpy as np
import pytest
from PIL import Image

from tests.test_cli import config, run
from tljax.data import load
from tljax.runs.proportions import newcombe, newcombe_paired, wilson


def test_wilson_as_published():
    # Newcombe 1998 ("Two-sided confidence intervals for the single proportion"), table I, method 3
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)
    assert wilson(1, 20)[1] == 1


def test_newcombe_as_published():
    # Newcombe 1998 ("Interval estimation for the difference"), table II, method 10
    assert newcombe(56 / 70, 70, 48 / 80, 80) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert newcombe(9 / 10, 10, 3 / 10, 10) == pytest.approx((0.1705, 0.8090), abs=5e-5)


@pytest.mark.parametrize(
    ("counts", "published"),
    [
        ((36, 12, 2, 0), (0.0569, 0.3404)),  # Newcombe 1998 ("... paired data"), method 10
        ((1, 1, 7, 12), (-0.507, -0.026)),  # Fagerland, Lydersen & Laake 2014, square-and-add
    ],
)
def test_newcombe_paired_as_published(counts, published):
    right_a = np.repeat([True, True, False, False], counts)
    right_b = np.repeat([True, False, True, False], counts)
    assert newcombe_paired(right_a, right_b) == pytest.approx(published, abs=5e-4)
    same = newcombe_paired(right_a, right_a)
    assert same.low == pytest.approx(-same.high)


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
    assert re.search(r"L2 strength [\d., ]+ chosen by cross-validation", out)


def test_the_same_seed_twice_makes_no_interval(runs, capsys):
    code, out, _ = run(capsys, "evaluate", "--workdir", runs[0], runs[0], *SHIFTED)
    assert code == 0
    assert "no interval over seeds: runs share a seed" in out


@pytest.fixture(scope="module")
def all_train(tmp_path_factory):
    """A run without validation images, as the default rule wants it of few images."""
    from tljax import cli

    workdir = tmp_path_factory.mktemp("all_train")
    argv = [*config("from_scratch"), "--workdir", str(workdir), "--config.data=embedded:digits"]
    argv += ["--config.steps=20", "--config.batch_size=16", "--config.val_fraction=0"]
    argv += ["--config.last_group=layer1_0", "--config.image_size=16"]
    assert cli.main(["train", *argv]) == 0
    return workdir


def test_a_new_head_needs_no_validation_images(all_train, capsys):
    code, out, err = run(capsys, "evaluate", "--workdir", all_train, *SHIFTED, "--refit_head")
    assert code == 0, err
    recovered = float(re.search(r"a new head recovers (-?[\d.]+) points", out)[1])
    low, high = map(float, re.search(r"paired by image: (-?[\d.]+) to (-?[\d.]+)", out).groups())
    assert 0 < low < recovered < high
    shifted = float(re.search(r"^accuracy ([\d.]+)", out)[1])
    new = float(re.search(r"points: accuracy ([\d.]+)", out)[1])
    assert 100 * (new - shifted) == pytest.approx(recovered, abs=0.06)


@pytest.mark.parametrize(
    ("train", "message"), [(0, "no training images"), (1, "10 of 10 classes .* single training")]
)
def test_data_that_no_head_can_be_fitted_to_is_refused(train, message, all_train, tmp_path, capsys):
    digits = load("embedded:digits_shifted")
    for name, source, count in (("train", digits.train, train), ("test", digits.test, 2)):
        for label in range(10):
            for row in np.flatnonzero(source.labels == label)[:count]:
                folder = tmp_path / name / str(label)
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(source[int(row)]["image"]).save(folder / f"{row}.png")
    argv = ["--workdir", all_train, "--data", f"folder:{tmp_path}", "--refit_head"]
    code, out, err = run(capsys, "evaluate", *argv)
    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) == 1
    assert re.search(message, err)


def test_a_new_head_is_asked_for_no_images_that_it_is_fitted_to(all_train, capsys):
    argv = ["--workdir", all_train, *SHIFTED, "--split", "train", "--refit_head"]
    code, _, err = run(capsys, "evaluate", *argv)
    assert code == 2
    assert "choose another --split" in err
