"""`InputError`, the one exception for mistakes that a user can fix.

Everything below the command line raises it with a single sentence that says what was wrong, where,
and what to do. The command line prints that sentence and exits with code 2.
"""

import difflib
import re
from collections.abc import Iterable


class InputError(Exception):
    """A wrong path, corrupt file, mistyped name or invalid value: one sentence, no traceback.

    Its sentence is shown and logged, so secrets in the web addresses that it quotes are hidden.
    """

    def __init__(self, *parts: object) -> None:
        super().__init__(*map(hide_secrets, parts))


# A web address in a text; one in quotes may hold spaces.
_ADDRESS = re.compile(
    r"(?<=')[a-z][a-z0-9+.-]*://[^']*(?=')|[a-z][a-z0-9+.-]*://[^\s'\"<>|]+", re.I
)


def hide_secrets(text: object) -> str:
    """Returns the text; its web addresses are `redacted`."""

    def hidden(match: re.Match[str]) -> str:
        address = match[0].rstrip(").,;:")
        return redacted(address) + match[0][len(address) :]

    return _ADDRESS.sub(hidden, str(text))


# Schemes other than the web's have no keys in queries, where tljax's own options are instead, as in
# `hf://datasets/OWNER/NAME?label=COLUMN`; a query with one of these names is hidden nevertheless.
_SECRET = re.compile(r"(sig|token|key|secret|passw|credential)[^=&]*=", re.I)


def redacted(address: str) -> str:
    """Returns a web address with *** for its user name and password, and for its query.

    `https://ann:pw@host/x?sig=KEY` becomes `https://***@host/x?***`. Of other schemes, e.g. `hf`, a
    query is hidden only if its names say that it holds a key. Other texts are unchanged.
    """
    scheme, separator, rest = address.partition("://")
    if not separator or not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme, re.I):
        return address
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user = ""
    if "@" in host:
        user, rest = "***@", rest[host.rindex("@") + 1 :]
    elif "@" in rest and re.search(r":(?!\d*$)", host):  # a password with an unescaped / ? or #
        user, rest = "***@", rest[rest.rindex("@") + 1 :]
    query = re.search(r"(?<=[?#]).*", rest, re.S)
    if query and (scheme.lower() in ("http", "https") or _SECRET.search(query[0])):
        rest = f"{rest[: query.start()]}***"
    return f"{scheme}://{user}{rest}"


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
