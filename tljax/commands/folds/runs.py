"""Runs the folds of a cross-validation, each in a workdir of its own, `W/fold_0`, `W/fold_1`, ...

They are the runs of a sweep over the field `fold`: finished ones are skipped, and an interrupted
one resumes.
"""

from collections.abc import Sequence
from pathlib import Path

import ml_collections

from tljax import experiment
from tljax.commands.folds.out_of_fold import collect, write_answers
from tljax.commands.folds.table import print_folds, summarise
from tljax.commands.sweep.listing import PlannedRun
from tljax.commands.sweep.runs import check_configs, refuse_failed, run_all
from tljax.commands.sweep.table import Outcomes
from tljax.config import kept_by_rule
from tljax.data import fingerprint, groups_of
from tljax.errors import InputError
from tljax.experiment import Folds
from tljax.experiment.build import data_seed
from tljax.runs.workdir import make_workdir

_DEFAULT = 5
_MOST = 1_000  # folds: more are a slip rather than a plan


def run_folds(
    config: ml_collections.ConfigDict,
    workdir: Path,
    count: int | None = None,
    *,
    shard: tuple[int, int] = (0, 1),
    accept_changes: bool = False,
    stop_at_errors: bool = False,
) -> None:
    """Runs all folds, or one shard of them; then writes and prints what all finished folds say.

    Args:
      config: of every fold; may be unresolved.
      workdir: gets `fold_i/`, `folds.json` and `out_of_fold.csv`.
      count: number of folds; None: as the config says, else 5.
      shard: (i, n): every n-th fold, beginning with fold i.
      accept_changes: as in `tljax train`, for each fold.
      stop_at_errors: whether to raise an unexpected error instead of recording it.

    Raises:
      InputError: if the config or the data is wrong, or the workdir holds other folds, before
        anything is written; or, at the end, if folds failed.
    """
    runs = _list_runs(config, config.folds or _DEFAULT if count is None else count)
    mine = runs[shard[0] :: shard[1]]
    folds = _settle_folds(runs, workdir)
    make_workdir(workdir)
    experiment.write_folds(workdir, folds)
    outcomes = Outcomes()
    run_all(
        mine,
        len(runs),
        workdir,
        outcomes,
        accept_changes=accept_changes,
        stop_at_errors=stop_at_errors,
    )
    done = collect(workdir, folds)
    if done:
        write_answers(workdir / "out_of_fold.csv", done)
        summary = summarise(folds, done)
        experiment.write_folds(workdir, folds, summary)
        print_folds(folds, done, summary, workdir / "out_of_fold.csv")
    refuse_failed(outcomes, len(mine))


def _list_runs(config: ml_collections.ConfigDict, count: int) -> list[PlannedRun]:
    """The run of each fold; InputError for a number of folds that there cannot be."""
    if not 2 <= count <= _MOST:
        raise InputError(f"folds is {count}; set it from 2 to {_MOST:,}")
    if config.fold is not None:
        raise InputError(
            f"fold is {config.fold}, but `tljax folds` runs every fold; leave it out, or run one"
            " with `tljax train`"
        )
    runs = []
    for number in range(count):
        values = {"folds": count, "fold": number}
        own = config.copy_and_resolve_references()
        own.update(values)
        runs.append(PlannedRun(f"fold_{number}", values, kept_by_rule(own, values)))
    return runs


def _settle_folds(runs: Sequence[PlannedRun], workdir: Path) -> Folds:
    """Which images are in which fold; checks everything that can be before the first run.

    As long as a fold has not begun, the images must be those that the others began with: otherwise
    an image could be in two folds, or in none.
    """
    if experiment.is_workdir(workdir):
        raise InputError(f"'{workdir}' is the workdir of one run; choose another --workdir")
    before, seed = experiment.read_folds(workdir), data_seed(runs[0].config)
    remedy = "use a new workdir, or the config it was made with"
    if before is not None and before.folds != len(runs):
        raise InputError(
            f"'{workdir}' holds {before.folds} folds, and {len(runs)} are asked for; {remedy}"
        )
    if before is not None and before.data_seed != seed:
        raise InputError(
            f"the folds in '{workdir}' were drawn with data_seed {before.data_seed}, which is"
            f" {seed} now; {remedy}"
        )
    configs = check_configs(runs, workdir)
    splits = [experiment.kept_splits(workdir / run.name) for run in runs]
    if before is not None and None not in splits:
        return before
    sizes, images, grouped = [], [], False
    for config, kept in zip(configs, splits, strict=True):
        test = experiment.load_data(config, kept).test
        assert test is not None  # its fold
        sizes.append(len(test))
        images.append(fingerprint(test))
        grouped = groups_of(test) is not None
    found = Folds(len(runs), seed, tuple(sizes), tuple(images), grouped)
    if before is not None and found != before:
        changed = [
            run.name for run, a, b in zip(runs, found.images, before.images, strict=True) if a != b
        ]
        raise InputError(
            f"the images of {', '.join(changed)} in '{workdir}' are not those that the folds began"
            " with, so that an image could be in two folds or in none; restore the data, or use a"
            " new workdir"
        )
    return found
