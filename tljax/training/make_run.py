"""Makes a `Run` from its setup: at its first step, or at the checkpoint of its workdir."""

import functools
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from tljax.data import Preprocessing, Source, fixed_views, train_batches
from tljax.data.pipeline import TrainBatches
from tljax.data.sources import weights_of
from tljax.devices import processes, sharding
from tljax.devices.preemption import stopped_by
from tljax.devices.startup import Startup
from tljax.errors import InputError
from tljax.frozen import cache as feature_cache
from tljax.frozen.cache import Cache, CachedSource
from tljax.runs.checkpoints import Bookkeeping, Checkpoints
from tljax.runs.resume import Resumable, newest_usable, read_in_all
from tljax.training import solved_head, train_state
from tljax.training.evaluation import evaluate, evaluation_program
from tljax.training.observer import Observer
from tljax.training.progress import TrainingProgress
from tljax.training.provenance import accepted_changes, check_same, what_made
from tljax.training.run import Inputs, Report, Run, Tools
from tljax.training.setup import Setup
from tljax.training.step import abstract_batch, step_arguments, step_of_run
from tljax.transfer.partition import Tree

# Pretrained variables, or a function that gives them, which is called only if they are needed.
Pretrained = Tree | Callable[[], Tree | None] | None


def make_run(
    setup: Setup,
    pretrained: Pretrained,
    workdir: Path | None,
    startup: Startup,
    stop_signal: Callable[[], int],
    opened: ExitStack,
    *,
    before: Mapping[str, Any] | None = None,
    accept_changes: bool = False,
    progress: bool = True,
    profile: bool = False,
) -> Run:
    """Makes a run that stands at its first step or, if the workdir has a checkpoint, at that.

    Args:
      setup: what the run is made of, checked.
      pretrained: variables for the groups that the plan starts from pretrained weights.
      workdir: which this process has locked; None: nothing is written.
      startup: of the run.
      stop_signal: returns the number of the signal that asks this process to stop; 0: none.
      opened: gets what has to be closed after the run.
      before, accept_changes, progress, profile: see `tljax.training.fit`.
    """
    mesh = sharding.build(setup.options.mesh)
    checkpoints, resumable = _find_checkpoint(workdir, startup, opened)
    saved = resumable[0].bookkeeping if resumable else None
    images = _images_of_an_epoch(setup)
    cache = _choose_cache(
        setup, images.source, workdir, saved, log=progress and processes.is_first()
    )
    if jax.default_backend() == "cpu" and not (cache.groups or setup.options.num_workers):
        startup.use_small_pages()  # not where workers would inherit them
    made_by, changes = _compare_with_saved(setup, cache, workdir, saved, accept_changes)
    step = resumable[0].step if resumable else None
    programs = _compile_ahead(setup, cache.groups, mesh, startup, resumed_at=step)
    tools = Tools(
        tx=programs.tx,
        step_program=programs.step,
        evaluate=programs.evaluate,
        initial_variables=functools.partial(
            _initial_variables, setup, pretrained, mesh, workdir is not None, stop_signal
        ),
        open_inputs=functools.partial(
            _open_inputs, setup, images, cache, mesh, workdir, stop_signal, opened
        ),
        class_weights=setup.class_weights,
        checkpoints=checkpoints,
        mesh=mesh,
        observer=_observer(setup, workdir, startup, step or 0, progress, profile),
        stop_signal=stop_signal,
        made_by=made_by,
        changes=changes,
        examples_before=before["examples_seen"] if before else 0,
    )
    run = Run(setup, tools, workdir)
    opened.callback(run.close)
    if resumable is None:
        run.start()
    else:
        assert workdir is not None
        run.restore(*resumable, read_in_all(workdir, 0) if setup.options.wise_ft else None)
    return run


class _Images(NamedTuple):
    """Images, and how they are prepared."""

    source: Source
    preprocessing: Preprocessing


class _Programs(NamedTuple):
    """The optimizer, the step and the evaluation of a run; see `Tools`."""

    tx: Any
    step: Callable[..., Any]
    evaluate: Callable[..., Any]


def _find_checkpoint(
    workdir: Path | None, startup: Startup, opened: ExitStack
) -> tuple[Checkpoints | None, Resumable | None]:
    """The workdir's checkpoints, and those to resume from, if there are any.

    Removes saves that a killed process left unfinished; damaged checkpoints are moved.
    """
    if workdir is None:
        return None, None
    checkpoints = Checkpoints(workdir / "checkpoints", startup.background)
    opened.callback(checkpoints.close)
    processes.call_in_first(checkpoints.remove_unfinished)
    return checkpoints, newest_usable(workdir)


def _images_of_an_epoch(setup: Setup) -> _Images:
    """What an epoch of training shows: the training images, or fixed views of them."""
    options = setup.options
    if options.views is None:
        return _Images(setup.train, setup.preprocessing)
    views = fixed_views(
        setup.train, setup.preprocessing, options.augment, options.crop_area, options.views
    )
    return _Images(views, replace(setup.preprocessing, crop_ratio=1.0))


def _choose_cache(
    setup: Setup, train: Source, workdir: Path | None, saved: Bookkeeping | None, *, log: bool
) -> Cache:
    """The cache of the run's images, of which `train` are those that an epoch shows.

    Raises:
      InputError: if there is no room for features that a solution needs.
    """
    cache = feature_cache.choose(
        setup.options.cache,
        setup.model,
        setup.plan,
        setup.preprocessing,
        [source for source in (train, setup.val, setup.test) if source is not None],
        images_change=setup.options.images_change,
        on_disk=workdir is not None,
        cached_before=saved.cached_groups if saved else None,
        log=log,
    )
    if setup.options.solves and not cache.groups:
        raise InputError(
            "optimizer is lbfgs, but the features of the images do not fit in memory or on the"
            " disk; make room, or set optimizer to adamw"
        )
    return cache


def _compare_with_saved(
    setup: Setup,
    cache: Cache,
    workdir: Path | None,
    saved: Bookkeeping | None,
    accept_changes: bool,
) -> tuple[dict[str, Any], list[str]]:
    """`made_by` and `changes` of the run, see `Bookkeeping`; nothing of one without a workdir.

    Raises:
      InputError: if the run resumes under something else, and that is not accepted.
    """
    if workdir is None:
        return {}, []
    made_by = what_made(setup, cache.groups)
    check_same(made_by)
    if saved is None:
        return made_by, []
    return made_by, accepted_changes(saved, made_by, workdir, accept_changes)


def _initial_variables(
    setup: Setup,
    pretrained: Pretrained,
    mesh: Mesh | None,
    on_disk: bool,
    stop_signal: Callable[[], int],
) -> tuple[Tree, Report | None]:
    """Where each group starts, as the plan says; the report of a head that was solved."""
    given = pretrained() if callable(pretrained) else pretrained
    folder = feature_cache.find_folder(setup.options.cache, on_disk)
    stop = functools.partial(_stop_if_asked, stop_signal, on_disk)
    variables, report = solved_head.initial_variables(setup, given, folder, stop)
    return sharding.uncommit(mesh, variables), report


def _stop_if_asked(stop_signal: Callable[[], int], resumes: bool) -> None:
    """Raises if a signal asks this process to stop before there is anything to save.

    Each process stops alone; the others notice.
    """
    if number := stop_signal():
        raise stopped_by(number, resumes=resumes)


def _compile_ahead(
    setup: Setup,
    cached_groups: int,
    mesh: Mesh | None,
    startup: Startup,
    resumed_at: int | None,
) -> _Programs:
    """The programs of a run, which are compiled in the background.

    Args:
      setup, mesh, startup: of the run.
      cached_groups: number of leading groups whose output is cached.
      resumed_at: the step of the checkpoint to resume from; None: the run begins, with a
        validation.
    """
    options, problem = setup.options, setup.problem
    model, preprocessing = setup.model, setup.preprocessing
    tx, step = step_of_run(model, setup.plan, preprocessing, options, cached_groups, problem, mesh)
    batch = abstract_batch(
        model,
        preprocessing.image_shape,
        options.batch_size,
        cached_groups,
        _weights_of_batch(setup),
        mesh,
        problem,
    )
    arguments = step_arguments(
        setup.plan, setup.abstract_variables, tx, batch, mesh, options.ema is not None
    )
    evaluates: Callable[..., Any] = evaluate
    if resumed_at is None and setup.val is not None:
        program = evaluation_program(
            model,
            train_state.model_variables(*arguments[:2]),
            preprocessing,
            options.batch_size,
            start=cached_groups,
            problem=problem,
            mesh=mesh,
        )
        evaluates = startup.compile_ahead(*program, used_by=evaluate)
    if (resumed_at or 0) < setup.total_steps and not setup.options.solves:
        step = startup.compile_ahead(step, *arguments)
    return _Programs(tx, step, evaluates)


def _open_inputs(
    setup: Setup,
    train_images: _Images,
    cache: Cache,
    mesh: Mesh | None,
    workdir: Path | None,
    stop_signal: Callable[[], int],
    opened: ExitStack,
    frozen: Tree,
) -> Inputs:
    """Opens a run's images; with a cache, the output of its leading frozen groups for them."""
    if mesh is not None and cache.groups:
        frozen = jax.device_get(frozen)  # or one device would hold the whole of it and its shard

    stop_if_asked = functools.partial(_stop_if_asked, stop_signal, workdir is not None)

    def features(images: _Images) -> Source:
        if not cache.groups:
            return images.source
        return cache.through(
            setup.model, frozen, images.preprocessing, images.source, stop_if_asked
        )

    def make_test() -> Source:
        assert setup.test is not None
        return features(_Images(setup.test, setup.preprocessing))

    train = features(train_images)
    val = None if setup.val is None else features(_Images(setup.val, setup.preprocessing))
    batches = opened.enter_context(closing(_stream(train, train_images.preprocessing, setup, mesh)))
    return Inputs(batches, train, train_images.preprocessing, val, make_test)


def _weights_of_batch(setup: Setup) -> dict[str, tuple[int, ...]]:
    """The shape of a row of `weight`, by this name, if batches have weights."""
    if setup.options.class_weights is not None and setup.problem.kind == "multi_label":
        return {"weight": (setup.model.num_classes,)}
    weighted = setup.options.class_weights is not None or weights_of(setup.train) is not None
    return {"weight": ()} if weighted else {}


def _observer(
    setup: Setup,
    workdir: Path | None,
    startup: Startup,
    first_step: int,
    progress: bool,
    profile: bool,
) -> Observer:
    here = processes.is_first()
    bar = TrainingProgress(
        first_step, setup.total_steps, setup.options.batch_size, progress and here
    )
    trace_folder = workdir / "profile" if workdir is not None and profile and here else None
    return Observer(bar, startup, trace_folder)


def _stream(
    source: Source, preprocessing: Preprocessing, setup: Setup, mesh: Mesh | None
) -> TrainBatches:
    """An endless, seeded, resumable stream of batches, of which each process reads its rows."""
    options = setup.options
    rows = sharding.rows_here(mesh, options.batch_size)
    views = options.views or 1
    if isinstance(source, CachedSource):
        return source.shuffled(options.batch_size, options.seed, views, rows, options.sampling)
    return train_batches(
        source,
        preprocessing,
        batch_size=options.batch_size,
        seed=options.seed,
        views=views,
        augment=options.augment if options.views is None else "none",
        crop_area=options.crop_area,
        num_workers=options.num_workers,
        on_error=options.on_error,
        rows=rows,
        sampling=options.sampling,
    )
