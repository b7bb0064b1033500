"""Runs in stages: `fit` once for each, every one from what the one before has left.

Stage i but the last has a workdir of its own, `W/stages/i`, and the last one has W itself, so that
whatever reads a workdir finds the run's result there. A run that dies goes on in the stage where it
was; finished stages are read. Each has its own optimizer state, schedule, warm-up and data order.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from tljax.data import Preprocessing, Source, as_source
from tljax.devices import processes
from tljax.errors import InputError
from tljax.files import parse_json
from tljax.models import ImageSize, Model, tracing
from tljax.runs.checkpoints import has_checkpoint, newest_usable, restore_like
from tljax.runs.workdir import locked, read_rows
from tljax.training.loop import Result, fit
from tljax.training.options import TrainingOptions
from tljax.training.preparation import check_fit, own_preprocessing
from tljax.training.progress import console
from tljax.training.provenance import accepted_changes, what_made
from tljax.transfer import Stage
from tljax.transfer.partition import Tree

_FOLDER = "stages"  # of a workdir


def fit_stages(
    model: Model,
    variables: Tree | Callable[[], Tree | None] | None,
    stages: Sequence[Stage],
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
    called: float | None = None,
    **options: Any,
) -> Result:
    """Trains under the plans of `stages` one after the other; see `tljax.transfer.recipes`.

    `steps` or `epochs` are those of all stages together; `lr`, `augment` and `cache` hold for those
    that say nothing else, or have nothing to cache. `patience` counts in each stage, and may end it
    before its steps are done. `test` is touched once, after the last one.

    Args:
      model, variables, train, val, test, preprocessing, tasks, about, accept_changes, progress,
        called, **options: as of `fit`; `variables` are what the first stage starts from.
      stages: in their order.
      workdir: the last stage's, and, in its `stages`, those of the others; or None.
      profile: whether to trace a few steps of the last stage.

    Returns:
      The last stage's result: its `best_step` and rows count its own steps, `steps`,
      `examples_seen` and `wall_seconds` are of all, and `stages` tells of each. `plan` says where
      the groups started in the first one and what moved in the last.

    Raises:
      InputError, Preempted: as `fit`; or for stages that share the steps badly.
    """
    train, val, test = (None if s is None else as_source(s) for s in (train, val, test))
    workdir = None if workdir is None else Path(workdir)
    preprocessing = preprocessing or own_preprocessing(train)
    size = preprocessing.image_size
    each = check_stages(model, stages, TrainingOptions(**options), size, train, val, test)
    history: list[dict[str, Any]] = []
    before: dict[str, Any] | None = None
    result: Result | None = None
    with locked(workdir):
        for number, (stage, opt) in enumerate(zip(stages, each, strict=True), 1):
            is_last = number == len(stages)
            folder = None if workdir is None else _workdir_of(workdir, number, len(stages))
            given = (model, stage, preprocessing, opt, tasks, train, val, accept_changes)
            result = None if folder is None or is_last else _finished(folder, *given)
            if result is None:
                if progress and processes.is_first():
                    console.print(f"stage {number} of {len(stages)}: {opt.steps} steps")
                result = fit(
                    model,
                    variables,
                    stage.plan,
                    train,
                    val,
                    test if is_last else None,
                    preprocessing=preprocessing,
                    tasks=tasks,
                    workdir=folder,
                    about=about if is_last else None,
                    before=before,
                    accept_changes=accept_changes,
                    progress=progress,
                    profile=profile and is_last,
                    called=called,
                    **asdict(opt),
                )
            variables = result.variables if stage.carries == "best" else result.last
            before, called = result.summary, None
            history += result.history
    assert result is not None  # there is a stage
    return replace(result, history=history)


def check_stages(
    model: Model,
    stages: Sequence[Stage],
    opt: TrainingOptions,
    image_size: ImageSize,
    train: Source,
    val: Source | None,
    test: Source | None,
) -> list[TrainingOptions]:
    """Each stage's own options; InputError if one could not begin: before anything is written."""
    each = _options_of(model, stages, opt, image_size, len(train))
    for number, (stage, own) in enumerate(zip(stages, each, strict=True), 1):
        try:
            check_fit(model, stage.plan, own, image_size, train, val, test)
        except InputError as error:
            raise InputError(f"stage {number} of {len(stages)}: {error}") from None
    return each


def has_begun(workdir: Path | None) -> bool:
    """Whether a run, in stages or not, has a checkpoint in this workdir."""
    return workdir is not None and (
        has_checkpoint(workdir) or has_checkpoint(workdir / _FOLDER / "1")
    )


def all_rows(workdir: Path) -> list[dict[str, Any]]:
    """The rows of a finished run, those of its earlier stages first.

    Raises:
      InputError: if they cannot be read.
    """
    folders = [path for path in (workdir / _FOLDER).glob("*") if path.name.isdecimal()]
    in_order = sorted(folders, key=lambda path: int(path.name))
    return [row for path in (*in_order, workdir) for row in read_rows(path / "metrics.jsonl")]


def _workdir_of(workdir: Path, number: int, count: int) -> Path:
    return workdir if number == count else workdir / _FOLDER / str(number)


def _options_of(
    model: Model,
    stages: Sequence[Stage],
    opt: TrainingOptions,
    image_size: ImageSize,
    train_size: int,
) -> list[TrainingOptions]:
    """The run's options, shared out: steps by the shares, and a seed for each stage.

    A cache that is asked for is of the stages that have something to keep.
    """
    shares = [stage.share for stage in stages]
    if not shares or min(shares) <= 0 or not np.isclose(sum(shares), 1):
        raise InputError(f"the stages' shares of the steps are {shares}; make them add up to 1")
    total = opt.total_steps(train_size)
    ends = np.rint(np.cumsum(shares) * total).astype(int)
    steps = np.diff(ends, prepend=0)
    if min(steps) < 1:
        raise InputError(
            f"steps is {total}, which leaves none for one of {len(stages)} stages; set it to"
            f" {max(len(stages), int(np.ceil(1 / min(shares))))} or more"
        )
    params = tracing.abstract_variables(model, image_size)["params"]
    each, caches = [], []
    for number, (stage, count) in enumerate(zip(stages, steps, strict=True)):
        own = replace(
            opt,
            steps=int(count),
            lr=opt.lr if stage.lr is None else stage.lr,
            augment=stage.augment or opt.augment,
            views=None if stage.augment == "none" else opt.views,
            seed=_folded(opt.seed, number),
        )
        each.append(own)
        caches.append(stage.plan.frozen_prefix(params) > 0 and not own.images_change)
    if any(caches) and opt.cache in ("memory", "disk"):
        return [
            own if caches_it else replace(own, cache="auto")
            for own, caches_it in zip(each, caches, strict=True)
        ]
    return each


def _folded(seed: int, number: int) -> int:
    """The seed of the stage after `number` others; the first has the run's own."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0]) if number else seed


def _finished(
    folder: Path,
    model: Model,
    stage: Stage,
    preprocessing: Preprocessing,
    opt: TrainingOptions,
    tasks: Mapping[str, int] | None,
    train: Source,
    val: Source | None,
    accept_changes: bool,
) -> Result | None:
    """What an earlier stage left, if it is done, and whole, and what is to be run.

    Raises:
      InputError: if another stage was run there.
    """
    result = folder / "result.json"
    if not processes.first_says(result.exists):
        return None

    def read() -> list[Any]:
        try:
            summary = parse_json(result.read_bytes())
            steps = summary.get("stages", [summary])[-1]["steps"]  # its own
            return [summary, steps, read_rows(folder / "metrics.jsonl")]
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"cannot read {result} ({error}); restore it, or train anew") from None

    with locked(folder):
        summary, steps, rows = processes.first_says(read)
        usable = newest_usable(folder)
        if usable is None or usable[0].step != steps:  # damaged since: `fit` mends that
            return None
        last, best = usable
        cached_groups = last.extra["made_by"]["config"]["cached_groups"]
        made = what_made(
            model, stage.plan, preprocessing, opt, tasks, cached_groups, train, val, None
        )
        changes = accepted_changes(last, made, folder, accept_changes)
    abstract = tracing.abstract_variables(model, preprocessing.image_size)
    weights = restore_like(abstract, last.variables)
    return Result(
        summary | ({"changes": changes} if changes else {}),
        restore_like(abstract, best.variables) if best else weights,
        rows,
        weights,
    )
