"""Files behind an address such as `gs://BUCKET/FOLDER`, copied to this machine as they are needed.

Reading is left to fsspec, which serves any address that it has a driver for; Google Cloud Storage
needs the extra `gcs`, and finds credentials as Google's tools do (on a TPU VM: the VM's own).
A copy lies in `~/.cache/tljax/tfds`, appears only when it is whole, and is made again if the
original changes. Every machine of a job copies for itself.
"""

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
from filelock import FileLock

from tljax.console import progress_bar
from tljax.errors import InputError
from tljax.files import parse_json, replacing
from tljax.weights.download import offline_variable

_AT_ONCE = 8  # files
# It logs tracebacks of what it also raises.
logging.getLogger("gcsfs").setLevel(logging.CRITICAL)

_VERSIONS = "copied.json"  # in a copy: which version of each file it holds


def is_address(text: str) -> bool:
    """Whether `text` is an address rather than a path."""
    return "://" in text


def join(folder: str, *names: str) -> str:
    """The address or path of something in a folder."""
    return "/".join([folder.rstrip("/") or folder, *filter(None, names)])


def folders(place: str) -> list[str]:
    """Names of the folders in a folder, an address or a path, sorted; none if it does not exist.

    Raises:
      InputError: It cannot be reached or may not be read.
    """
    return sorted(_name(entry) for entry in _entries(place) if entry["type"] == "directory")


def read(place: str) -> bytes | None:
    """The content of a small file at an address or a path; None if there is no such file.

    Raises:
      InputError: It cannot be reached or may not be read.
    """
    system, path = _open(place)
    try:
        content: bytes = system.cat_file(path)
        return content
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except Exception as error:  # each driver has its own
        raise _unreachable(place, error) from error


class Copy:
    """A folder behind an address, and the files of it that were copied to `folder`."""

    def __init__(self, address: str):
        self.address = address
        digest = hashlib.sha256(address.encode()).hexdigest()[:16]
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        name = re.sub(r"\W+", "-", address.rpartition("://")[2])[-60:].strip("-")
        self.folder = caches / "tljax" / "tfds" / f"{digest}-{name}"
        self._there = {_name(e): e for e in _entries(address) if e["type"] == "file"}

    def names(self) -> list[str]:
        """Of the files behind the address, sorted."""
        return sorted(self._there)

    def fetch(self, names: Iterable[str]) -> None:
        """Copies those files that `folder` lacks or holds another version of.

        Raises:
          InputError: There is no such file, it cannot be read, or the disk is full.
        """
        wanted = list(names)
        if missing := [name for name in wanted if name not in self._there]:
            raise InputError(f"{join(self.address, missing[0])} does not exist; prepare it again")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / ".lock"):
                self._fetch(wanted)
        except OSError as error:
            raise InputError(
                f"cannot copy {self.address} to {self.folder} ({error.strerror or error}); make"
                " room, or set XDG_CACHE_HOME to a folder on another disk"
            ) from error

    def _fetch(self, wanted: list[str]) -> None:
        record = self.folder / _VERSIONS
        try:
            held = parse_json(record.read_bytes())
        except (OSError, ValueError):
            held = {}
        versions = {name: _version(self._there[name]) for name in wanted}
        lacking = [
            name
            for name in wanted
            if held.get(name) != versions[name] or not (self.folder / name).is_file()
        ]
        system, path = _open(self.address)

        def copy(name: str) -> str:
            with replacing(self.folder / name) as temporary:
                try:
                    system.get_file(join(path, name), str(temporary))
                except OSError as error:
                    if error.filename == str(temporary) or error.errno == 28:  # our disk
                        raise
                    raise _unreachable(join(self.address, name), error) from error
                except Exception as error:
                    raise _unreachable(join(self.address, name), error) from error
            return name

        with ThreadPoolExecutor(_AT_ONCE) as pool, progress_bar() as bar:
            task = bar.add_task(f"copying {_name({'name': self.address})}", total=len(lacking))
            for name in pool.map(copy, lacking):
                held[name] = versions[name]
                with replacing(record) as temporary:
                    temporary.write_text(json.dumps(held))
                bar.advance(task)


def _entries(place: str) -> list[dict[str, Any]]:
    system, path = _open(place)
    try:
        return list(system.ls(path, detail=True))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except Exception as error:
        raise _unreachable(place, error) from error


def _open(place: str) -> tuple[Any, str]:
    if is_address(place) and (variable := offline_variable()):
        raise InputError(
            f"cannot read {place}, as {variable} forbids the network; unset {variable}, or give a"
            " local data_dir"
        )
    try:
        return fsspec.core.url_to_fs(place)
    except ImportError as error:
        raise InputError(
            f"to read {place} a driver is missing ({error}); for gs:// addresses: pip install -c"
            " constraints.txt '.[gcs]'"
        ) from error
    except ValueError as error:
        raise InputError(
            f"cannot read {place} ({error}); give a path or a gs:// address"
        ) from error


def _unreachable(place: str, error: Exception) -> InputError:
    why = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), "")
    return InputError(
        f"cannot read {place} ({(why or type(error).__name__).rstrip('.')}); check the address, the"
        " network and your permissions"
    )


def _name(entry: dict[str, Any]) -> str:
    return str(entry["name"]).rstrip("/").rpartition("/")[2]


def _version(entry: dict[str, Any]) -> str:
    """What is another if the file is: its size, and what the storage says beside it."""
    told = {key: str(entry.get(key)) for key in ("size", "generation", "etag", "mtime", "created")}
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]
