"""What is said about images: those that cannot be read, and what is changed of the others."""

import logging
import multiprocessing

from tljax.errors import InputError

_log = logging.getLogger("tljax")

# Without a handler, Python prints their messages about unreadable files to stderr. The error that
# tljax raises says the same.
for _library in ("PIL", "tifffile"):
    logging.getLogger(_library).addHandler(logging.NullHandler())


class Unreadable(InputError):
    """An image cannot be read; `name` is its file name, or what else identifies it."""

    def __init__(self, name: str, why: str):
        super().__init__(name, why)  # both, so that worker processes can pickle the error
        self.name = name

    def __str__(self) -> str:
        return "cannot read image {}: {}".format(*self.args)


def warn_once(what: str, message: str) -> None:
    """Warns at the first image of its kind; processes that read ahead leave it to the main one."""
    if not was_said(what) and multiprocessing.parent_process() is None:
        _said.add(what)
        _log.warning(message)


def was_said(what: str) -> bool:
    """Whether there has been a warning of this kind."""
    return what in _said


_said: set[str] = set()
