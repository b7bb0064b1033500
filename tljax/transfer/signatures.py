"""Which config fields a scenario or recipe uses: those that its constructor has parameters for."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from tljax.errors import InputError

Accepted = dict[str, inspect.Parameter]


def accepted_fields(
    constructor: Callable[..., Any], field_names: Mapping[str, str | None] | None = None
) -> Accepted:
    """The parameters of a constructor, by the config fields that set them.

    Args:
      constructor: its first parameter, the groups or the plan, and `**keywords` set no field.
      field_names: from a parameter to its config field, if that has another name; None: no field.
    """
    names = dict(field_names or {})
    parameters = list(inspect.signature(constructor).parameters.values())[1:]
    accepted = {}
    for parameter in parameters:
        field = names.get(parameter.name, parameter.name)
        if field is not None and parameter.kind is not parameter.VAR_KEYWORD:
            accepted[field] = parameter
    return accepted


def check_used(
    setting: str, chosen: str | None, accepted: Mapping[str, Accepted], fields: Mapping[str, Any]
) -> None:
    """Raises InputError if a field is set that the chosen constructor does not take.

    Args:
      setting: the config field that chooses, `scenario` or `stages`.
      chosen: its value; None if it is not set.
      accepted: the fields of each constructor that can be chosen.
      fields: values from the config; None: not set.
    """
    for field, value in fields.items():
        if value is None or field in accepted.get(chosen or "", {}):
            continue
        users = [name for name, its_fields in accepted.items() if field in its_fields]
        reason = f"is {chosen}, which does not use it" if chosen else "is not set"
        raise InputError(
            f"{field} is {value}, but {setting} {reason}; unset {field}, or set {setting} to"
            f" {' or '.join(users)}"
        )
