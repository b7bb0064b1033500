"""The moving average of trained parameters: its arithmetic, and that a run keeps it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tljax
from tests import tiny_networks
from tests.bits import same
from tests.soak.campaign import compare
from tests.test_plan_laws import (
    PREPROCESSING,
    assert_frozen_identical_and_trained_moved,
    batches,
    network,
)
from tests.watched import Watched
from tljax import data as data_lib
from tljax.runs.resume import best_variables
from tljax.training import train_state
from tljax.training.evaluation import evaluate
from tljax.training.loss.objective import Objective
from tljax.training.step import train_step
from tljax.transfer import freeze_first

EVERYTHING = Objective(label_smoothing=0.1, mixup=0.4, cutmix=1.0)
OPTIONS = {  # many training options at once
    "preprocessing": tiny_networks.PREPROCESSING,
    "batch_size": 16,
    "steps": 9,
    "eval_every": 3,
    "checkpoint_every": 2,
    "log_every": 2,
    "lr": 0.05,
    "augment": "trivial",
    "label_smoothing": 0.1,
    "sampling": "balanced",
    "mixup": 0.4,
    "cutmix": 1.0,
    "ema": 0.8,
    "patience": 3,
    "progress": False,
}


def closed_form(values, decay):
    """The mean of values 1 ... t, where each weighs `decay` times as much as the next."""
    weights = decay ** np.arange(len(values) - 1, -1, -1.0)
    return np.tensordot(weights / weights.sum(), np.asarray(values, np.float64), 1)


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.9999])
def test_it_is_the_weighted_mean_of_what_the_steps_led_to(decay):
    values = [
        np.array([3.0, -1.0]),
        np.array([0.0, 2.0]),
        np.array([7.0, 2.0]),
        np.array([1.0, 1.0]),
    ]
    average = jnp.array([100.0, -100.0])  # the initial value does not count
    for t in range(1, len(values) + 1):
        now = jnp.asarray(values[t - 1], jnp.float32)
        average = train_state.update_average(average, now, jnp.int32(t), decay)
        np.testing.assert_allclose(average, closed_form(values[:t], decay), rtol=1e-4, atol=1e-5)
    first = train_state.update_average(average, jnp.float32(0.1), jnp.int32(1), decay)
    assert (np.asarray(first) == np.float32(0.1)).all(), "the average of one step is its value"


def test_it_follows_training_and_leaves_the_frozen_alone():
    """With BatchNorm and all options of a step, from weights with zeros of both signs."""
    model, variables = network("resnet")
    plan = freeze_first(model.groups, 2)
    tx = plan.optimizer("sgd", learning_rate=0.0, clip_norm=1.0)
    step = train_step(model, plan, PREPROCESSING, tx, objective=EVERYTHING, ema=0.7)
    state, frozen = train_state.create(plan, variables, tx, average=True)
    assert same(train_state.model_variables(state, frozen), variables), "it starts there"
    path = []
    for batch in batches():
        batch["weight"] = np.linspace(0.5, 1.5, 8).astype(np.float32)
        state, _ = step(state, frozen, batch, jax.random.key(1), 0.1, 1e-3)
        path.append(jax.tree.map(np.array, (state.trained, state.statistics)))
    expected = jax.tree.map(lambda *values: closed_form(values, 0.7), *path)
    pairs = zip(jax.tree.leaves(state.average), jax.tree.leaves(expected), strict=True)
    for average, value in pairs:
        np.testing.assert_allclose(average, value, rtol=1e-4, atol=1e-6)
    assert_frozen_identical_and_trained_moved(
        plan, variables, train_state.model_variables(state, frozen)
    )


@pytest.fixture(scope="module")
def digits():
    whole = data_lib.load("embedded:digits", train_size=50)
    some = {split: data_lib.Subset(getattr(whole, split), range(64)) for split in ("val", "test")}
    return dataclasses.replace(whole, **some)


@pytest.fixture(scope="module")
def train(digits):
    """train(workdir, images=n, **options): a run that is killed at the n-th image."""
    model, variables = tiny_networks.network("resnet")
    plan = freeze_first(model.groups, 1)

    def run(workdir, images=None, **options):
        source = digits.train if images is None else Watched(digits.train, images)
        given = (model, variables, plan, source, digits.val, digits.test)
        return tljax.fit(*given, workdir=workdir, **OPTIONS | options)

    return run


@pytest.fixture(scope="module")
def straight(train, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("averaged") / "straight"
    return workdir, train(workdir)


def test_the_average_is_what_is_evaluated_and_kept(straight, digits):
    workdir, result = straight
    model, variables = tiny_networks.network("resnet")
    assert same(best_variables(workdir), result.variables)
    best = result.summary["best_step"]
    assert best > 0
    row = next(r for r in result.history if (r["event"], r["step"]) == ("val", best))
    kept = evaluate(model, result.variables, digits.val, tiny_networks.PREPROCESSING, 16)
    assert (kept.accuracy, kept.loss) == (row["accuracy"], row["loss"])
    plan = freeze_first(model.groups, 1)
    assert_frozen_identical_and_trained_moved(plan, variables, result.variables)


def test_with_all_options_resumed_equals_uninterrupted(train, straight, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", images=16 * 7)
    assert not (tmp_path / "killed" / "result.json").exists()
    train(tmp_path / "killed")
    assert compare(straight[0], tmp_path / "killed") == []


@pytest.mark.parametrize("option", ["ema", "mixup", "label_smoothing", "patience"])
def test_a_run_goes_on_under_its_own_options_alone(train, straight, option):
    changed = {"ema": None, "mixup": 0.0, "label_smoothing": 0.0, "patience": 4}[option]
    with pytest.raises(tljax.errors.InputError, match=f"{option} was {OPTIONS[option]}"):
        train(straight[0], **{option: changed})
