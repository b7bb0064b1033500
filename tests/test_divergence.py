"""A run whose loss is not finite restarts once at a third of the rate; one that is stuck says so.

The runs diverge by weight decay: rate times decay is 5.5, so that a kernel of a block grows by 4.5
in each step, and overflows after about twelve. At a third of the rate it shrinks.
"""

import json
import logging
import os
import shutil
import signal
import threading

import jax
import numpy as np
import pytest

import tljax
from tests.bits import same
from tests.soak.campaign import compare
from tests.test_run import run_in
from tests.tiny_networks import NETWORKS, network
from tljax import data as data_lib
from tljax import experiment
from tljax.data import ArraySource, Preprocessing
from tljax.devices.preemption import Preempted
from tljax.errors import InputError
from tljax.models import init, tracing
from tljax.runs.checkpoints import Checkpoints
from tljax.runs.metrics import read_rows
from tljax.training import train_state
from tljax.training.options import TrainingOptions
from tljax.training.setup import Setup
from tljax.training.step_metrics import constant_accuracy, warn_if_stuck

LR = 0.03
OPTIONS = {
    "preprocessing": Preprocessing(16, (0.5,) * 3, (0.5,) * 3),
    "lr": LR,
    "weight_decay": 5.5 / LR,
    "decayed": "block.*kernel",
    "momentum": 0.0,
    "schedule": "constant",
    "batch_size": 8,
    "steps": 28,
    "eval_every": 7,
    "checkpoint_every": 3,
    "log_every": 5,
    "keep": 2,
    "progress": False,
}
LATE = {"steps": 14}  # step 7 is then in the second half
PLAN = tljax.from_scratch(NETWORKS["vit"].groups)


@pytest.fixture(scope="module")
def digits():
    whole = data_lib.load("embedded:digits", train_size=50)
    return whole.train, data_lib.Subset(whole.val, range(16)), data_lib.Subset(whole.test, range(8))


@pytest.fixture(scope="module")
def ones(digits):
    """Images of one class, which is not what a head of zeros answers: every validation is good."""
    images = np.stack([digits[0][i]["image"] for i in range(len(digits[0]))])
    return ArraySource(images, np.ones(len(images), int)), ArraySource(images[:8], np.ones(8, int))


@pytest.fixture(scope="module")
def train(digits):
    def run(workdir=None, splits=digits, **options):
        return tljax.fit(
            network("vit")[0], None, PLAN, *splits, workdir=workdir, **OPTIONS | options
        )

    return run


@pytest.fixture(scope="module")
def straight(train, tmp_path_factory):
    """(its workdir, its result) of a run that restarts from its beginning."""
    workdir = tmp_path_factory.mktemp("divergence") / "straight"
    return workdir, train(workdir)


@pytest.fixture(scope="module")
def straight_late(train, ones, tmp_path_factory):
    """The same of a run that restarts from its best weights."""
    workdir = tmp_path_factory.mktemp("divergence") / "late"
    return workdir, train(workdir, ones, **LATE)


def without_restart(rows):
    return [row for row in rows if row["event"] != "restart"]


# --- where it restarts, and what it says ------------------------------------------------------


def test_it_ends_as_if_a_third_of_the_rate_had_been_set(straight, train):
    workdir, result = straight
    third = train(lr=LR / 3, on_nan="fail")
    assert same(result.variables, third.variables)
    assert same(result.last, third.last)
    assert without_restart(result.history) == third.history
    restarted = json.loads((workdir / "result.json").read_text())["restarted"]
    assert restarted["from_step"] == 0
    assert 7 < restarted["step"] < 14
    assert restarted["lr"] == LR / 3
    assert "restarted" not in third.summary
    for name in ("steps", "best_step", "val_accuracy", "test_accuracy", "examples_seen"):
        assert result.summary[name] == third.summary[name], name


def test_it_is_said_in_one_line(train, caplog):
    train()
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said.startswith("the training loss became nan at step 1")
    assert "restarts from its beginning with lr 0.01, a third" in said
    assert "on_nan=fail" in said


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "adamw", "weight_decay": 5.8 / LR, "wise_ft": True},
        pytest.param({"ema": 0.5}, marks=pytest.mark.soak),
    ],
)
def test_with_other_state_too(options, train):
    result, third = train(**options), train(**options, lr=LR / 3)
    assert result.summary["restarted"]["from_step"] == 0
    assert same(result.last, third.last)
    assert without_restart(result.history) == third.history


def test_pretrained_weights_are_read_again(tiny_config, tmp_path, caplog):
    """A run of a config keeps no copy of them."""
    network = {"model": "vit_micro_patch4_32", "last_group": "block0", "image_size": 16}
    source = tmp_path / "source"
    experiment.run(tiny_config(**network, steps=1), source)
    tuned = {"scenario": "fine_tune", "backbone_lr_scale": 1.0, "init_from": str(source)}
    names = ("decayed", "momentum", "schedule", "batch_size", "weight_decay")
    tuned |= {name: OPTIONS[name] for name in names} | network
    tuned |= {"steps": 30, "eval_every": 3, "augment": "none"}
    result = experiment.fit_config(tiny_config(**tuned, lr=LR))
    third = experiment.fit_config(tiny_config(**tuned, lr=LR / 3))
    assert "restarts from its beginning" in caplog.text
    assert same(result.last, third.last)
    assert without_restart(result.history) == third.history


def test_from_the_best_weights_of_the_second_half(straight_late, train, ones, caplog):
    workdir, result = straight_late
    restarted = result.summary["restarted"]
    assert restarted["from_step"] == 7
    assert 7 < restarted["step"] < 14
    rows = result.history
    assert [row["step"] for row in rows if row["event"] == "restart"] == [7]
    assert [row["step"] for row in rows if row["event"] == "val"] == [0, 7, 14]
    rates = {row["step"]: row["lr"] for row in rows if row["event"] == "train"}
    assert rates == pytest.approx({5: LR, 7: LR, 10: LR / 3, 14: LR / 3})
    assert rows == read_rows(workdir / "metrics.jsonl")
    train(None, ones, **LATE)
    assert "restarts from its best step, 7, with lr 0.01" in caplog.text


@pytest.mark.parametrize("ema", [None, 0.5])
def test_the_state_there_is_that_of_the_best_weights(ema, ones, tmp_path):
    model, _ = network("vit")
    fields = {name: value for name, value in OPTIONS.items() if name in vars(TrainingOptions())}
    options = TrainingOptions(**fields | LATE, ema=ema)
    setup = Setup(model, PLAN, options, OPTIONS["preprocessing"], *ones)
    with run_in(tmp_path, None, setup) as run:
        run.validate()
        while run.restart_row is None:
            best, position = run.best, run.inputs.batches.get_state()["next_batch"]
            assert position == run.step
            with run.restarting_once():
                run.step_once()
                if run.logs_now():
                    run.log()
                if run.validates_now():
                    run.validate()
        assert run.step == best.step == 7
        assert int(run.state.step) == 7
        assert run.inputs.batches.get_state()["next_batch"] == 7
        now = train_state.model_variables(run.state, run.frozen)
        assert same(now, best.variables)
        run.finish_saving()


def test_a_late_best_with_a_higher_loss_is_not_gone_back_to(train, ones):
    """As of weights that are damaged, and right by chance: here one answer in eight is right."""
    train_images, val = ones
    images = np.stack([val[i]["image"] for i in range(len(val))])
    others = ArraySource(images, np.arange(1, 1 + len(images)))
    result = train(None, (train_images, others), **LATE)
    rows = result.history
    first, *later = [row for row in rows if row["event"] == "val"]
    assert all(row["accuracy"] > first["accuracy"] for row in later)
    assert all(row["loss"] > first["loss"] for row in later)
    assert result.summary["restarted"]["from_step"] == 0


def test_checkpoints_change_nothing(straight, straight_late, train, ones, tmp_path):
    assert train().history == straight[1].history, "in memory"
    train(tmp_path / "few", checkpoint_every=100, keep=1)
    train(tmp_path / "many", ones, **LATE, checkpoint_every=1, keep=1)
    for workdir, other in ((straight[0], "few"), (straight_late[0], "many")):
        rows = [(w / "metrics.jsonl").read_bytes() for w in (workdir, tmp_path / other)]
        assert rows[0] == rows[1]
        results = [json.loads((w / "result.json").read_text()) for w in (workdir, tmp_path / other)]
        assert results[0] | {"wall_seconds": 0} == results[1] | {"wall_seconds": 0}


def test_no_checkpoint_and_no_best_weights_are_not_finite(straight, straight_late):
    for workdir, result in (straight, straight_late):
        for step in Checkpoints(workdir / "checkpoints").steps():
            saved = Checkpoints(workdir / "checkpoints").read(step)
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(saved.variables))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.variables))


def test_a_run_that_failed_may_restart(straight, train, tmp_path, caplog):
    """Also one of a version that did not have the option, or those of the solved head."""
    with pytest.raises(InputError, match=r"training loss became nan at step 1\d .*lower lr"):
        train(tmp_path, on_nan="fail")
    assert not (tmp_path / "result.json").exists()
    assert "restart" not in {row["event"] for row in read_rows(tmp_path / "metrics.jsonl")}
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in sorted(checkpoints.steps()):
        saved = checkpoints.read(step)
        for name in ("on_nan", "l2", "wise_ft", "wise_ft_alpha"):
            del saved.bookkeeping.made_by["config"][name]
        shutil.rmtree(checkpoints.folder(step))
        checkpoints.save(saved, keep=9, also=set())
    checkpoints.close()
    train(tmp_path)
    assert "on_nan was" not in caplog.text
    assert compare(straight[0], tmp_path) == []


def test_a_second_time_it_fails_and_says_what_was_tried(train, tmp_path, caplog):
    options = {"lr": 4 * LR}
    match = (
        r"became nan at step \d+ \(learning rate 0.04, after a restart at a third of lr\); lower"
    )
    with pytest.raises(InputError, match=match):
        train(tmp_path, **options)
    with pytest.raises(InputError, match=match):  # and again from its last checkpoint
        train(tmp_path, **options)
    assert caplog.text.count("restarts from its beginning") == 1


def test_weights_that_were_never_finite_are_not_the_rates_fault(digits, caplog):
    model, _ = network("vit")
    broken = jax.tree.map(
        lambda leaf: np.full(leaf.shape, np.nan, leaf.dtype), tracing.abstract_variables(model, 16)
    )
    plan = tljax.fine_tune(model.groups)
    for val, which in ((digits[1], "validation"), (None, "training")):
        with pytest.raises(InputError, match=rf"{which} loss is nan before any weight has moved"):
            tljax.fit(model, broken, plan, digits[0], val, **OPTIONS)
    assert "restart" not in caplog.text


def test_without_validation_the_last_update_is_looked_at(train, digits):
    """No loss follows it that could tell."""
    (first,) = train(None, (digits[0], None), steps=1, weight_decay=0.0).history
    lr = 3e19 / first["grad_norm"]  # the square of the norm is then too large for float32
    result = train(None, (digits[0], None), steps=1, weight_decay=0.0, lr=lr)
    assert result.summary["restarted"] == {"step": 1, "from_step": 0, "lr": lr / 3}
    with pytest.raises(InputError, match="the norm of the weights became inf at step 1"):
        train(None, (digits[0], None), steps=1, weight_decay=0.0, lr=4 * lr)


def test_a_stage_restarts_for_itself(digits):
    model, _ = network("vit")
    stages = tljax.lp_ft(tljax.fine_tune(model.groups, backbone=1.0), probe_share=0.2)
    variables = init(model, jax.random.key(0), 16)
    result = tljax.fit_stages(model, variables, stages, *digits, **OPTIONS | {"steps": 40})
    first, second = result.summary["stages"]
    assert "restarted" not in first, "no kernel of a block trains"
    assert second["restarted"] == result.summary["restarted"]
    assert second["restarted"]["from_step"] == 0
    assert result.summary["steps"] == 40


def test_an_unknown_way_is_refused(train):
    with pytest.raises(InputError, match="on_nan"):
        train(on_nan="resume")


# --- killed -----------------------------------------------------------------------------------


class Killer(logging.Handler):
    """Acts when a run logs a message for the n-th time."""

    def __init__(self, message, occurrence, act):
        super().__init__(logging.DEBUG)
        self.left, self._message, self._act = occurrence, message, act

    def emit(self, record):
        if record.getMessage().startswith(self._message):
            self.left -= 1
            if self.left == 0:
                self._act()


def die(*_, **__):
    raise KeyboardInterrupt


@pytest.fixture
def when(caplog):
    """when(message, n, act): acts at the n-th log message that begins so."""
    caplog.set_level(logging.DEBUG, "tljax")
    logger, added = logging.getLogger("tljax"), []

    def add(*when):
        added.append(Killer(*when))
        logger.addHandler(added[-1])

    yield add
    for killer in added:
        logger.removeHandler(killer)
        assert killer.left <= 0, "it never came to that"


MOMENTS = {
    "when it is noticed": ("phase restart", 1),
    "right after": ("phase step, step 8", 2),
    "before": ("phase step, step 10", 1),
    "after its first checkpoint": ("phase step, step 12", 2),
    "in the test": ("phase evaluation, test", 1),
}
SOAKED = [pytest.param(moment, marks=pytest.mark.soak) for moment in list(MOMENTS)[2:]]


@pytest.mark.parametrize("moment", [*list(MOMENTS)[:2], *SOAKED])
def test_killed_it_ends_with_the_same_bits(moment, straight, train, when, tmp_path):
    when(*MOMENTS[moment], die)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed")
    train(tmp_path / "killed")
    assert compare(straight[0], tmp_path / "killed") == []


@pytest.mark.soak
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_it_finds_the_weights_of_its_start(moment, train, when, tmp_path):
    """Which `wise_ft` needs after the last step."""
    train(tmp_path / "straight", wise_ft=True)
    when(*MOMENTS[moment], die)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", wise_ft=True)
    train(tmp_path / "killed", wise_ft=True)
    assert compare(tmp_path / "straight", tmp_path / "killed") == []


@pytest.mark.parametrize(
    "moment", [pytest.param("when it is noticed", marks=pytest.mark.soak), "right after"]
)
def test_killed_it_goes_back_to_its_best_weights_again(
    moment, straight_late, train, ones, when, tmp_path
):
    when(*MOMENTS[moment], die)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", ones, **LATE)
    train(tmp_path / "killed", ones, **LATE)
    assert compare(straight_late[0], tmp_path / "killed") == []


@pytest.mark.parametrize(
    ("call", "nth"),
    [
        ("rename", 2),
        pytest.param("rename", 1, marks=pytest.mark.soak),
        pytest.param("truncate", 1, marks=pytest.mark.soak),
        pytest.param("fsync", 1, marks=pytest.mark.soak),
    ],
)
def test_killed_within_the_restart(call, nth, straight, train, when, monkeypatch, tmp_path):
    """Before and between removals of checkpoints, before rows are dropped, and the new save."""
    count = iter(range(1, 100))
    original = getattr(os, call)

    def dies(*args, **kwargs):
        if threading.current_thread() is threading.main_thread() and next(count) == nth:
            die()
        return original(*args, **kwargs)

    when("phase restart", 1, lambda: monkeypatch.setattr(os, call, dies))
    killed = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        train(killed)
    monkeypatch.setattr(os, call, original)
    train(killed)
    assert compare(straight[0], killed) == []


def test_sigterm_before_it_is_noticed(straight_late, train, ones, when, tmp_path):
    """What is not finite is not saved, and the run that resumes notices it, too."""
    step = straight_late[1].summary["restarted"]["step"]
    when(f"phase step, step {step + 1}", 1, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Preempted):
        train(tmp_path, ones, **LATE, checkpoint_every=100)  # else a save notices it at once
    assert Checkpoints(tmp_path / "checkpoints").steps()[0] < step
    train(tmp_path, ones, **LATE, checkpoint_every=100)
    assert compare(straight_late[0], tmp_path) == []


@pytest.mark.soak
def test_a_damaged_checkpoint_falls_back_to_before_the_restart(straight, train, when, tmp_path):
    when(*MOMENTS["after its first checkpoint"], die)
    killed = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        train(killed)
    for step in Checkpoints(killed / "checkpoints").steps()[:-1]:
        shutil.rmtree(killed / "checkpoints" / str(step))
    train(killed)
    assert compare(straight[0], killed) == []


# --- stuck ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lopsided():
    """40 images of three shades, 30 of class 0."""
    labels = np.repeat([0, 1, 2], [30, 5, 5])
    images = np.full((40, 16, 16, 3), 100, np.uint8) * labels[:, None, None, None].astype(np.uint8)
    return ArraySource(images, labels)


def stuck(caplog):
    return [text for text in map(logging.LogRecord.getMessage, caplog.records) if "nothing" in text]


def test_a_rate_that_teaches_nothing_is_said_once(train, lopsided, when, tmp_path, caplog):
    """A head of zeros answers class 0, the commonest, and at rate 0 it stays so."""
    idle = {"lr": 0.0, "weight_decay": 0.0, "steps": 12, "log_every": 4, "batch_size": 64}
    when("phase step, step 9", 1, die)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, (lopsided, None), **idle)
    (said,) = stuck(caplog)
    assert said.startswith("after 4 of 12 steps the training accuracy is 0.7")
    assert "commonest class has 0.750" in said
    assert "lower lr (now 0)" in said
    assert "tljax find_lr" in said
    caplog.clear()
    train(tmp_path, (lopsided, None), **idle)
    assert stuck(caplog) == [], "by the run that resumes"


def logged(accuracies, log_every=4):
    return [
        {"event": "train", "step": log_every * number, "accuracy": accuracy}
        for number, accuracy in enumerate(accuracies, 1)
    ]


FLAT = [0.75] * 15


@pytest.mark.parametrize(
    ("accuracies", "options", "steps"),
    [
        (FLAT, {}, [20]),
        ([1.0, 1.0, *FLAT[2:]], {}, [20]),  # a lucky start
        ([0.1, 0.1, 0.75, 0.8, 0.76], {}, [20]),  # less than two standard errors, 0.06, more
        ([0.1, 0.1, 0.75, 0.85, 0.85], {}, []),
        ([0.1, 0.1, 0.1, 0.1, 0.1], {}, [20]),
        (FLAT, {"warmup": 15}, [32]),  # the rate is at its peak as long as it was below
        (FLAT, {"warmup": 31}, []),
        (FLAT, {"batch_size": 16}, []),  # too few images to tell
        (FLAT, {"class_weights": "balanced"}, []),  # more than a third
        ([0.33] * 15, {"class_weights": "balanced"}, [20]),
        ([0.33] * 15, {"sampling": "balanced"}, [20]),
        ([0.45] * 15, {"sampling": "balanced"}, []),
    ],
)
def test_when_a_run_is_stuck(accuracies, options, steps, lopsided, caplog):
    options = TrainingOptions(**{"batch_size": 32, "steps": 60, **options})
    setup = Setup(network("vit")[0], PLAN, options, OPTIONS["preprocessing"], lopsided)
    rows = logged(accuracies)
    for count in range(1, len(rows) + 1):
        warn_if_stuck([{"event": "val", "step": 0}, *rows[:count]], setup, lr=0.1)
    assert [int(text.split()[1]) for text in stuck(caplog)] == steps


def test_one_class_alone_is_no_reason(caplog):
    images = ArraySource(np.zeros((9, 16, 16, 3), np.uint8), np.zeros(9, int))
    options = TrainingOptions(steps=60)
    setup = Setup(network("vit")[0], PLAN, options, OPTIONS["preprocessing"], images)
    for count in range(1, 15):
        warn_if_stuck(logged([1.0] * count), setup, lr=0.1)
    assert stuck(caplog) == []


def test_the_accuracy_of_a_constant_answer():
    labels = np.array([0, 0, 0, 1, 3, 3, 4])
    assert constant_accuracy(labels) == pytest.approx(3 / 7)
    assert constant_accuracy(labels, balanced=True) == pytest.approx(1 / 4)
    # an image is answered within its own task: 0 of 0 and 1, 3 of 2 to 4
    assert constant_accuracy(labels, (2, 3)) == pytest.approx(5 / 7)
    assert constant_accuracy(labels, (2, 3), balanced=True) == pytest.approx(2 / 4)
