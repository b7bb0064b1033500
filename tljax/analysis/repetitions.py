"""Which runs repeat one another: they differ in their seed, and in nothing that was asked for."""

import json
from collections.abc import Collection, Mapping
from typing import Any

from tljax.training.options import HARMLESS


def comparable_config(
    config: Mapping[str, Any], ignored: Collection[str] = ("seed",)
) -> dict[str, Any]:
    """Returns the config fields in which repetitions of one run agree.

    What a trial settled is put back to what was asked for: each seed has a trial of its own, which
    may settle other values.

        comparable_config(a) == comparable_config(b)  # whether b repeats a

    Args:
      config: of a run, as its `config.json` has it.
      ignored: fields in which repetitions may differ.
    """
    asked = (text.partition("=") for text in config.get("asked") or ())
    before_the_trial = {name: json.loads(value) for name, _, value in asked}
    left_out = {*ignored, *HARMLESS, "tried", "asked"}
    compared = {**config, **before_the_trial}
    return {name: value for name, value in compared.items() if name not in left_out}
