"""`tljax.fit`: trains a model under a plan."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tljax.data import Preprocessing, as_source
from tljax.devices.preemption import stop_signals_wait
from tljax.devices.startup import Startup
from tljax.models import Model
from tljax.runs.workdir import locked
from tljax.training.loop import train as train_loop
from tljax.training.make_run import Pretrained, make_run
from tljax.training.options import TrainingOptions
from tljax.training.result import Result, finish
from tljax.training.setup import Setup, own_preprocessing
from tljax.transfer import TransferPlan


def fit(
    model: Model,
    variables: Pretrained,
    plan: TransferPlan,
    train: Any,
    val: Any,
    test: Any = None,
    *,
    preprocessing: Preprocessing | None = None,
    tasks: Mapping[str, int] | None = None,
    workdir: str | Path | None = None,
    about: Mapping[str, Any] | None = None,
    accept_changes: bool = False,
    progress: bool = True,
    profile: bool = False,
    **options: Any,
) -> Result:
    """Trains under `plan`, keeps the best weights on `val`, touches `test` once, at the end.

        plan = tljax.freeze_first(model.groups, k=2)
        result = tljax.fit(model, variables, plan, train, val, test, lr=0.1, steps=100)

    Args:
      model: a Linen module with `groups`.
      variables: the pretrained variables, which are not changed. Groups whose `plan.init` is
        `random` are drawn anew from the seed, whatever `variables` hold for them, so that the same
        variables serve every scenario. None if the plan wants none. Or a function that returns
        them, which is called only if the run starts at its beginning.
      plan: what starts where, what moves, and how fast.
      train, val, test: data sources: anything that `tljax.data.as_source` takes. Without `val` the
        last weights count as the best; without `test` there is no test accuracy.
      preprocessing: image size and normalisation that the weights expect. Images must have as many
        channels as it has means; for three, grey images become RGB. None: the size of the
        first training image, and ImageNet's mean and standard deviation.
      tasks: if several tasks share the trunk: name and number of classes of each, in the order of
        their labels, which are numbered through; see `tljax.training.loss.tasks`. Every image
        counts the same in the loss and in the accuracy that is maximised; each task's own accuracy
        is reported too.
      workdir: where to keep metrics, checkpoints and the result. If it holds a checkpoint, training
        resumes from it, whatever `variables` says. None: nothing is written.
      about: further fields of `result.json`, e.g. the names of scenario and data.
      accept_changes: whether a run may resume under other versions, code or devices than it began
        with. Its result then names them, and may differ from that of a run without the change.
      progress: whether to show progress on stderr.
      profile: whether to write a trace of a few steps into the workdir's `profile`.
      **options: fields of `TrainingOptions`.

    Raises:
      InputError: for bad options or images, a workdir that cannot be written, is in use, or holds
        another run, or a loss that is not finite even after a restart, see `on_nan`.
      Preempted: after SIGTERM; with a workdir, the run is saved.
      Interrupted: after Ctrl-C in a run with a workdir; it is a KeyboardInterrupt, and the run is
        saved. A second Ctrl-C raises KeyboardInterrupt at once.
    """
    setup = make_setup(
        model, plan, TrainingOptions(**options), preprocessing, tasks, train, val, test
    )
    setup.check()
    return fit_setup(
        setup,
        variables,
        None if workdir is None else Path(workdir),
        about=about,
        accept_changes=accept_changes,
        progress=progress,
        profile=profile,
    )


def make_setup(
    model: Model,
    plan: TransferPlan,
    options: TrainingOptions,
    preprocessing: Preprocessing | None,
    tasks: Mapping[str, int] | None,
    *splits: Any,
) -> Setup:
    """The setup of `fit`'s arguments; `splits` are train, val and test as users give them."""
    # Without preprocessing, or with RGB's, grey images become RGB.
    channels = 3 if preprocessing is None else preprocessing.channels
    wanted = None if channels == 3 else channels
    train, val, test = (None if split is None else as_source(split, wanted) for split in splits)
    assert train is not None
    preprocessing = preprocessing or own_preprocessing(train)
    return Setup(model, plan, options, preprocessing, train, val, test, dict(tasks or {}))


def fit_setup(
    setup: Setup,
    pretrained: Pretrained,
    workdir: Path | None,
    *,
    about: Mapping[str, Any] | None = None,
    before: Mapping[str, Any] | None = None,
    **how: bool,
) -> Result:
    """As `fit`, of a setup that has been checked.

    Args:
      setup, pretrained, workdir, about: see `fit`.
      before: the result of the stage before this one, if there is one; the result covers both.
      **how: accept_changes, progress and profile of `fit`.
    """
    with (
        locked(workdir),
        stop_signals_wait(ctrl_c=workdir is not None) as stop_signal,
        Startup() as startup,
        ExitStack() as opened,
    ):
        run = make_run(
            setup, pretrained, workdir, startup, stop_signal, opened, before=before, **how
        )
        train_loop(run)
        return finish(run, about, before)
