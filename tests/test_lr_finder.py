"""The learning-rate finder: its suggestion works, and it changes no later run."""

import math
from pathlib import Path

import numpy as np
import pytest

from tests.bits import same
from tests.test_cli import run
from tests.test_training import without_time
from tljax import config as config_lib
from tljax import experiment
from tljax.commands.find_lr import _print_curve
from tljax.commands.find_lr.range_test import Curve, range_test, run_range_test
from tljax.errors import InputError

CONFIGS = Path(__file__).parents[1] / "configs"


def descent(curvature, momentum=0.0):
    """Gradient descent from w = 1 on curvature * (w - x)^2 / 2, where x is the batch."""
    w, velocity, rng = 1.0, 0.0, np.random.default_rng(0)

    def step(rate):
        nonlocal w, velocity
        distance = w - 0.1 * rng.normal()
        velocity = momentum * velocity + curvature * distance
        w -= rate * velocity
        return curvature * distance**2 / 2

    return step


@pytest.mark.parametrize("curvature", [0.3, 30.0, 3000.0])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_on_a_quadratic_the_suggestion_converges_and_is_not_needlessly_low(curvature, momentum):
    curve = range_test(descent(curvature, momentum), 1e-7, 100.0, 120)
    limit = 2 * (1 + momentum) / curvature  # stability limit
    assert limit / 1000 < curve.suggestion < limit / 2
    assert curve.steepest < limit
    assert len(curve.rates) < curve.steps, "it ends where the loss diverges"


def test_rates_grow_geometrically_and_a_loss_that_is_not_finite_ends_it():
    asked = []

    def step(rate):
        asked.append(rate)
        return 1.0 / len(asked) if rate < 1 else math.nan

    curve = range_test(step, 1e-3, 1e3, 13)
    np.testing.assert_allclose(curve.rates, 10 ** np.linspace(-3, -0.5, 6))
    assert len(asked) == 7
    assert np.isfinite(curve.losses).all()


def test_where_the_loss_only_rises_nothing_is_suggested():
    assert Curve(np.geomspace(1, 10, 10), np.arange(1.0, 11), 10).suggestion is None


def test_a_range_that_ends_before_the_loss_rises_is_said_to_be_too_short(capsys):
    for highest, is_cut in ((1e-2, True), (100.0, False)):
        curve = range_test(lambda rate: 1 + abs(math.log(rate)), 1e-6, highest, 120)
        _print_curve(curve)
        said = capsys.readouterr().out
        assert curve.ends_at_minimum == is_cut
        assert ("raise --highest" in said) == ("at least" in said) == is_cut


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0.0, 1.0, 20), "--lowest above 0"),
        ((1.0, 0.1, 20), "--highest"),
        ((0.1, math.inf, 20), "--highest"),
        ((0.1, 1.0, 9), "--steps is 9"),
    ],
)
def test_an_impossible_range_is_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        range_test(descent(1.0), *arguments)


def test_a_loss_that_is_not_finite_at_once_is_no_curve():
    with pytest.raises(InputError, match="not finite"):
        range_test(lambda rate: math.nan, 1e-6, 10.0, 100)


@pytest.fixture
def split_folder(photo_folder, tmp_path):
    """A folder for folder:PATH; its validation and test images cannot be read."""
    root = tmp_path / "split"
    for split in ("train", "val", "test"):
        for name in ("cats", "dogs"):
            (root / split / name).mkdir(parents=True)
            for image in (photo_folder / name).iterdir():
                content = image.read_bytes() if split == "train" else b"not an image"
                (root / split / name / image.name).write_bytes(content)
    return root


def files(root):
    return {path: path.is_file() and path.read_bytes() for path in root.rglob("*")}


def test_only_training_images_are_read_and_nothing_but_the_figure_is_written(
    split_folder, tmp_path, monkeypatch, capsys
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = files(split_folder)
    page = ["--config", CONFIGS / "from_scratch.py", "--config.batch_size=4"]
    argv = ["find_lr", *page, f"--config.data=folder:{split_folder}", "--steps=12"]
    code, out, err = run(capsys, *argv, "--output", "lr.png")
    assert code == 0, err
    assert "lr" in out
    assert "12 steps" in out or "of 12" in out
    assert [path.name for path in Path().rglob("*")] == ["lr.png"]
    assert files(split_folder) == before
    assert not (tmp_path / "cache" / "tljax" / "features").exists()


def test_a_run_after_it_is_the_run_without_it_and_its_rate_trains(tmp_path):
    """Also with frozen groups: the finder uses the plan's training step."""
    config = config_lib.base()
    fields = {"train_size": 100, "batch_size": 16, "steps": 40, "eval_every": 40}
    config.update(
        {
            **fields,
            "scenario": "from_scratch",
            "train": "(?!stem).*",
            "image_size": 16,
            "augment": "crop",
            "class_weights": "balanced",
        }
    )
    before = experiment.run(config, tmp_path / "before", progress=False)
    curve = run_range_test(config, 1e-6, 10.0, steps=60)
    after = experiment.run(config, tmp_path / "after", progress=False)
    assert same(before.variables, after.variables)
    assert before.history == after.history
    assert without_time(before.summary) == without_time(after.summary)

    def last_loss(lr):
        config.update({"lr": float(lr)})
        history = experiment.fit_config(config).history
        return [row for row in history if row["event"] == "train"][-1]["loss"]

    assert last_loss(curve.suggestion) < last_loss(curve.suggestion / 300) - 0.1, "too low a rate"
    assert last_loss(curve.suggestion) < last_loss(curve.suggestion * 100) - 0.1, "too high a rate"
