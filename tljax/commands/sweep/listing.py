"""The runs of a sweep: what a config file's `sweep()` yields, and the name of each."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_collections

from tljax.config import kept_by_rule, load_sweep, overridden
from tljax.errors import redacted

_LONGEST_NAME = 120
_PLAIN = re.compile(r"[a-z0-9._-]*")  # what may stand in a folder's name unchanged


@dataclass(frozen=True)
class PlannedRun:
    """A run that a sweep is to do.

    Attributes:
      name: of its folder.
      overrides: the fields that `sweep()` yielded for it.
      config: the whole config.
    """

    name: str
    overrides: dict[str, Any]
    config: ml_collections.ConfigDict


def list_runs(path: str, overrides: Sequence[str]) -> list[PlannedRun]:
    """Returns the runs of a config file.

    Args:
      path: of the config file.
      overrides: `--config.FIELD=VALUE` arguments, for every run.

    Raises:
      InputError: if the file cannot be used.
    """
    config, sweep = load_sweep(path, overrides)
    fixed = overridden(overrides)  # a rule that a run sets itself leaves these, too
    runs = []
    for values in sweep:
        own = config.copy_and_resolve_references()
        for name, value in values.items():
            own[name] = value
        runs.append(PlannedRun(run_name(values), values, kept_by_rule(own, {*values, *fixed})))
    return runs


def run_name(overrides: dict[str, Any]) -> str:
    """Returns a folder name that says what a run sets, e.g. `data=embedded+digits,lr=0.1,seed=0`.

    It depends on the run alone, so that a longer sweep finds the runs of a shorter one. Where a
    value cannot stand in a file name unchanged, or the name is too long, it ends in a hash of all
    fields. Two runs therefore never share a name, not even on file systems that ignore case.
    """
    if not overrides:
        return "default"
    texts = {
        name: _value_text(redacted(value) if isinstance(value, str) else value)
        for name, value in overrides.items()
    }
    name = ",".join(f"{field}={text}" for field, (text, _) in texts.items())
    if all(unique for _, unique in texts.values()) and len(name) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(json.dumps(overrides, sort_keys=True).encode()).hexdigest()[:10]
    return f"{name[: _LONGEST_NAME - 11]}~{digest}"


def _value_text(value: Any) -> tuple[str, bool]:
    """Returns a value as text for a file name, and whether no other value has the same text."""
    if value is None or isinstance(value, bool | int | float):
        return str(value).replace("+", ""), True  # 1e+20
    if isinstance(value, list | tuple):
        parts = [_value_text(item) for item in value]
        return "+".join(text for text, _ in parts), False
    plain = value.replace(":", "+") if value.count(":") == 1 else value
    if _PLAIN.fullmatch(plain.replace("+", "", 1) if ":" in value else plain):
        return plain, True
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(value).name or value)[:40], False
