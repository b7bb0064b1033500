"""Copies files from an address such as `gs://BUCKET/FOLDER` to this machine, on demand.

fsspec reads any address that it has a driver for. Google Cloud Storage needs the extra `gcs`, and
uses the credentials of Google's tools (on a TPU VM: the VM's own). Copies, of TFDS data and of the
shards of tables, are in `~/.cache/tljax/tfds`. A file appears there only when complete, and is
copied again if the original changes. Every machine of a job makes its own copies.
"""

import errno
import hashlib
import json
import logging
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fsspec

from tljax import locks
from tljax.console import progress_bar
from tljax.errors import InputError
from tljax.files import cache_folder, parse_json, replacing
from tljax.weights.download import offline_variable

_FILES_AT_ONCE = 8
# gcsfs logs the tracebacks of errors that it also raises.
logging.getLogger("gcsfs").setLevel(logging.CRITICAL)

_VERSIONS = "copied.json"  # in the local folder: the version of each copied file

# Keys of fsspec's entries that change with a file. Dates count only where there are some, so that
# copies whose version was recorded without them remain valid.
_ALWAYS = ("size", "generation", "etag", "mtime", "created")
_DATES = ("lastmodified", "last_modified")


def is_address(text: str) -> bool:
    """Whether `text` is an address rather than a path."""
    return "://" in text


def join(folder: str, *names: str) -> str:
    """Joins a folder, an address or a path, and names; empty names are left out."""
    return "/".join([folder.rstrip("/") or folder, *filter(None, names)])


def list_folders(location: str) -> list[str]:
    """Returns the names of the folders at an address or a path, sorted; none if it does not exist.

    Raises:
      InputError: It cannot be reached or is not readable.
    """
    entries = _list_entries(location)
    return sorted(_base_name(entry["name"]) for entry in entries if entry["type"] == "directory")


def read_file(location: str) -> bytes | None:
    """Returns the content of a small file at an address or a path; None if it does not exist.

    Raises:
      InputError: It cannot be reached or is not readable.
    """
    system, path = _file_system(location)
    try:
        content: bytes = system.cat_file(path)
        return content
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except Exception as error:  # each driver has its own exceptions
        raise _unreachable(location, error) from error


class LocalCopy:
    """A local copy, in `folder`, of some files of the folder at `address`."""

    def __init__(self, address: str):
        self.address = address
        digest = hashlib.sha256(address.encode()).hexdigest()[:16]
        name = re.sub(r"\W+", "-", address.rpartition("://")[2])[-60:].strip("-")
        self.folder = cache_folder("tfds") / f"{digest}-{name}"
        entries = _list_entries(address)
        self._remote = {_base_name(e["name"]): e for e in entries if e["type"] == "file"}

    def remote_names(self) -> list[str]:
        """Returns the names of the files at the address, sorted."""
        return sorted(self._remote)

    def fetch(self, names: Iterable[str]) -> None:
        """Copies those of the files that are missing in `folder` or have changed at the address.

        Raises:
          InputError: A file does not exist or cannot be read, or the disk is full.
        """
        names = list(names)
        if missing := [name for name in names if name not in self._remote]:
            raise InputError(f"{join(self.address, missing[0])} does not exist; prepare it again")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with locks.wait_for(self.folder / ".lock"):
                self._fetch_locked(names)
        except OSError as error:
            raise InputError(
                f"cannot copy {self.address} to {self.folder} ({error.strerror or error}); make"
                " room, or set XDG_CACHE_HOME to a folder on another disk"
            ) from error

    def _fetch_locked(self, names: list[str]) -> None:
        record = self.folder / _VERSIONS
        try:
            local_versions = parse_json(record.read_bytes())
        except (OSError, ValueError):
            local_versions = {}
        versions = {name: _version(self._remote[name]) for name in names}
        outdated = [
            name
            for name in names
            if local_versions.get(name) != versions[name] or not (self.folder / name).is_file()
        ]
        system, path = _file_system(self.address)

        def copy(name: str) -> str:
            with replacing(self.folder / name) as temporary:
                try:
                    system.get_file(join(path, name), str(temporary))
                except OSError as error:
                    if error.filename == str(temporary) or error.errno == errno.ENOSPC:
                        raise  # an error of the local disk, which `fetch` reports
                    raise _unreachable(join(self.address, name), error) from error
                except Exception as error:
                    raise _unreachable(join(self.address, name), error) from error
            return name

        with ThreadPoolExecutor(_FILES_AT_ONCE) as pool, progress_bar() as bar:
            task = bar.add_task(f"copying {_base_name(self.address)}", total=len(outdated))
            for name in pool.map(copy, outdated):
                local_versions[name] = versions[name]
                with replacing(record) as temporary:
                    temporary.write_text(json.dumps(local_versions))
                bar.advance(task)


def _list_entries(location: str) -> list[dict[str, Any]]:
    system, path = _file_system(location)
    try:
        return list(system.ls(path, detail=True))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except Exception as error:
        raise _unreachable(location, error) from error


def _file_system(location: str) -> tuple[Any, str]:
    """fsspec's file system of an address or a path, and the path in that file system."""
    if is_address(location) and (variable := offline_variable()):
        raise InputError(
            f"cannot read {location}, as {variable} forbids the network; unset {variable}, or give"
            " a local data_dir"
        )
    try:
        return fsspec.core.url_to_fs(location)
    except ImportError as error:
        raise InputError(
            f"cannot read {location}, as a driver is missing ({error}); for gs:// addresses: pip"
            " install -c constraints.txt '.[gcs]'"
        ) from error
    except ValueError as error:
        raise InputError(
            f"cannot read {location} ({error}); give a path or a gs:// address"
        ) from error


def _unreachable(location: str, error: Exception) -> InputError:
    why = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), "")
    why = (why or type(error).__name__).rstrip(".")
    return InputError(
        f"cannot read {location} ({why}); check the address, the network and your permissions"
    )


def _base_name(location: str) -> str:
    return location.rstrip("/").rpartition("/")[2]


def _version(entry: dict[str, Any]) -> str:
    """A digest that changes if the file does: of its size and of the storage's metadata."""
    found = {key.lower(): value for key, value in entry.items()}  # S3 has ETag and LastModified
    metadata = {key: str(found.get(key)) for key in _ALWAYS}
    metadata |= {key: str(found[key]) for key in _DATES if key in found}
    return hashlib.sha256(json.dumps(metadata).encode()).hexdigest()[:32]
