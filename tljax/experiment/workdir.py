"""What a workdir keeps when a run begins: its config, its classes, and which image is for what."""

import json
from pathlib import Path
from typing import Any

import ml_collections

from tljax import config as configs
from tljax import weights
from tljax.data import Dataset, Kept, Task, kept, read_class_names
from tljax.data import read_tasks as read_tasks_of_data
from tljax.data.datasets import folders
from tljax.errors import InputError, redacted
from tljax.files import parse_json
from tljax.runs.record import has_begun, read_tasks, shorten, write_tasks
from tljax.runs.workdir import write_atomically

_FILE = "config.json"
_SPLITS = "splits.json"
FOLDS = "folds.json"  # in a workdir of `tljax folds`, which holds a workdir for each fold
_MARKS = {"init_from", "scenario", "statistics"}  # fields that other software's config.json lacks
# Fields that older workdirs lack, as their runs had them.
_NEW_FIELDS = {
    "accept_source": False,
    "asked": (),
    "channels": None,
    "deep_images": "full_range",
    "fold": None,
    "folds": None,
    "hyperrule_chose": (),
    "init_key": None,
    "l2": None,
    "on_nan": "fail",
    "regression_loss": "l2",
    "select_by": None,
    "trial_lr": (),
    "tried": (),
    "wise_ft": False,
    "wise_ft_alpha": None,
}


def is_begun(workdir: Path) -> bool:
    """Whether a run has begun in this workdir."""
    return has_begun(workdir) and (workdir / _FILE).exists()


def is_folds(workdir: Path) -> bool:
    """Whether a folder is a workdir of `tljax folds`."""
    return (workdir / FOLDS).is_file()


def refuse_folds(workdir: Path) -> None:
    """Raises InputError for a workdir of `tljax folds`, where that of a run is asked for."""
    if is_folds(workdir):
        raise InputError(
            f"'{workdir}' holds the folds of `tljax folds`; give one of them, e.g."
            f" '{workdir / 'fold_0'}'"
        ) from None


def is_workdir(folder: Path) -> bool:
    """Whether a folder is a run's, perhaps a damaged one, and no folder of other software."""
    try:
        config = parse_json((folder / _FILE).read_bytes())
    except (OSError, ValueError):
        return (folder / "classes.json").is_file()
    return isinstance(config, dict) and config.keys() >= _MARKS


def check_not_foreign(workdir: Path) -> None:
    """Raises InputError if the folder is no run's: of another program, or of `tljax folds`."""
    if is_folds(workdir):
        raise InputError(f"'{workdir}' holds the folds of `tljax folds`; choose another --workdir")
    if (workdir / _FILE).is_file() and not is_workdir(workdir):
        raise InputError(
            f"'{workdir}' holds a config.json that tljax did not write; choose another --workdir"
        )


def read_config(workdir: Path) -> ml_collections.ConfigDict:
    """The resolved config of a workdir; secrets in `init_from` are hidden.

    Raises:
      InputError: if it is not a workdir.
    """
    path = workdir / _FILE
    try:
        content = parse_json(path.read_bytes())
        if isinstance(content, dict) and not content.keys() >= _MARKS:
            use = " (its weights can be used with init_from)"
            raise InputError(
                f"'{workdir}' is not a workdir of tljax: its config.json is another program's"
                f"{use if weights.holds_weights(workdir) else ''}; give the folder that"
                " `tljax train --workdir` wrote"
            )
        config = ml_collections.ConfigDict(_NEW_FIELDS | content)
    except (FileNotFoundError, NotADirectoryError):
        refuse_folds(workdir)
        raise InputError(
            f"'{workdir}' is not a workdir of tljax: it holds no config.json; give the folder that"
            " `tljax train --workdir` wrote"
        ) from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"cannot read {path} ({error}); restore it, or train anew") from None
    remedy = "restore it, or train anew: another version of tljax may have written it"
    return _without_secrets(configs.complete(config, str(path), remedy))


def _without_secrets(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    config = config.copy_and_resolve_references()
    if config.init_from is not None:
        config.init_from = redacted(config.init_from)
    return config


def keep_config(
    workdir: Path,
    tasks: tuple[Task, ...],
    config: ml_collections.ConfigDict,
    dataset: Dataset | None,
) -> None:
    """Writes the resolved config without secrets, the class of each logit, and the splits.

    Warns of images that are in two splits; see `tljax.data.kept.warn_of_copies`.

    Args:
      workdir: of the run.
      tasks: of the run.
      config: resolved.
      dataset: of a run that begins; None: one resumes, and its splits are kept already.

    Raises:
      InputError: if the run in the workdir began with other classes.
    """
    write_tasks(workdir, tasks)
    if dataset is not None:
        described = kept.describe(dataset)
        kept.warn_of_copies(dataset, described)
        write_atomically(workdir / _SPLITS, json.dumps(described) + "\n")
    write_atomically(workdir / _FILE, _without_secrets(config).to_json(indent=2) + "\n")


def read_splits(workdir: Path) -> list[Kept] | None:
    """What `tljax.data.kept` knows of each data set of a run; None if the workdir keeps none.

    Raises:
      InputError: if it cannot be read.
    """
    path = workdir / _SPLITS
    try:
        content: Any = parse_json(path.read_bytes())
        if not isinstance(content, list) or not all(kept.is_kept(one) for one in content):
            raise ValueError("it was not written by a run of tljax")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path} ({error}); restore it, or train anew") from None
    return content


def refuse_inside_data(workdir: Path, data: str) -> None:
    """Raises InputError if a new workdir would lie in a folder of images, as a class of them."""
    for root in folders(data):
        if workdir.resolve().is_relative_to(root.resolve()):
            raise InputError(
                f"the workdir '{workdir}' is inside the data folder '{root}', where it would be"
                " taken for images; choose a --workdir outside it"
            )


def tasks_of(workdir: Path) -> tuple[Task, ...]:
    """The tasks that a workdir was trained on, or will be.

    Raises:
      InputError: if it is not a workdir.
    """
    config = read_config(workdir)
    return read_tasks(workdir, config.data) or read_tasks_of_data(config.data, config.data_dir)


def task_for(workdir: Path, data: str, data_dir: str | None = None) -> str | None:
    """The run's task that has the classes of other data; None: the run has a single task.

    Raises:
      InputError: if none has these classes, or several have them.
    """
    tasks, classes = tasks_of(workdir), read_class_names(data, data_dir)
    if len(tasks) == 1:
        return None
    fitting = [task.name for task in tasks if task.class_names == classes]
    if len(fitting) != 1:
        why = f"those of {' and '.join(fitting)}" if fitting else "those of none of its tasks"
        raise InputError(
            f"'{data}' has the classes {shorten(classes)}, {why} in '{workdir}'; choose one of"
            f" {', '.join(task.name for task in tasks)} with --task, or other data"
        )
    return fitting[0]
