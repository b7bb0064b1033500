"""From an address or path to a file on this disk, and from the Hugging Face hub to its cache.

`huggingface_hub` fetches and caches `hf://OWNER/REPO[@REVISION]/PATH`; `download` fetches
`https://`, `http://` and `gs://BUCKET/OBJECT`. `folders` chooses the files of a repository.
"""

import errno
import os
import re
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from tljax.console import warn_once
from tljax.errors import InputError
from tljax.weights.download import (
    OTHER_WAY,
    cache_path,
    check_digests,
    describe_error,
    disk_full_error,
    download,
    offline_error,
    offline_variable,
    web_url,
)
from tljax.weights.read import is_weights_name


class NoSuchFile(InputError):
    """The repository has no file of this name."""


def is_fetchable(text: str) -> bool:
    """Returns whether `text` has one of the schemes that `fetch_file` fetches."""
    return re.match(r"(hf|gs|https?)://", text) is not None


def fetch_file(address: str, *, sha256: str | None = None, md5: str | None = None) -> Path:
    """Returns the file at an address; downloads it only if it is not in a cache.

    Args:
      address: `hf://OWNER/REPO/PATH`, `hf://OWNER/REPO@REVISION/PATH`, `https://...`, `http://...`,
        `gs://BUCKET/OBJECT` (of a public bucket), or the path of a file or directory.
      sha256: first hex digits of the file's digest; torchvision's file names carry 8 of them.
      md5: the whole hex digest of the file. Both are checked only after a download.

    Returns:
      A file, or a directory if `address` is the path of one.

    Raises:
      InputError: if there is no such file, it may not be read, it cannot be reached or stored, the
        network is forbidden (`TLJAX_OFFLINE=1` or `HF_HUB_OFFLINE=1`), or a digest differs.
    """
    if address.startswith("hf://"):
        return _fetch_from_hub(address, sha256, md5)
    if is_fetchable(address):
        return download(address, sha256, md5)
    path = Path(os.path.expanduser(address))
    if not os.path.exists(path):
        raise InputError(
            f"there is no file '{address}'; check the path (addresses begin with hf://, https://, "
            "http:// or gs://)"
        )
    return path


def find_cached(address: str) -> Path | None:
    """Returns the file at an address or path if it is on this disk; never uses the network."""
    if address.startswith("hf://"):
        found = _look_up_in_hub_cache(_parse_hub_address(address))
        return Path(found) if isinstance(found, str) else None
    if is_fetchable(address):
        path = cache_path(web_url(address))
    else:
        path = Path(os.path.expanduser(address))
    return path if path.is_file() else None


def fetch_sidecar(address: str, filename: str) -> Path | None:
    """Returns the file of that name next to a weights file, e.g. `config.json`, or None.

    Args:
      address: as for `fetch_file`.
      filename: without a folder.

    Returns:
      For `hf://`, the file in the same folder of the repository (or in that repository); None if
      there is none or, with a warning, if it cannot be fetched. For a path, the file in the same
      folder (or in the directory at that path) or None. For other addresses None: web servers do
      not list folders.
    """
    if address.startswith("hf://"):
        folder = address if is_repository(address) else address.rpartition("/")[0]
        neighbour = f"{folder}/{filename}"
        try:
            missing = _is_known_missing(_parse_hub_address(neighbour))
            return None if missing else fetch_file(neighbour)
        except NoSuchFile:
            return None
        except InputError as error:
            warn_once(
                f"cannot read {filename} of the weights, which says how images are prepared"
                f" ({error})",
                key=f"{folder}: sidecar",
            )
            return None
    if is_fetchable(address):
        return None
    path = Path(os.path.expanduser(address))
    found = (path if path.is_dir() else path.parent) / filename
    return found if found.is_file() else None


def address_beside(address: str, file: Path, filename: str) -> str:
    """Returns the address of another file in the folder of a fetched file, of the same version.

    Args:
      address: of the fetched file, as for `fetch_file`.
      file: where it lies on this disk.
      filename: of the other file, without a folder.
    """
    if not is_fetchable(address):
        return str(file.with_name(filename))
    place, mark, query = address.partition("?")
    beside = f"{place.rpartition('/')[0]}/{filename}{mark}{query}"
    if not address.startswith("hf://"):
        return beside
    hub = _parse_hub_address(beside)
    commit = file.parts[-1 - len(hub.path.split("/"))]  # as the hub's cache names folders
    return f"hf://{hub.repo}@{commit}/{hub.path}"


# Hugging Face hub -------------------------------------------------------------------------------

_REPOSITORY = r"hf://([^/@]+/[^/@]+)(?:@(refs/(?:pr|convert)/[^/]+|[^/]+))?"


class _HubFile(NamedTuple):
    repo: str
    revision: str
    path: str


def is_repository(address: str) -> bool:
    """Returns whether an address names a whole repository: `hf://OWNER/REPO[@REVISION]`."""
    match = re.fullmatch(_REPOSITORY, address)
    return match is not None and not is_weights_name(match[1])


def _parse_hub_address(address: str) -> _HubFile:
    match = re.fullmatch(rf"{_REPOSITORY}/(.*[^/])", address)
    if match is None:
        raise InputError(
            f"'{address}' does not name a repository or a file of one; write hf://OWNER/REPO/PATH,"
            " hf://OWNER/REPO@REVISION/PATH, or either without the PATH"
        )
    repo, revision, path = match.groups()
    return _HubFile(repo, unquote(revision or "main"), path)


def _look_up_in_hub_cache(file: _HubFile) -> Any:
    """A path, a marker that this revision has no such file, or None if the cache does not know."""
    import huggingface_hub  # slow to import, and only hf:// addresses need it

    try:
        return huggingface_hub.try_to_load_from_cache(file.repo, file.path, revision=file.revision)
    except ValueError as error:  # not a valid name of a repository, or path of a file
        raise InputError(
            f"'hf://{file.repo}/{file.path}' is not an address on the Hugging Face hub "
            f"({describe_error(error)}); write hf://OWNER/REPO/PATH"
        ) from error


def _is_known_missing(file: _HubFile) -> bool:
    found = _look_up_in_hub_cache(file)
    return found is not None and not isinstance(found, str)


def has_file(address: str) -> bool:
    """Returns whether a repository has the file at an `hf://` address; asks the hub if need be."""
    file = _parse_hub_address(address)
    found = _look_up_in_hub_cache(file)
    if found is not None:
        return isinstance(found, str)
    try:
        _request_metadata(address, file)
    except NoSuchFile:
        return False
    return True


def _fetch_from_hub(address: str, sha256: str | None, md5: str | None) -> Path:
    """Returns the file in the hub's own cache; downloads it if it is not there.

    A cached file of a branch is not compared with the branch, so that a resumed run keeps the
    weights that it started from.
    """
    file = _parse_hub_address(address)
    found = _look_up_in_hub_cache(file)
    if isinstance(found, str):
        return Path(found)
    # Without a network or permission, hf_hub_download retries for half a minute and logs each
    # attempt. This request fails at once.
    _request_metadata(address, file)

    import huggingface_hub

    try:
        path = huggingface_hub.hf_hub_download(file.repo, file.path, revision=file.revision)
    except Exception as error:  # the hub's transports raise errors of their own, of no common kind
        raise _hub_error(error, address, file) from error
    check_digests(address, Path(path), sha256, md5)
    return Path(path)


def _request_metadata(address: str, file: _HubFile) -> None:
    """Asks the hub for a file's length and version; InputError if it may not or cannot be read."""
    if variable := offline_variable():
        raise offline_error(address, variable, "give init_from the path of a copy")

    import huggingface_hub

    try:
        huggingface_hub.get_hf_file_metadata(
            huggingface_hub.hf_hub_url(file.repo, file.path, revision=file.revision)
        )
    except Exception as error:  # the hub's transports raise errors of their own, of no common kind
        raise _hub_error(error, address, file) from error


_VIT_SIZES = {"s": "small", "b": "base", "l": "large", "h": "huge"}


def open_copy(repository: str) -> str | None:
    """The name in the zoo of weights whose own repository is gated; None if none is known.

    open_copy("facebook/dinov3-vits16-pretrain-lvd1689m")
    # 'vit_small_patch16_dinov3_qkvb.lvd1689m'
    """
    vit = re.fullmatch(r"facebook/dinov3-vit([sblh])16(plus)?-pretrain-(\w+)", repository)
    if vit is not None:
        size = _VIT_SIZES[vit[1]] + ("_plus" if vit[2] else "")
        return f"vit_{size}_patch16_dinov3_qkvb.{vit[3]}"
    convnext = re.fullmatch(r"facebook/dinov3-convnext-(\w+)-pretrain-(\w+)", repository)
    return f"convnext_{convnext[1]}.dinov3_{convnext[2]}" if convnext else None


def _hub_error(error: Exception, address: str, file: _HubFile) -> InputError:
    """What the user can do about an error of `huggingface_hub`."""
    import huggingface_hub
    from huggingface_hub import errors

    repository = f"repository '{file.repo}' on the Hugging Face hub"
    if isinstance(error, errors.GatedRepoError):  # a kind of RepositoryNotFoundError
        copy = open_copy(file.repo)
        return InputError(
            f"the {repository} is gated; ask for access on its page there, then log in with `hf "
            "auth login` or set HF_TOKEN"
            + (f"; init_from={copy} is a copy that is not gated" if copy else "")
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return InputError(
            f"there is no {repository}, or it is private; check the name, or log in with `hf auth "
            "login` or set HF_TOKEN"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return InputError(
            f"the {repository} has no revision '{file.revision}'; give a branch, tag or commit "
            "that it has"
        )
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return NoSuchFile(
            f"the {repository} has no file '{file.path}' at revision '{file.revision}'; check the "
            "path"
        )
    if isinstance(error, errors.OfflineModeIsEnabled):  # HF_HUB_OFFLINE when it was imported
        return offline_error(address, "HF_HUB_OFFLINE", "give init_from the path of a copy")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        folder = Path(huggingface_hub.constants.HF_HUB_CACHE)
        return disk_full_error(address, folder, None, "HF_HOME")
    return InputError(
        f"cannot download {address} ({describe_error(error)}); check the connection, or {OTHER_WAY}"
    )
