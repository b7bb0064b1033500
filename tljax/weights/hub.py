"""From the address of a weights file to a file on this disk, fetched once and kept.

`hf://OWNER/REPO[@REVISION]/PATH` is left to `huggingface_hub` and its cache. What is behind
`https://`, `http://` and `gs://BUCKET/OBJECT` comes to `~/.cache/tljax/checkpoints`, where a file
is whole or not there: the beginning of one has another name, and the next attempt goes on from it.
"""

import errno
import hashlib
import logging
import os
import re
import shutil
import time
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from filelock import FileLock
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from tljax.errors import InputError

if TYPE_CHECKING:
    import requests  # imported below by what downloads: it would take a tenth of a second here

_log = logging.getLogger("tljax")

OFFLINE_VARIABLES = ("TLJAX_OFFLINE", "HF_HUB_OFFLINE")

_BY_OTHER_MEANS = "download it by other means and give init_from the path of the file"
_TIMEOUT = (10, 30)  # seconds to connect, and without a byte
_PAUSES = (0.5, 1.0, 2.0, 4.0)  # seconds before each further attempt
_PIECE = 1 << 16  # bytes; what a dropped connection costs at most


def is_address(text: str) -> bool:
    """Whether `text` has one of the schemes that `local_path` fetches."""
    return re.match(r"(hf|gs|https?)://", text) is not None


def local_path(address: str, *, sha256: str | None = None, md5: str | None = None) -> Path:
    """The file behind an address; downloaded if it is not in a cache, else without the network.

    Args:
      address: `hf://OWNER/REPO/PATH`, `hf://OWNER/REPO@REVISION/PATH`, `https://...`, `http://...`,
        `gs://BUCKET/OBJECT` (of a public bucket), or the path of a file or directory.
      sha256: how the hex digest of the file begins; torchvision's file names carry 8 digits of it.
      md5: the whole hex digest of the file. Both are compared after a download only.

    Returns:
      A file, or a directory if `address` is the path of one.

    Raises:
      InputError: there is no such file, it may not be read, it cannot be reached or stored, the
        network is forbidden (`TLJAX_OFFLINE=1` or `HF_HUB_OFFLINE=1`), or a digest is another one.
    """
    if address.startswith("hf://"):
        return _from_hub(address, sha256, md5)
    if is_address(address):
        return _from_url(address, _url(address), sha256, md5)
    path = Path(os.path.expanduser(address))
    if not os.path.exists(path):
        raise InputError(
            f"there is no file '{address}'; check the path (addresses begin with hf://, https://, "
            "http:// or gs://)"
        )
    return path


def cached(address: str) -> Path | None:
    """The file behind an address if it lies here already; the network is never touched."""
    if address.startswith("hf://"):
        found = _hub_cache(_hub_file(address))
        return Path(found) if isinstance(found, str) else None
    path = _cache_path(_url(address)) if is_address(address) else Path(os.path.expanduser(address))
    return path if path.is_file() else None


def sidecar(address: str, filename: str) -> Path | None:
    """The file of that name beside a weights file, e.g. the `config.json` of its repository.

    Args:
      address: as for `local_path`.
      filename: without a folder.

    Returns:
      For `hf://`, the file from the same folder of the repository; None if there is none, or it
      cannot be fetched. For a path, the file beside it (in it, if it is a directory) or None.
      For other addresses None: a server cannot be asked what lies beside a file.
    """
    if address.startswith("hf://"):
        beside = f"{address.rpartition('/')[0]}/{filename}"
        try:
            return None if _known_missing(_hub_file(beside)) else local_path(beside)
        except InputError as error:
            _log.info("%s", error)
            return None
    if is_address(address):
        return None
    path = Path(os.path.expanduser(address))
    found = (path if path.is_dir() else path.parent) / filename
    return found if found.is_file() else None


# Hugging Face hub -------------------------------------------------------------------------------


class _HubFile(NamedTuple):
    repo: str
    revision: str
    path: str


def _hub_file(address: str) -> _HubFile:
    match = re.fullmatch(
        r"hf://([^/@]+/[^/@]+)(?:@(refs/(?:pr|convert)/[^/]+|[^/]+))?/(.*[^/])", address
    )
    if match is None:
        raise InputError(
            f"'{address}' does not name a file of a repository; write hf://OWNER/REPO/PATH or "
            "hf://OWNER/REPO@REVISION/PATH"
        )
    repo, revision, path = match.groups()
    return _HubFile(repo, unquote(revision or "main"), path)


def _hub_cache(file: _HubFile) -> Any:
    """A path, a mark that this revision is known not to have the file, or None if all is open."""
    import huggingface_hub  # slow to import, and only some weights need it

    try:
        return huggingface_hub.try_to_load_from_cache(file.repo, file.path, revision=file.revision)
    except ValueError as error:  # a repository cannot have that name, or a file that path
        raise InputError(
            f"'hf://{file.repo}/{file.path}' is not an address on the Hugging Face hub "
            f"({_reason(error)}); write hf://OWNER/REPO/PATH"
        ) from error


def _known_missing(file: _HubFile) -> bool:
    found = _hub_cache(file)
    return found is not None and not isinstance(found, str)


def _from_hub(address: str, sha256: str | None, md5: str | None) -> Path:
    """From the hub's own cache, or the hub.

    A cached file of a branch is not compared with the branch: what a run began with stays.
    """
    file = _hub_file(address)
    found = _hub_cache(file)
    if isinstance(found, str):
        return Path(found)
    if variable := offline_variable():
        raise _forbidden(address, variable, "give init_from the path of a copy")

    import huggingface_hub
    from huggingface_hub import errors

    repository = f"repository '{file.repo}' on the Hugging Face hub"
    try:
        # hf_hub_download alone tries for half a minute, noisily, before it says that there is no
        # network, or that it may not read the repository; this asks once.
        huggingface_hub.get_hf_file_metadata(
            huggingface_hub.hf_hub_url(file.repo, file.path, revision=file.revision)
        )
        path = huggingface_hub.hf_hub_download(file.repo, file.path, revision=file.revision)
    except errors.GatedRepoError as error:
        raise InputError(
            f"the {repository} is gated; ask for access on its page there, then log in with `hf "
            "auth login` or set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f"there is no {repository}, or it is private; check the name, or log in with `hf auth "
            "login` or set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise InputError(
            f"the {repository} has no revision '{file.revision}'; give a branch, tag or commit "
            "that it has"
        ) from error
    except errors.RemoteEntryNotFoundError as error:
        raise InputError(
            f"the {repository} has no file '{file.path}' at revision '{file.revision}'; check the "
            "path"
        ) from error
    except errors.OfflineModeIsEnabled as error:  # set when huggingface_hub was imported
        raise _forbidden(address, "HF_HUB_OFFLINE", "give init_from the path of a copy") from error
    except Exception as error:  # its transports raise errors of their own, of no common kind
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            folder = Path(huggingface_hub.constants.HF_HUB_CACHE)
            raise _no_space(address, folder, None, "HF_HOME") from error
        raise InputError(
            f"cannot download {address} ({_reason(error)}); check the connection, or "
            f"{_BY_OTHER_MEANS}"
        ) from error
    _verify(address, Path(path), sha256, md5)
    return Path(path)


# Any web server ---------------------------------------------------------------------------------


class _BrokenOffError(Exception):
    """The server was there, but not to the end: worth another attempt."""


class _UnreachableError(_BrokenOffError):
    """The server was not there."""


class _Partial:
    """The bytes of a file that are already here, and which version of the file they are from."""

    def __init__(self, target: Path):
        self.path = target.with_name(f"{target.name}.partial")
        self._version = target.with_name(f"{target.name}.version")
        self.total: int | None = None

    @property
    def version(self) -> str:
        """The ETag or date to send as If-Range; empty if no one could go on from these bytes."""
        return self._version.read_text() if self._version.exists() and self.path.exists() else ""

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def restart(self, version: str) -> None:
        self.path.write_bytes(b"")  # first: old bytes must never stand under the new version
        self._version.write_text(version)

    def delete(self) -> None:
        self.path.unlink(missing_ok=True)
        self._version.unlink(missing_ok=True)

    def delete_if_useless(self) -> None:
        if not (self.size and self.version):
            self.delete()


def _url(address: str) -> str:
    """The address for a web server."""
    if address.startswith("gs://"):
        bucket, _, name = address.removeprefix("gs://").partition("/")
        if not bucket or not name:
            raise InputError(f"'{address}' does not name an object; write gs://BUCKET/OBJECT")
        return f"https://storage.googleapis.com/{bucket}/{quote(name)}"
    try:
        named = bool(urlsplit(address).hostname)
    except ValueError:
        named = False
    if not named:
        raise InputError(f"'{address}' does not name a host; write https://HOST/PATH")
    return address.partition("#")[0]


def _cache_path(url: str) -> Path:
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = unquote(urlsplit(url).path).rpartition("/")[2]
    name = re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)[-150:]  # file names end at 255 bytes
    unique = hashlib.sha256(url.encode()).hexdigest()[:12]
    return caches / "tljax" / "checkpoints" / f"{unique}-{name}"


def _from_url(address: str, url: str, sha256: str | None, md5: str | None) -> Path:
    target = _cache_path(url)
    if target.exists():
        return target
    if variable := offline_variable():
        raise _forbidden(address, variable, f"put the file at '{target}'")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):  # whoever had it before us may have fetched the file
            if not target.exists():
                _download(address, url, target, sha256, md5)
    except OSError as error:
        raise InputError(
            f"cannot store {address} in '{target.parent}' ({_reason(error)}); set XDG_CACHE_HOME "
            "to a folder that takes it"
        ) from error
    return target


def _download(address: str, url: str, target: Path, sha256: str | None, md5: str | None) -> None:
    _log.info("downloading %s to %s", address, target)
    partial = _Partial(target)
    try:
        _fetch(address, url, partial)
        _verify(address, partial.path, sha256, md5)
        os.replace(partial.path, target)
    except OSError as error:
        partial.delete()
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_space(address, target.parent, partial.total, "XDG_CACHE_HOME") from error
        raise
    finally:
        partial.delete_if_useless()


def _fetch(address: str, url: str, partial: _Partial) -> None:
    """Fills `partial`, in several attempts if need be."""
    reason = ""
    with _progress(address) as bar:
        for pause in (0.0, *_PAUSES):
            time.sleep(pause)
            try:
                return _fetch_rest(address, url, partial, bar)
            except _BrokenOffError as error:
                if isinstance(error, _UnreachableError) and not reason:  # it never was there
                    raise InputError(
                        f"cannot reach {urlsplit(url).hostname} to download {address} ({error}); "
                        f"check the connection, or {_BY_OTHER_MEANS}"
                    ) from error
                reason = str(error)
    kept = f", which goes on from byte {partial.size:,}" if partial.size and partial.version else ""
    raise InputError(
        f"the download of {address} broke off {len(_PAUSES) + 1} times ({reason}); try again"
        f"{kept}, or {_BY_OTHER_MEANS}"
    )


def _fetch_rest(address: str, url: str, partial: _Partial, bar: Progress) -> None:
    """One request, for all of the file or for what `partial` lacks of it."""
    import requests

    version = partial.version
    held = partial.size if version else 0
    headers = {"Accept-Encoding": "identity"}  # so that bytes of the answer are bytes of the file
    if held:
        headers |= {"Range": f"bytes={held}-", "If-Range": version}
    try:
        response = requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT)
    except (requests.ConnectionError, requests.Timeout) as error:
        raise _UnreachableError(_reason(error)) from error
    except (requests.RequestException, ValueError) as error:  # urllib3's own are ValueErrors
        raise InputError(
            f"cannot download {address} ({_reason(error)}); check the address"
        ) from error
    with response:
        if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            partial.delete()
            raise _BrokenOffError("the server has fewer bytes than were already here")
        _check_status(address, response)
        version_now, length = _described(response)
        if response.status_code == HTTPStatus.OK:
            held, partial.total = 0, length
            partial.restart(version_now)
        else:
            span = re.match(r"bytes (\d+)-\d+/(\d*)", response.headers.get("Content-Range", ""))
            if not held or span is None or int(span[1]) != held or version_now not in ("", version):
                partial.delete()
                raise _BrokenOffError("the server sent another part of the file than was asked for")
            partial.total = int(span[2]) if span[2] else None
        if partial.total is not None:
            if partial.total - held > shutil.disk_usage(partial.path.parent).free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            bar.update(bar.task_ids[0], total=partial.total)
        bar.update(bar.task_ids[0], completed=held)
        with partial.path.open("ab") as file:
            _write(response, file, bar)
    if partial.total is not None and partial.size != partial.total:
        if partial.size > partial.total:
            partial.delete()
        raise _BrokenOffError("its length is not what the server said")


def _write(response: "requests.Response", file: Any, bar: Progress) -> None:
    import requests

    try:
        for piece in response.iter_content(_PIECE):
            file.write(piece)
            bar.advance(bar.task_ids[0], len(piece))
    except requests.RequestException as error:
        raise _BrokenOffError(_reason(error)) from error
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
            f"{address} may not be read without permission ({answer}); {only}{_BY_OTHER_MEANS}"
        )
    if status == HTTPStatus.TOO_MANY_REQUESTS or status >= 500:
        raise _BrokenOffError(answer)
    raise InputError(f"the server answered {answer} for {address}; check the address")


def _described(response: "requests.Response") -> tuple[str, int | None]:
    """Which version of the file a server sends, fit for If-Range or empty, and its length.

    Neither is the file's if the answer was compressed on the way, which some servers do unasked.
    """
    headers = response.headers
    if headers.get("Content-Encoding", "identity") != "identity":
        return "", None
    version = headers.get("ETag", "")
    if not version or version.startswith("W/"):  # a weak one also stands for other bytes
        version = headers.get("Last-Modified", "")
    length = headers.get("Content-Length", "")
    return version, int(length) if length.isdigit() else None


def _progress(address: str) -> Progress:
    console = Console(stderr=True)
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


# Both -------------------------------------------------------------------------------------------


def offline_variable() -> str:
    """The variable that forbids the network, or an empty string."""
    for variable in OFFLINE_VARIABLES:
        if os.environ.get(variable, "").lower() in ("1", "true", "yes", "on"):
            return variable
    return ""


def _forbidden(address: str, variable: str, instead: str) -> InputError:
    return InputError(
        f"{address} is not in the cache and {variable} forbids the network; unset {variable}, or "
        f"{instead}"
    )


def _verify(address: str, path: Path, sha256: str | None, md5: str | None) -> None:
    """Deletes the file and raises InputError if a digest is not as expected."""
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
                "download was deleted; try again, and if it stays so, another file is there now"
            )


def _no_space(address: str, folder: Path, total: int | None, variable: str) -> InputError:
    needed = "more" if total is None else f"{total:,} bytes"
    free = shutil.disk_usage(folder).free
    return InputError(
        f"the disk is full: {address} needs {needed} and '{folder}' has {free:,} bytes free; make "
        f"room, or set {variable} to a folder on another disk"
    )


def _reason(error: BaseException) -> str:
    """What the operating system said beneath the libraries' wrapping, else the first line."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror.rstrip(".")
        cause = cause.__cause__ or cause.__context__
    return next(iter(str(error).splitlines()), "").rstrip(".") or type(error).__name__
