"""The error for images that cannot be read, in place of what the libraries print."""

import logging

from tljax.errors import InputError

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
