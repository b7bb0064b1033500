"""What a run is made of, and whether it may go on with what there is now."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tljax.data import Preprocessing, Source, fingerprint
from tljax.devices import processes
from tljax.errors import InputError
from tljax.models import Model
from tljax.runs.checkpoints import Checkpoint
from tljax.runs.environment import environment
from tljax.runs.workdir import differences, refuse_changes
from tljax.training.options import HARMLESS, TrainingOptions
from tljax.transfer import TransferPlan

_log = logging.getLogger("tljax")


def what_made(
    model: Model,
    plan: TransferPlan,
    preprocessing: Preprocessing,
    opt: TrainingOptions,
    tasks: Mapping[str, int] | None,
    cached_groups: int,
    *sources: Source | None,
) -> dict[str, Any]:
    """All that a run's numbers depend on, JSON: what must be the same when it goes on."""
    made_by = {
        "config": {
            **asdict(opt),
            "cached_groups": cached_groups,
            **({"tasks": list(tasks.items())} if tasks else {}),
            "model": repr(model),
            "plan": plan.to_json(),
            "preprocessing": asdict(preprocessing),
        },
        "data": {
            split: None if source is None else fingerprint(source)
            for split, source in zip(("train", "val", "test"), sources, strict=True)
        },
        "environment": {**environment(), "processes": processes.count(), "mesh": opt.mesh},
    }
    del made_by["config"]["mesh"]  # may change as devices do, if that is accepted
    return json.loads(json.dumps(made_by))


def check_same(made_by: Mapping[str, Any]) -> None:
    """Raises InputError unless all processes of a job are about to run the same."""
    others = [
        {**made, "environment": {**made["environment"], "host": None}}
        for made in processes.all_say(made_by)
    ]
    for number, other in enumerate(others):
        if differing := differences(others[0], other):
            raise InputError(
                f"process {number} is about to run something else than process 0"
                f" ({'; '.join(differing.values())}); give all of them the same config, data and"
                " code"
            )


def accepted_changes(
    resumed: Checkpoint, now: Mapping[str, Any], workdir: Path, accept_environment: bool
) -> list[str]:
    """What is not as it was when the run began, in words, if the run may go on all the same.

    Raises:
      InputError: if it may not.
    """
    before = resumed.extra["made_by"]
    config = differences(before["config"], now["config"])
    for name in HARMLESS:
        if change := config.pop(name, None):
            _log.warning("%s, which changes no number of the result", change)
    remedy = "use a new workdir, or the config it was made with"
    refuse_changes("config", config, workdir, remedy)
    changed_splits = differences(before["data"], now["data"])
    if changed_splits:
        raise InputError(
            f"the {' and '.join(changed_splits)} images are not those that the run in '{workdir}'"
            " began with; restore them, or use a new workdir"
        )
    environment = differences(before["environment"], now["environment"])
    if not accept_environment:
        remedy = (
            "restore it, use a new workdir, or pass --accept_changes, and the result names them"
        )
        refuse_changes("environment", environment, workdir, remedy)
    new = [change for change in environment.values() if change not in resumed.extra["changes"]]
    for change in new:
        _log.warning("%s; the result may differ from that of a run without the change", change)
    return [*resumed.extra["changes"], *new]
