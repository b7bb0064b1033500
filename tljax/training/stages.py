"""Runs in stages: one after the other, each from the weights that the one before has left.

Every stage is a run with its own workdir (see `tljax.runs.record`), optimizer state, schedule,
warm-up and data order. A killed run resumes in the stage where it was; finished stages are read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tljax.console import console
from tljax.data import Preprocessing
from tljax.devices import processes
from tljax.errors import InputError
from tljax.files import parse_json
from tljax.models import Model
from tljax.runs.checkpoints import restore_like
from tljax.runs.metrics import read_rows
from tljax.runs.record import stage_workdir
from tljax.runs.resume import newest_usable
from tljax.runs.workdir import locked
from tljax.training.fit import fit_setup, make_setup
from tljax.training.make_run import Pretrained
from tljax.training.options import TrainingOptions
from tljax.training.provenance import accepted_changes, what_made
from tljax.training.result import Result
from tljax.training.setup import Setup
from tljax.transfer import Stage


def fit_stages(
    model: Model,
    variables: Pretrained,
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
    **options: Any,
) -> Result:
    """Trains under the plans of `stages` one after the other; see `tljax.transfer.recipes`.

        stages = tljax.lp_ft(tljax.fine_tune(model.groups, backbone=1.0), probe_share=0.5)
        result = tljax.fit_stages(model, variables, stages, train, val, test, steps=200, lr=0.01)

    `steps` or `epochs` are those of all stages together. `lr`, `augment` and `cache` hold for the
    stages that do not set their own, or have something to cache. `patience` counts in each stage,
    and may end it early. `l2` is of the first stage's head, and `wise_ft` chooses in the last one,
    on the line from the weights that this stage starts from. `test` is touched once, after the
    last stage.

    Args:
      model, train, val, test, preprocessing, tasks, about, accept_changes, progress, **options: as
        of `fit`.
      variables: what the first stage starts from, as of `fit`.
      stages: in their order.
      workdir: the last stage's, and, in its `stages`, those of the others; or None.
      profile: whether to trace a few steps of the last stage.

    Returns:
      The last stage's result. Its `best_step` and rows count that stage's own steps; `steps`,
      `examples_seen` and `wall_seconds` are of all stages, and `stages` has an entry for each.
      `plan` says where the groups started in the first one and what moved in the last.

    Raises:
      InputError, Preempted, Interrupted: as `fit`; or for stages that cannot share the steps.
    """
    if not stages:
        raise InputError("stages is empty; pass at least one stage")
    whole = make_setup(
        model,
        stages[-1].plan,
        TrainingOptions(**options),
        preprocessing,
        tasks,
        train,
        val,
        test,
    )
    return fit_stage_setups(
        checked_stages(whole, stages),
        stages,
        variables,
        None if workdir is None else Path(workdir),
        about=about,
        accept_changes=accept_changes,
        progress=progress,
        profile=profile,
    )


def fit_stage_setups(
    setups: Sequence[Setup],
    stages: Sequence[Stage],
    pretrained: Pretrained,
    workdir: Path | None,
    *,
    about: Mapping[str, Any] | None = None,
    accept_changes: bool = False,
    progress: bool = True,
    profile: bool = False,
) -> Result:
    """As `fit_stages`, of setups by `checked_stages`."""
    history: list[dict[str, Any]] = []
    before: dict[str, Any] | None = None
    result: Result | None = None
    with locked(workdir):
        for number, (stage, setup) in enumerate(zip(stages, setups, strict=True), 1):
            is_last = number == len(stages)
            folder = None if workdir is None else stage_workdir(workdir, number, len(stages))
            result = None
            if folder is not None and not is_last:
                result = _read_finished(folder, setup, accept_changes)
            if result is None:
                if progress and processes.is_first():
                    steps = setup.total_steps
                    console.print(f"stage {number} of {len(stages)}: {steps} steps")
                result = fit_setup(
                    setup,
                    pretrained,
                    folder,
                    about=about if is_last else None,
                    before=before,
                    accept_changes=accept_changes,
                    progress=progress,
                    profile=profile and is_last,
                )
            pretrained = result.variables if stage.carries == "best" else result.last
            before = result.summary
            history += result.history
    assert result is not None  # there is a stage
    return replace(result, history=history)


def checked_stages(whole: Setup, stages: Sequence[Stage]) -> list[Setup]:
    """The setup of each stage; InputError if one could not begin: before anything is written.

    Args:
      whole: of all stages together; its plan does not count.
      stages: in their order.
    """
    for number, stage in enumerate(stages[1:], 2):
        if set(stage.plan.init) != {"carried"}:
            raise InputError(
                f"stage {number} of {len(stages)} would begin anew, and lose what the one before it"
                " learnt; pass its plan's `carried`, e.g. tljax.fine_tune(groups).carried"
            )
    setups = []
    for number, (stage, options) in enumerate(zip(stages, _options(whole, stages), strict=True), 1):
        test = whole.test if number == len(stages) else None
        setup = replace(whole, plan=stage.plan, options=options, test=test)
        try:
            replace(setup, test=whole.test).check()
        except InputError as error:
            raise InputError(f"stage {number} of {len(stages)}: {error}") from None
        setups.append(setup)
    return setups


def _options(whole: Setup, stages: Sequence[Stage]) -> list[TrainingOptions]:
    """Each stage's options: its share of the steps, its seed, and what the stage itself sets.

    A cache that is asked for is used by the stages that have something to cache. A head is solved
    in the first stage alone, since the others carry theirs; `wise_ft` is for the last one alone: on
    the way a stage would be pulled back to where it started.
    """
    options = whole.options
    if options.solves and len(stages) > 1:
        raise InputError(
            f"optimizer is lbfgs, which is one step, but there are {len(stages)} stages; set"
            " optimizer to adamw, or stages to None"
        )
    shares = [stage.share for stage in stages]
    if not shares or min(shares) <= 0 or not np.isclose(sum(shares), 1):
        raise InputError(f"the stages' shares of the steps are {shares}; make them add up to 1")
    total = whole.total_steps
    ends = np.rint(np.cumsum(shares) * total).astype(int)
    steps = np.diff(ends, prepend=0)
    if min(steps) < 1:
        raise InputError(
            f"steps is {total}, which leaves none for one of {len(stages)} stages; set it to"
            f" {max(len(stages), int(np.ceil(1 / min(shares))))} or more"
        )
    params = whole.abstract_variables["params"]
    each, caches = [], []
    for number, (stage, count) in enumerate(zip(stages, steps, strict=True)):
        is_last = number == len(stages) - 1
        own = replace(
            options,
            steps=int(count),
            l2=None if number else options.l2,
            wise_ft=options.wise_ft and is_last,
            wise_ft_alpha=options.wise_ft_alpha if is_last else None,
            lr=options.lr if stage.lr is None else stage.lr,
            augment=stage.augment or options.augment,
            views=None if stage.augment == "none" else options.views,
            seed=_stage_seed(options.seed, number),
        )
        each.append(own)
        caches.append(stage.plan.frozen_prefix(params) > 0 and not own.images_change)
    if any(caches) and options.cache in ("memory", "disk"):
        return [
            own if caches_it else replace(own, cache="auto")
            for own, caches_it in zip(each, caches, strict=True)
        ]
    return each


def _stage_seed(seed: int, number: int) -> int:
    """The seed of the stage after `number` others; the first stage has the run's own."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0]) if number else seed


def _read_finished(folder: Path, setup: Setup, accept_changes: bool) -> Result | None:
    """The result of an earlier stage; None if it is not done, or no longer whole.

    Raises:
      InputError: if another stage was run there.
    """
    result = folder / "result.json"
    if not processes.call_in_first(result.exists):
        return None

    def read() -> list[Any]:
        try:
            summary = parse_json(result.read_bytes())
            steps = summary.get("stages", [summary])[-1]["steps"]  # its own
            return [summary, steps, read_rows(folder / "metrics.jsonl")]
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"cannot read {result} ({error}); restore it, or train anew") from None

    with locked(folder):
        summary, steps, rows = processes.call_in_first(read)
        usable = newest_usable(folder)
        if usable is None or usable[0].step != steps:  # damaged since: the stage is run again
            return None
        last, best = usable
        assert last.bookkeeping is not None
        made = what_made(setup, last.bookkeeping.cached_groups)
        changes = accepted_changes(last.bookkeeping, made, folder, accept_changes)
    abstract = setup.abstract_variables
    weights = restore_like(abstract, last.variables)
    return Result(
        summary | ({"changes": changes} if changes else {}),
        restore_like(abstract, best.variables) if best else weights,
        rows,
        weights,
    )
