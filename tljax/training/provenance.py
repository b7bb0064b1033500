"""What a run's numbers depend on, and whether it may resume with what there is now."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tljax.data import fingerprint
from tljax.devices import processes
from tljax.errors import InputError
from tljax.runs.checkpoints import Bookkeeping
from tljax.runs.environment import environment
from tljax.runs.workdir import differences, refuse_changes
from tljax.training.options import HARMLESS
from tljax.training.setup import Setup

_log = logging.getLogger("tljax")

# Options that checkpoints of older versions lack, as their runs had them.
_NEW_OPTIONS = {
    "l2": None,
    "regression_loss": "l2",
    "select_by": None,
    "wise_ft": False,
    "wise_ft_alpha": None,
}


def what_made(setup: Setup, cached_groups: int) -> dict[str, Any]:
    """Everything that a run's numbers depend on, JSON: what must not change when it resumes.

    Args:
      setup: of the run.
      cached_groups: number of leading groups whose output is cached.
    """
    made_by = {
        "config": {
            **asdict(setup.options),
            "cached_groups": cached_groups,
            **({"tasks": list(setup.tasks.items())} if setup.tasks else {}),
            "model": repr(setup.model),
            "plan": setup.plan.to_json(),
            "preprocessing": asdict(setup.preprocessing),
        },
        "data": {
            split: None if source is None else fingerprint(source)
            for split, source in (
                ("train", setup.train),
                ("val", setup.val),
                ("test", setup.test),
            )
        },
        "environment": {
            **environment(),
            "processes": processes.count(),
            "mesh": setup.options.mesh,
        },
    }
    del made_by["config"]["mesh"]  # counts as environment: may change as the devices do
    return json.loads(json.dumps(made_by))


def check_same(made_by: Mapping[str, Any]) -> None:
    """Raises InputError unless all processes of a job are about to run the same."""
    others = [
        {**made, "environment": {**made["environment"], "host": None}}
        for made in processes.gather_values(made_by)
    ]
    for number, other in enumerate(others):
        if differing := differences(others[0], other):
            raise InputError(
                f"process {number} is about to run something else than process 0"
                f" ({'; '.join(differing.values())}); give all of them the same config, data and"
                " code"
            )


def accepted_changes(
    saved: Bookkeeping, now: Mapping[str, Any], workdir: Path, accept_environment: bool
) -> list[str]:
    """What has changed since the run began, in words, if the run may resume all the same.

    Args:
      saved: of the checkpoint to resume from.
      now: `what_made` the run today.
      workdir: of the run.
      accept_environment: whether versions, code and devices may have changed.

    Raises:
      InputError: if it may not resume.
    """
    before = saved.made_by
    config = differences(_NEW_OPTIONS | before["config"], now["config"])
    for name in HARMLESS:
        change = config.pop(name, None)
        if change and name in before["config"]:  # else an older version, without it, began the run
            _log.warning("%s, which changes no number of the result", change)
    remedy = "use a new workdir, or the config it was made with"
    refuse_changes("config", config, workdir, remedy)
    changed_splits = differences(before["data"], now["data"])
    if changed_splits:
        raise InputError(
            f"the {' and '.join(changed_splits)} images are not those that the run in '{workdir}'"
            " began with; restore them, or use a new workdir"
        )
    begun_in = dict(before["environment"])
    if "settings" not in begun_in:  # an older version of tljax saved this checkpoint
        _log.warning(
            "the run in '%s' began with a version that did not keep XLA_FLAGS and JAX's settings,"
            " so they are not compared",
            workdir,
        )
        begun_in["settings"] = now["environment"]["settings"]
    environment = differences(begun_in, now["environment"])
    if not accept_environment:
        remedy = (
            "restore it, use a new workdir, or pass --accept_changes, and the result names them"
        )
        refuse_changes("environment", environment, workdir, remedy)
    new = [change for change in environment.values() if change not in saved.changes]
    for change in new:
        _log.warning("%s; the result may differ from that of a run without the change", change)
    return [*saved.changes, *new]
