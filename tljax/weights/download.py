"""Downloads from web servers: each file once, resumable, checked, and kept.

Files are kept in `~/.cache/tljax/checkpoints`, where a file is either complete or absent: a partial
download has another name, and the next attempt resumes it.
"""

import datetime
import email.utils
import errno
import hashlib
import logging
import os
import re
import shutil
import time
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from tljax import locks
from tljax.console import console
from tljax.errors import InputError, hide_secrets, redacted
from tljax.files import cache_folder
from tljax.weights.read import INDEX_SUFFIX, read, read_json

if TYPE_CHECKING:
    import requests  # takes a tenth of a second to import, so only downloads import it

_log = logging.getLogger("tljax")

OFFLINE_VARIABLES = ("TLJAX_OFFLINE", "HF_HUB_OFFLINE")

# What every failed download can be replaced by; ends error messages.
OTHER_WAY = "download it by other means and give init_from the path of the file"

_TIMEOUT = (10, 30)  # seconds to connect, and between two bytes
_PAUSES = (0.5, 1.0, 2.0, 4.0)  # seconds before each further attempt
_CHUNK = 1 << 16  # bytes; a dropped connection loses at most these


def download(address: str, sha256: str | None = None, md5: str | None = None) -> Path:
    """Returns the cached file at a web address; downloads it if it is not there.

    Args:
      address: `https://...`, `http://...` or `gs://BUCKET/OBJECT`.
      sha256: first hex digits of the expected digest, checked after a download.
      md5: the whole expected hex digest, likewise.

    Raises:
      InputError: if the file cannot be fetched or stored, or a digest differs.
    """
    url, shown = web_url(address), redacted(address)
    target = cache_path(url)
    if target.exists():
        return target
    if "://***@" in address or address.endswith(("?***", "#***")):
        raise InputError(
            f"'{address}' lacks the user name, password or query that tljax hid when it kept this"
            " address; give the whole address"
        )
    if variable := offline_variable():
        raise offline_error(shown, variable, f"put the file at '{target}'")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locks.wait_for(target.with_name(f"{target.name}.lock")):
            # another process may have fetched the file while this one waited
            if not target.exists():
                _download(shown, url, target, sha256, md5)
    except OSError as error:
        raise InputError(
            f"cannot store {shown} in '{target.parent}' ({describe_error(error)}); set "
            "XDG_CACHE_HOME to a folder that can hold it"
        ) from error
    except InputError as error:
        # The errors that caused it quote the whole address, and a traceback would show them.
        raise error from (error.__cause__ if shown == address else None)
    return target


def web_url(address: str) -> str:
    """The URL of an address: `gs://` becomes `https://`, and a fragment is dropped."""
    if address.startswith("gs://"):
        bucket, _, name = address.removeprefix("gs://").partition("/")
        if not bucket or not name:
            raise InputError(f"'{address}' does not name an object; write gs://BUCKET/OBJECT")
        return f"https://storage.googleapis.com/{bucket}/{quote(name)}"
    try:
        has_host = bool(urlsplit(address).hostname)
    except ValueError:
        has_host = False
    if not has_host:
        raise InputError(f"'{address}' does not name a host; write https://HOST/PATH")
    return address.partition("#")[0]


def cache_path(url: str) -> Path:
    """Where the file at `url` is kept, whether or not it is there yet."""
    name = unquote(urlsplit(url).path).rpartition("/")[2]
    name = re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)[-150:]  # file names have at most 255 bytes
    unique = hashlib.sha256(url.encode()).hexdigest()[:12]
    return cache_folder("checkpoints") / f"{unique}-{name}"


class _TransferError(Exception):
    """The transfer failed, but another attempt may succeed."""


class _UnreachableError(_TransferError):
    """The server did not answer."""


class _PartialFile:
    """The bytes of a file that are already here, and the version of the file they come from.

    Attributes:
      path: of these bytes.
      total: length of the whole file; None until a server says it.
      has_known_end: whether the server said where the file ends; else it may have been cut off.
    """

    def __init__(self, target: Path):
        self.path = target.with_name(f"{target.name}.partial")
        self._version = target.with_name(f"{target.name}.version")
        self.total: int | None = None
        self.has_known_end = True

    @property
    def version(self) -> str:
        """The ETag or date to send as If-Range; empty if the download cannot be resumed."""
        return self._kept()[0]

    @property
    def kept_total(self) -> int | None:
        """The length that the server said when it sent the first bytes."""
        total = self._kept()[1]
        return int(total) if total.isdecimal() else None

    def _kept(self) -> tuple[str, str]:
        """The version, and the length or an empty string."""
        if not self._version.exists() or not self.path.exists():
            return "", ""
        version, _, total = self._version.read_text().partition("\n")
        return version, total

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def resumable_size(self) -> int:
        """The number of bytes that the next request can skip."""
        return self.size if self.version else 0

    def restart(self, version: str) -> None:
        self.path.write_bytes(b"")  # first, so that old bytes never have the new version
        self._version.write_text(f"{version}\n{self.total or ''}")

    def delete(self) -> None:
        self.path.unlink(missing_ok=True)
        self._version.unlink(missing_ok=True)

    def delete_if_useless(self) -> None:
        if not self.resumable_size:
            self.delete()


def _download(address: str, url: str, target: Path, sha256: str | None, md5: str | None) -> None:
    _log.info("downloading %s to %s", address, target)
    partial = _PartialFile(target)
    try:
        _fetch(address, url, partial)
        check_digests(address, partial.path, sha256, md5)
        if not (partial.has_known_end or sha256 or md5):
            _check_whole(address, partial, target.name)
        os.replace(partial.path, target)
    except OSError as error:
        partial.delete()
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full_error(
                address, target.parent, partial.total, "XDG_CACHE_HOME"
            ) from error
        raise
    finally:
        partial.delete_if_useless()


def _check_whole(address: str, partial: _PartialFile, name: str) -> None:
    """Refuses a file that may have been cut off, unless all that it says it holds can be read."""
    try:
        is_index = name.endswith(INDEX_SUFFIX)
        is_whole = bool(read_json(partial.path) if is_index else read(partial.path, name))
    except InputError:
        is_whole = False
    if not is_whole:
        partial.delete()
        raise InputError(
            f"the server of {address} does not say how long the file is, and what came is damaged"
            f" or was cut off; try again, or {OTHER_WAY}"
        )


def _fetch(address: str, url: str, partial: _PartialFile) -> None:
    """Completes `partial`, in several attempts if necessary."""
    reason = ""
    with _progress_bar(address) as bar:
        for pause in (0.0, *_PAUSES):
            time.sleep(pause)
            try:
                return _fetch_rest(address, url, partial, bar)
            except _TransferError as error:
                if isinstance(error, _UnreachableError) and not reason:  # at the first attempt
                    raise InputError(
                        f"cannot reach {urlsplit(url).hostname} to download {address} ({error}); "
                        f"check the connection, or {OTHER_WAY}"
                    ) from error
                reason = str(error)
    kept = f" (it resumes at byte {partial.size:,})" if partial.resumable_size else ""
    raise InputError(
        f"the download of {address} failed {len(_PAUSES) + 1} times ({reason}); try again"
        f"{kept}, or {OTHER_WAY}"
    )


def _fetch_rest(address: str, url: str, partial: _PartialFile, bar: Progress) -> None:
    """Makes one request, for the whole file or for the bytes that `partial` lacks."""
    task = bar.task_ids[0]
    with _request(address, url, partial) as response:
        if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            partial.delete()
            raise _TransferError("the server's file is shorter than what was already downloaded")
        _check_status(address, response)
        first_byte = _prepare_for(response, partial)
        if partial.total is not None:
            if partial.total - first_byte > shutil.disk_usage(partial.path.parent).free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            bar.update(task, total=partial.total)
        bar.update(task, completed=first_byte)
        with partial.path.open("ab") as file:
            _write(response, file, bar)
    if partial.total is not None and partial.size != partial.total:
        if partial.size > partial.total:
            partial.delete()
        raise _TransferError("the file's length is not the one that the server announced")


def _request(address: str, url: str, partial: _PartialFile) -> "requests.Response":
    """Asks for the file, or for the rest of it if its version is still that of `partial`."""
    import requests

    headers = {"Accept-Encoding": "identity"}  # the bytes sent are then the bytes of the file
    if partial.resumable_size:
        headers |= {"Range": f"bytes={partial.resumable_size}-", "If-Range": partial.version}
    try:
        return requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT)
    except (requests.ConnectionError, requests.Timeout) as error:
        raise _UnreachableError(describe_error(error)) from error
    except (requests.RequestException, ValueError) as error:  # urllib3's own are ValueErrors
        raise InputError(
            f"cannot download {address} ({describe_error(error)}); check the address"
        ) from error


def _prepare_for(response: "requests.Response", partial: _PartialFile) -> int:
    """Empties `partial` if the server sends the whole file; returns the first byte that it sends.

    Raises:
      _TransferError: if the server sends another range, or one that may be of another version.
    """
    version, length = _version_and_length(response)
    headers = response.headers
    chunked = "chunked" in headers.get("Transfer-Encoding", "").lower()
    if response.status_code == HTTPStatus.OK:
        partial.total = length
        partial.has_known_end = chunked or headers.get("Content-Length", "").isdecimal()
        partial.restart(version)
        return 0
    kept, total = partial.resumable_size, partial.kept_total
    span = re.match(r"bytes (\d+)-\d+/(\d*)", headers.get("Content-Range", ""))
    # A server may ignore If-Range, so it has to repeat the version, and the length if it said one.
    is_same_version = partial.version in (headers.get("ETag"), headers.get("Last-Modified"))
    if not kept or span is None or int(span[1]) != kept or not is_same_version:
        partial.delete()
        raise _TransferError("the server sent another range of the file than requested")
    partial.total = int(span[2]) if span[2] else total
    if total is not None and partial.total != total:
        partial.delete()
        raise _TransferError("the server sent a part of a file of another length")
    partial.has_known_end = partial.total is not None or chunked
    return kept


def _write(response: "requests.Response", file: Any, bar: Progress) -> None:
    import requests

    try:
        for chunk in response.iter_content(_CHUNK):
            file.write(chunk)
            bar.advance(bar.task_ids[0], len(chunk))
    except requests.RequestException as error:
        raise _TransferError(describe_error(error)) from error
    file.flush()
    os.fsync(file.fileno())


def _check_status(address: str, response: "requests.Response") -> None:
    status = response.status_code
    answer = f"{status} {response.reason}".strip()
    if status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        return
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
        raise InputError(f"there is no file at {address} ({answer}); check the address")
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        only = "only public objects can be fetched: " if address.startswith("gs://") else ""
        raise InputError(
            f"{address} may not be read without permission ({answer}); {only}{OTHER_WAY}"
        )
    if status == HTTPStatus.TOO_MANY_REQUESTS or status >= 500:
        raise _TransferError(answer)
    raise InputError(f"the server answered {answer} for {address}; check the address")


def _version_and_length(response: "requests.Response") -> tuple[str, int | None]:
    """The version of the file that a server sends (for If-Range, or empty), and its length.

    Some servers compress unasked. Neither header then describes the file itself.
    """
    headers = response.headers
    if headers.get("Content-Encoding", "identity") != "identity":
        return "", None
    version = headers.get("ETag", "")
    if not version or version.startswith("W/"):  # different bytes may share a weak ETag
        version = _strong_date(headers.get("Last-Modified", ""), headers.get("Date", ""))
    length = headers.get("Content-Length", "")
    return version, int(length) if length.isdecimal() else None


def _strong_date(modified: str, now: str) -> str:
    """The date of a file's version, or "" if a later version may have the same date.

    Dates count whole seconds, and RFC 9110 trusts one only a while later: here a minute.
    """
    try:
        age = email.utils.parsedate_to_datetime(now) - email.utils.parsedate_to_datetime(modified)
    except (ValueError, TypeError):  # TypeError: only one has a time zone
        return ""
    return modified if age >= datetime.timedelta(minutes=1) else ""


def _progress_bar(address: str) -> Progress:
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    bar.add_task(address.rpartition("/")[2], total=None)
    return bar


# Also for the Hugging Face hub ------------------------------------------------------------------


def offline_variable() -> str:
    """The environment variable that forbids the network, or an empty string."""
    for variable in OFFLINE_VARIABLES:
        if os.environ.get(variable, "").lower() in ("1", "true", "yes", "on"):
            return variable
    return ""


def offline_error(address: str, variable: str, instead: str) -> InputError:
    return InputError(
        f"{address} is not in the cache and {variable} forbids the network; unset {variable}, or "
        f"{instead}"
    )


def check_digests(address: str, path: Path, sha256: str | None, md5: str | None) -> None:
    """Deletes the file at `path` and raises InputError if a digest is not the expected one."""
    for algorithm, expected in (("sha256", sha256), ("md5", md5)):
        if not expected:
            continue
        with path.open("rb") as file:
            found = hashlib.file_digest(file, algorithm).hexdigest()
        if not found.startswith(expected.lower()):
            for file_or_link in (path.resolve(), path):
                file_or_link.unlink(missing_ok=True)
            raise InputError(
                f"{address} has the {algorithm} {found}, but {expected} was expected, and the "
                "download was deleted; try again, and if this persists, the file at this address "
                "has changed"
            )


def disk_full_error(address: str, folder: Path, total: int | None, variable: str) -> InputError:
    needed = "more" if total is None else f"{total:,} bytes"
    free = shutil.disk_usage(folder).free
    return InputError(
        f"the disk is full: {address} needs {needed} and '{folder}' has {free:,} bytes free; make "
        f"room, or set {variable} to a folder on another disk"
    )


def describe_error(error: BaseException) -> str:
    """The operating system's message if one caused `error`, else the first line of `error`.

    Queries of addresses are hidden: they may hold keys.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror.rstrip(".")
        cause = cause.__cause__ or cause.__context__
    line = next(iter(str(error).splitlines()), "").rstrip(".")
    return hide_secrets(re.sub(r"\?[^\s'\"()]+", "?***", line)) or type(error).__name__
