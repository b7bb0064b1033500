"""A `Run`: the contents of its checkpoints; `restore` is the inverse of `save`."""

import contextlib
from dataclasses import fields

import pytest

import tljax
from tests.bits import same
from tests.tiny_networks import network
from tljax import data
from tljax.data import Preprocessing
from tljax.devices.startup import Startup
from tljax.runs.checkpoints import Bookkeeping
from tljax.training.make_run import make_run
from tljax.training.options import TrainingOptions
from tljax.training.setup import Setup

PREPROCESSING = Preprocessing(16, (0.5,) * 3, (0.25,) * 3)


@contextlib.contextmanager
def run_in(workdir, variables, setup):
    """The run of a workdir, ready to take steps."""
    with Startup() as startup, contextlib.ExitStack() as opened:
        yield make_run(setup, variables, workdir, startup, lambda: False, opened, progress=False)


@pytest.mark.parametrize("ema", [None, 0.9])
def test_restore_is_the_inverse_of_save(ema, tmp_path):
    digits = data.load("embedded:digits", train_size=24)
    model, variables = network("resnet")
    options = TrainingOptions(
        batch_size=8, steps=9, lr=0.05, ema=ema, log_every=4, optimizer="adamw"
    )
    plan = tljax.fine_tune(model.groups)
    setup = Setup(model, plan, options, PREPROCESSING, digits.train, digits.val)
    with run_in(tmp_path, variables, setup) as run:
        for _ in range(5):
            run.step_once()
            if run.logs_now():
                run.log()
        run.validate()
        run.save()
        run.finish_saving()
        saved = run.checkpoint()
    with run_in(tmp_path, None, setup) as resumed:
        assert resumed.step == 5
        again = resumed.checkpoint()
    assert again.step == saved.step
    assert same(again.variables, saved.variables)
    assert same(again.opt_state, saved.opt_state)
    for field in fields(Bookkeeping):
        if field.name != "wall_seconds":
            assert getattr(again.bookkeeping, field.name) == getattr(saved.bookkeeping, field.name)
    assert again.bookkeeping.unlogged, "or the steps since the last row are not tested"
