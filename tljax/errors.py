"""`InputError`, the one exception for mistakes that a user can fix.

Everything below the command line raises it with a single sentence that says what was wrong, where,
and what to do. The command line prints that sentence and exits with code 2.
"""

import difflib
from collections.abc import Iterable


class InputError(Exception):
    """A wrong path, corrupt file, mistyped name or invalid value: one sentence, no traceback."""


def printable(text: object) -> str:
    """The text on one line, with control characters escaped, as file names may contain them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns ` (did you mean 'x'?)` for the closest of `known`, or "" if none is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def check_known(what: str, name: str, known: Iterable[str]) -> None:
    """Checks that `name` is one of `known`.

    Args:
      what: What the names stand for, as in `there is no WHAT 'NAME'`.

    Raises:
      InputError: It is not; the message gives the closest name and lists all of them.
    """
    names = list(known)
    if name not in names:
        raise InputError(
            f"there is no {what} '{name}'{did_you_mean(name, names)}; known: {', '.join(names)}"
        )
