"""What a workdir says of its run: `config.json`, `classes.json` and `result.json`."""

import json
import logging
import types
from pathlib import Path
from typing import Any

import ml_collections

from tljax import config as config_lib
from tljax import data as data_lib
from tljax.data import Task, joint_class_names
from tljax.errors import InputError
from tljax.files import parse_json
from tljax.runs.workdir import (
    write_atomically,
)
from tljax.training.stages import has_begun

_log = logging.getLogger("tljax")


_CLASSES = "classes.json"  # in a workdir: the names of the classes, in the order of the logits


def is_begun(workdir: Path) -> bool:
    """Whether a run has begun in this workdir."""
    return has_begun(workdir) and (workdir / "config.json").exists()


def read_result(workdir: Path) -> dict[str, Any] | None:
    """The fields of `result.json`; None while the run is not done."""
    content: dict[str, Any] | None = _read_if_there(workdir / "result.json", dict)
    return content


def read_config(workdir: Path) -> ml_collections.ConfigDict:
    """The resolved config of a workdir.

    Raises:
      InputError: if it is not a workdir.
    """
    path = workdir / "config.json"
    try:
        config = ml_collections.ConfigDict(parse_json(path.read_bytes()))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"'{workdir}' is not a workdir of tljax: it holds no config.json; give the folder that"
            " `tljax train --workdir` wrote"
        ) from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"cannot read {path} ({error}); restore it, or train anew") from None
    return config_lib.complete(config, str(path))


def keep_config(workdir: Path, tasks: tuple[Task, ...], config: ml_collections.ConfigDict) -> None:
    """Writes down the config, and which logit is which class, as a folder of images may change.

    A list of names, or, of several tasks, a list for each by its name.
    """
    data = tasks[0].name if len(tasks) == 1 else ""
    before = _kept_tasks(workdir, data) if has_begun(workdir) else None
    _check_classes(
        joint_class_names(tasks), joint_class_names(before or tasks), "the data", workdir
    )
    content: Any = tasks[0].class_names
    if len(tasks) > 1:
        content = {task.name: task.class_names for task in tasks}
    write_atomically(workdir / _CLASSES, json.dumps(content) + "\n")
    write_atomically(workdir / "config.json", config.to_json(indent=2) + "\n")


def tasks_of(workdir: Path) -> tuple[Task, ...]:
    """The tasks that a workdir was trained on, or is to be; a folder of images may change later.

    Raises:
      InputError: if it is not a workdir.
    """
    config = read_config(workdir)
    return _kept_tasks(workdir, config.data) or data_lib.read_tasks(config.data, config.data_dir)


def _kept_tasks(workdir: Path, data: str) -> tuple[Task, ...] | None:
    """The tasks that a workdir was trained on, in the order of its logits, if it says so.

    Args:
      workdir: of a run.
      data: the name of its task, if it has one.
    """
    content = _read_if_there(workdir / _CLASSES, list | dict)
    if isinstance(content, list):
        content = {data: content}
    return tuple(Task(name, tuple(names)) for name, names in content.items()) if content else None


def _check_classes(
    names: tuple[str, ...], trained: tuple[str, ...], data: str, workdir: Path
) -> None:
    if names != trained:
        raise InputError(
            f"'{data}' has the classes {_shorten(names)}, but '{workdir}' was trained on"
            f" {_shorten(trained)}; give data of the same classes"
        )


def _read_if_there(path: Path, kind: type | types.UnionType) -> Any:
    """The content of a JSON file of a workdir, which has to be of a kind; None if there is none."""
    try:
        content = parse_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path} ({error}); restore it, or train anew") from None
    if not isinstance(content, kind):
        raise InputError(f"{path} is not what a run of tljax writes; restore it, or train anew")
    return content


def _shorten(names: tuple[str, ...]) -> str:
    return ", ".join(names[:6]) + (f", ... ({len(names)} in all)" if len(names) > 6 else "")
