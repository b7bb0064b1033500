"""The config file that advice writes: a page like those in `configs/`."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tljax.advice.strategies import PROBE, Strategy
from tljax.config import base
from tljax.experiment.default_rule import OF_STEPS
from tljax.runs.workdir import write_atomically

_PAGE = '''r"""{what}

    tljax train --config {file} --workdir {run}

Advice of `tljax advise` for {data}. Expected: test accuracy {predicted:.3f} [{low:.3f}-{high:.3f}].
What is not set here follows from the default rule; `tljax plan` shows it.
"""

from tljax.config import base


def get_config(arg=None):
    config = base()
    config.hyperrule = "default"
{fields}
    return config
'''


def write_config(
    path: Path, strategy: Strategy, overrides: Sequence[str], content: Mapping[str, Any]
) -> None:
    """Writes a config file that runs as it is.

    Args:
      path: of the file.
      strategy: the chosen one.
      overrides: what the user set.
      content: of `advice.json`.
    """
    (row,) = [row for row in content["strategies"] if row["name"] == strategy.name]
    config = strategy.experiment.config
    names = {match[1] for word in overrides if (match := re.match(r"--config\.([^=]+)=", word))}
    names -= set(OF_STEPS) if strategy.name == PROBE else set()
    names |= {"scenario", "data", "init_from", "model"} | (
        {"k"} if strategy.k is not None else set()
    )
    fields = "\n".join(
        f"    config.{name} = {_value(config[name])!r}" for name in base() if name in names
    )
    text = _PAGE.format(
        what=f"{strategy.scenario}: {row['in_words']}.",
        file=path,
        run=path.parent / "run",
        data=config.data,
        predicted=row["predicted"],
        low=row["low"],
        high=row["high"],
        fields=fields,
    )
    write_atomically(path, text)


def _value(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
