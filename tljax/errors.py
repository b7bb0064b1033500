"""The one exception for what a user can mend.

Everything below the command line raises `InputError` with a single sentence that says what was
wrong, where, and what to do about it; the command line prints it and exits with code 2.
"""

import difflib
from collections.abc import Iterable


class InputError(Exception):
    """Wrong path, corrupt file, mistyped name, impossible value: one sentence, no traceback."""


def printable(text: object) -> str:
    """On one line, and without what a terminal would obey: file names may hold any of that."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the closest of `known`, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def check_known(what: str, name: str, known: Iterable[str]) -> None:
    """Raises InputError, with the closest name and all of them, unless `name` is one of `known`."""
    names = list(known)
    if name not in names:
        raise InputError(
            f"there is no {what} '{name}'{did_you_mean(name, names)}; known: {', '.join(names)}"
        )
