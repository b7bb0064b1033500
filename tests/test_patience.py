"""A run that ends without improvement on validation: its last step, result and files."""

import json

import numpy as np
import pytest

import tljax
from tests.soak.campaign import compare
from tests.tiny_networks import PREPROCESSING, network
from tests.watched import Watched
from tljax import data as data_lib
from tljax.errors import InputError
from tljax.transfer import from_scratch

OPTIONS = {
    "preprocessing": PREPROCESSING,
    "batch_size": 16,
    "steps": 40,
    "eval_every": 2,
    "checkpoint_every": 3,
    "log_every": 5,
    "lr": 0.05,
    "class_weights": "balanced",
    "progress": False,
}
PATIENCE = 3


@pytest.fixture(scope="module")
def splits():
    """Splits with wrong training labels, so that validation gets worse and worse."""
    digits = data_lib.load("embedded:digits", train_size=50)
    images = np.stack([digits.train[i]["image"] for i in range(len(digits.train))])
    wrong = data_lib.ArraySource(images, (digits.train.labels + 1) % 10)
    return wrong, digits.val, data_lib.Subset(digits.test, range(32))


@pytest.fixture(scope="module")
def train(splits):
    model, _ = network("resnet")
    wrong, val, test = splits

    def run(workdir=None, images=None, **options):
        source = wrong if images is None else Watched(wrong, images)
        options = {**OPTIONS, "patience": PATIENCE, **options}
        plan = from_scratch(model.groups)
        return tljax.fit(model, None, plan, source, val, test, workdir=workdir, **options)

    return run


@pytest.fixture(scope="module")
def straight(train, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("patience") / "straight"
    return workdir, train(workdir)


def test_it_ends_after_so_many_evaluations_without_a_better_one(straight, train):
    """Until then it equals the run without patience, including learning rates."""
    summary, history = straight[1].summary, straight[1].history
    validated = [row["step"] for row in history if row["event"] == "val"]
    assert validated[-1] == summary["steps"] < 40
    assert validated.index(summary["best_step"]) == len(validated) - 1 - PATIENCE
    assert summary["stopped_early"] is True
    assert summary["examples_seen"] == 16 * summary["steps"]
    whole = train(patience=None)
    assert whole.history[: len(history) - 1] == history[:-1]  # the last row is the test's
    assert "stopped_early" not in whole.summary
    assert whole.summary["steps"] == 40


def test_a_run_that_is_done_is_done(straight, train):
    workdir, result = straight
    before = (workdir / "metrics.jsonl").read_bytes()
    again = train(workdir)
    assert again.history == result.history
    assert (workdir / "metrics.jsonl").read_bytes() == before
    assert json.loads((workdir / "result.json").read_text())["steps"] == result.summary["steps"]


def test_killed_it_ends_at_the_same_step(straight, train, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", images=16 * (straight[1].summary["steps"] - 1))
    train(tmp_path / "killed")
    assert compare(straight[0], tmp_path / "killed") == []


def test_killed_before_the_result_was_written_it_writes_it(straight, train, tmp_path):
    workdir, result = straight
    rows = (workdir / "metrics.jsonl").read_bytes()
    (workdir / "result.json").unlink()
    last = rows.splitlines(keepends=True)[-1]
    (workdir / "metrics.jsonl").write_bytes(rows[: -len(last)])  # drop the test's row
    again = train(workdir)
    assert {**again.summary, "wall_seconds": 0} == {**result.summary, "wall_seconds": 0}
    assert (workdir / "metrics.jsonl").read_bytes() == rows


def test_killed_after_the_choice_on_the_line_of_wise_ft_it_is_over(splits, tmp_path):
    """The line is drawn to the step at which patience has ended the run."""
    model, _ = network("resnet")
    wrong, val, test = splits
    options = {**OPTIONS, "patience": PATIENCE, "wise_ft": True}

    def fit(name, tested):
        plan = from_scratch(model.groups)
        return tljax.fit(model, None, plan, wrong, val, tested, workdir=tmp_path / name, **options)

    summary = fit("straight", test).summary
    assert summary["steps"] < 40, "or this tests nothing"
    assert summary["examples_seen"] == 16 * summary["steps"], "the line takes no images"
    with pytest.raises(KeyboardInterrupt):
        fit("killed", Watched(test, fail_on=0))
    fit("killed", test)
    assert compare(tmp_path / "straight", tmp_path / "killed") == []


def test_who_improves_to_the_end_is_not_stopped(train):
    summary = train(steps=4, patience=1, lr=0.0).summary  # the first of equal ones is the best
    assert (summary["steps"], summary["stopped_early"]) == (2, True)
    summary = train(steps=4, patience=2, lr=0.0).summary
    assert (summary["steps"], summary["stopped_early"]) == (4, False)


def test_it_takes_validation_images(splits):
    model, _ = network("resnet")
    with pytest.raises(InputError, match="patience is 2, but there are no validation images"):
        tljax.fit(model, None, from_scratch(model.groups), splits[0], None, **OPTIONS, patience=2)
