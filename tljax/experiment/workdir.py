"""The config of a workdir: kept when a run begins, and compared when it resumes."""

from pathlib import Path

import ml_collections

from tljax import config as configs
from tljax.data import Task, read_class_names
from tljax.data import read_tasks as read_tasks_of_data
from tljax.errors import InputError
from tljax.files import parse_json
from tljax.runs.record import has_begun, read_tasks, shorten, write_tasks
from tljax.runs.workdir import write_atomically

_FILE = "config.json"
_ADDED = {"deep_images": "full_range"}  # fields that older runs lack, as these runs had them


def is_begun(workdir: Path) -> bool:
    """Whether a run has begun in this workdir."""
    return has_begun(workdir) and (workdir / _FILE).exists()


def read_config(workdir: Path) -> ml_collections.ConfigDict:
    """The resolved config of a workdir.

    Raises:
      InputError: if it is not a workdir.
    """
    path = workdir / _FILE
    try:
        config = ml_collections.ConfigDict({**_ADDED, **parse_json(path.read_bytes())})
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"'{workdir}' is not a workdir of tljax: it holds no config.json; give the folder that"
            " `tljax train --workdir` wrote"
        ) from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"cannot read {path} ({error}); restore it, or train anew") from None
    return configs.complete(config, str(path))


def keep_config(workdir: Path, tasks: tuple[Task, ...], config: ml_collections.ConfigDict) -> None:
    """Writes the resolved config, and which logit is which class.

    Raises:
      InputError: if the run in the workdir began with other classes.
    """
    write_tasks(workdir, tasks)
    write_atomically(workdir / _FILE, config.to_json(indent=2) + "\n")


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
