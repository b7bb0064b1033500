"""Reads a run's result, classes and rows of metrics from its workdir; writes its classes.

A run in stages has a workdir for each stage: `W/stages/i`, and W itself for the last one, so that W
holds the result of the whole run.
"""

import json
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tljax.data import Task, joint_class_names
from tljax.errors import InputError
from tljax.files import parse_json
from tljax.runs.checkpoints import has_checkpoint
from tljax.runs.metrics import read_rows
from tljax.runs.workdir import write_atomically

_CLASSES = "classes.json"  # the names of the classes, in the order of the logits
_STAGES = "stages"


def has_begun(workdir: Path | None) -> bool:
    """Whether a run, in stages or not, has a checkpoint in this workdir."""
    return workdir is not None and (
        has_checkpoint(workdir) or has_checkpoint(stage_workdir(workdir, 1, 2))
    )


def stage_workdir(workdir: Path, number: int, count: int) -> Path:
    """The workdir of stage `number`, from 1, of `count` stages."""
    return workdir if number == count else workdir / _STAGES / str(number)


def all_rows(workdir: Path) -> list[dict[str, Any]]:
    """Reads the rows of metrics of a finished run, earlier stages first.

    Raises:
      InputError: if they cannot be read.
    """
    folders = [path for path in (workdir / _STAGES).glob("*") if path.name.isdecimal()]
    in_order = sorted(folders, key=lambda path: int(path.name))
    return [row for path in (*in_order, workdir) for row in read_rows(path / "metrics.jsonl")]


def read_result(workdir: Path) -> dict[str, Any] | None:
    """Reads `result.json`; None if the run is not done."""
    content: dict[str, Any] | None = _read_if_there(workdir / "result.json", dict)
    return content


def read_tasks(workdir: Path, data: str) -> tuple[Task, ...] | None:
    """Reads the tasks that a run was trained on, in the order of its logits.

    Args:
      workdir: the run's workdir.
      data: the name to give the task of a run with a single one.

    Returns:
      The tasks; None if the workdir has no `classes.json`.
    """
    path = workdir / _CLASSES
    content = _read_if_there(path, list | dict)
    if isinstance(content, list):
        content = {data: content}
    if content and isinstance(content.get("kind"), str):
        return (_task_of(data, content, path),)
    return tuple(Task(name, tuple(names)) for name, names in content.items()) if content else None


def _task_of(name: str, content: dict[str, Any], path: Path) -> Task:
    """The task of labels of another kind than classes, as `write_tasks` wrote it."""
    try:
        scale = content.get("scale")
        known = None if scale is None else (tuple(scale[0]), tuple(scale[1]))
        return Task(name, tuple(content["names"]), content["kind"], known)
    except (KeyError, TypeError, IndexError) as error:
        raise InputError(f"cannot read {path} ({error}); restore it, or train anew") from None


def write_tasks(workdir: Path, tasks: tuple[Task, ...]) -> None:
    """Writes the class of each logit to `classes.json`, because a folder of images may change.

    The file holds a list of class names or, for several tasks, one list for each task by name; of
    other kinds of labels their kind, names and scale.

    Raises:
      InputError: if the run in the workdir began with other classes.
    """
    data = tasks[0].name if len(tasks) == 1 else ""
    before = read_tasks(workdir, data) if has_begun(workdir) else None
    check_classes(joint_class_names(tasks), joint_class_names(before or tasks), "the data", workdir)
    content: Any = tasks[0].class_names
    if tasks[0].kind != "classes":
        (task,) = tasks
        content = {"kind": task.kind, "names": task.class_names, "scale": task.scale}
    if len(tasks) > 1:
        content = {task.name: task.class_names for task in tasks}
    write_atomically(workdir / _CLASSES, json.dumps(content) + "\n")


def check_classes(
    names: tuple[str, ...], trained: tuple[str, ...], data: str, workdir: Path
) -> None:
    """Raises InputError unless the data have the classes that the run was trained on."""
    if names != trained:
        raise InputError(
            f"'{data}' has the classes {shorten(names)}, but '{workdir}' was trained on"
            f" {shorten(trained)}; give data of the same classes"
        )


def shorten(names: Sequence[str]) -> str:
    """Joins names for a message; of more than six, the first six and the number of all."""
    return ", ".join(names[:6]) + (f", ... ({len(names)} in all)" if len(names) > 6 else "")


def _read_if_there(path: Path, kind: type | types.UnionType) -> Any:
    """Reads a JSON file, whose value must be of `kind`; None if there is no file."""
    try:
        content = parse_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path} ({error}); restore it, or train anew") from None
    if not isinstance(content, kind):
        raise InputError(f"{path} was not written by a run of tljax; restore it, or train anew")
    return content
