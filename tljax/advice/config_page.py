"""The config file that advice writes: a page like those in `configs/`."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tljax.advice.strategies import Strategy, field_of, overrides_for
from tljax.advice.words import train_command
from tljax.config import base
from tljax.errors import printable, redacted
from tljax.runs.workdir import write_atomically

_log = logging.getLogger("tljax")

_PAGE = '''r"""{what}

    {command}

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
    names = {field_of(word) for word in overrides_for(strategy.name, overrides)}
    names |= {"scenario", "data", "model", *({"k"} if strategy.k is not None else ())}
    defaults = base()
    values = {name: config[name] for name in defaults if name in names}
    values["init_from"] = redacted(config.init_from)
    # what equals its default the rule would take for not set
    if kept := tuple(name for name in values if config[name] == defaults[name]):
        values["hyperrule_keeps"] = kept
    if values["init_from"] != config.init_from:
        _log.warning(
            "%s does not hold the secrets in the address of init_from; give them again with"
            " --config.init_from",
            path,
        )
    fields = "\n".join(f"    config.{name} = {value!r}" for name, value in values.items())
    text = _PAGE.format(
        what=f"{strategy.name}: {row['in_words']}.",
        command=_quoted(train_command(path.parent)),
        data=_quoted(config.data),
        predicted=row["predicted"],
        low=row["low"],
        high=row["high"],
        fields=fields,
    )
    write_atomically(path, text)


def _quoted(text: object) -> str:
    """A name within a docstring, which it cannot end."""
    return printable(text).replace('"', "'").replace("\\", "/")
