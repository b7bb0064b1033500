"""Lists and fetches the Parquet files of a data set on the Hugging Face hub.

The hub keeps data of other forms as Parquet, too, on the branch `refs/convert/parquet`.
"""

import contextlib
import errno
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tljax.console import progress_bar
from tljax.data.forms.shards import list_below
from tljax.data.table.spec import Spec
from tljax.errors import InputError
from tljax.weights.download import describe_error, offline_variable

_CONVERTED = "refs/convert/parquet"
_ADDRESS = re.compile(r"//datasets/([\w.-]+/[\w.-]+)(?:@(refs/[^/]+/[^/]+|[^/@]+))?/?")


class Repository(NamedTuple):
    """A data set on the hub; `revision` None: its own Parquet files or, without, the hub's."""

    name: str
    revision: str | None

    def __str__(self) -> str:
        return f"hf://datasets/{self.name}" + (f"@{self.revision}" if self.revision else "")


def parse_address(spec: Spec) -> Repository:
    """Returns the data set that `hf://datasets/OWNER/NAME[@REVISION]` names.

    Raises:
      InputError: The address is another one.
    """
    match = _ADDRESS.fullmatch(spec.target)
    if match is None:
        raise InputError(
            f"'{spec}' is no address of a data set; write hf://datasets/OWNER/NAME or"
            " hf://datasets/OWNER/NAME@REVISION"
        )
    return Repository(match[1], match[2])


def find_files(repository: Repository) -> tuple[Repository, list[str]]:
    """Returns the data set with the revision that has Parquet files, and their paths, sorted.

    Raises:
      InputError: The hub cannot be reached, or has no such data set or files.
    """
    revisions = [repository.revision] if repository.revision else ["main", _CONVERTED]
    for revision in revisions:
        found = repository._replace(revision=revision)
        names = [name for name in _list(found) if name.endswith(".parquet")]
        if partial := [name for name in names if "partial-" in name]:
            raise InputError(
                f"the hub's Parquet copy of {repository} is only a part of it ({partial[0]}); fetch"
                " the data, and name the copy with hf:FOLDER, folder:FOLDER or csv:FILE"
            )
        if names:
            return found, sorted(names)
    raise InputError(
        f"{repository} has no Parquet files; fetch it, and name the copy with hf:FOLDER,"
        " folder:FOLDER or csv:FILE"
    )


def fetch(repository: Repository, names: Sequence[str]) -> dict[str, Path]:
    """Returns where copies of the files are, in the hub's own cache; downloads missing ones.

    Raises:
      InputError: One cannot be fetched.
    """
    import huggingface_hub

    files = {}
    with progress_bar() as bar:
        for name in bar.track(names, description=f"fetching {repository.name}"):
            try:
                path = huggingface_hub.hf_hub_download(
                    repository.name,
                    name,
                    repo_type="dataset",
                    revision=repository.revision,
                    local_files_only=bool(offline_variable()),
                )
            except Exception as error:  # the hub's transports raise errors of no common kind
                raise _error(repository, error) from error
            files[name] = Path(path)
    return files


def _list(repository: Repository) -> list[str]:
    """The paths of the files of a revision; of a branch that is not there none."""
    import huggingface_hub
    from huggingface_hub import errors

    try:
        if offline_variable():
            folder = huggingface_hub.snapshot_download(
                repository.name,
                repo_type="dataset",
                revision=repository.revision,
                local_files_only=True,
            )
            return list_below(Path(folder), (".parquet",))
        _ask(repository)
        return huggingface_hub.HfApi().list_repo_files(
            repository.name, repo_type="dataset", revision=repository.revision
        )
    except Exception as error:  # the hub's transports raise errors of no common kind
        absent = isinstance(error, errors.RevisionNotFoundError)
        if repository.revision == _CONVERTED and (absent or offline_variable()):
            return []
        raise _error(repository, error) from error


def _ask(repository: Repository) -> None:
    """Asks for a file that all data sets have: it fails at once, where others retry and log."""
    import huggingface_hub
    from huggingface_hub import errors

    url = huggingface_hub.hf_hub_url(
        repository.name, ".gitattributes", repo_type="dataset", revision=repository.revision
    )
    with contextlib.suppress(errors.EntryNotFoundError):
        huggingface_hub.get_hf_file_metadata(url)


def _error(repository: Repository, error: Exception) -> InputError:
    """What the user can do about an error of `huggingface_hub`."""
    from huggingface_hub import errors

    address = f"hf://datasets/{repository.name}"
    if variable := offline_variable():
        return InputError(
            f"{address} is not in the hub's cache and {variable} forbids the network; unset"
            f" {variable}, or name a copy with hf:FOLDER"
        )
    if isinstance(error, errors.GatedRepoError):  # a kind of RepositoryNotFoundError
        return InputError(
            f"{address} is gated; ask for access on its page, then log in with `hf auth login` or"
            " set HF_TOKEN"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return InputError(
            f"there is no {address}, or it is private; check the name, or log in with `hf auth"
            " login` or set HF_TOKEN"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return InputError(
            f"{address} has no revision '{repository.revision}'; give a branch, tag or commit that"
            " it has"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InputError(f"no room for {address}; make room, or set HF_HOME to another disk")
    return InputError(
        f"cannot fetch {address} ({describe_error(error)}); check the connection, or fetch it"
        " elsewhere and name the copy with hf:FOLDER"
    )
