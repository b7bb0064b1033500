"""Lists the files that a data set is spread over, and tells by their names which split each is of.

A place is a file, a folder with files in it, at any depth, or a pattern: `*`, `[0-9]`, or braces,
`{000..009}` and `{a,b}`. Of files at an address such as `gs://BUCKET/DATA/*.tar` local copies are
made.
"""

import glob
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from tljax.data import remote
from tljax.data.layout import split_of
from tljax.data.table.spec import Spec
from tljax.errors import InputError, printable

_BRACES = re.compile(r"\{([^{}]*)\}")
_MOST_SHARDS = 1_000_000


@dataclass(frozen=True)
class Shard:
    """A file of a data set.

    Attributes:
      file: Where it is.
      name: Its path within the data.
      split: `train`, `val` or `test`; None: its name does not say.
    """

    file: Path
    name: str
    split: str | None


def find_shards(spec: Spec, suffixes: Sequence[str]) -> list[Shard]:
    """Returns the files at the place that a spec names, sorted; those of patterns in their order.

    Args:
      spec: Of the data.
      suffixes: In lower case: of the files that count in a folder.

    Raises:
      InputError: There are none, or only some of them are named after a split.
    """
    if remote.is_address(spec.target):
        shards = _copies(spec, suffixes)
    elif spec.file.is_dir():
        names = list_below(spec.file, suffixes)
        if not names:
            raise InputError(
                f"{spec.file} holds no {' or '.join(suffixes)} files; check the path and the form"
                f" {spec.scheme}:"
            )
        shards = [Shard(spec.file / name, name, split_of_name(name)) for name in names]
    else:
        files = list(map(Path, _expand(str(spec.file))))
        if missing := [file for file in files if not os.path.isfile(file)]:
            raise InputError(f"{missing[0]} does not exist or is no file; check the path")
        fixed = _fixed_folder(spec.file)
        names = [Path(os.path.relpath(file, fixed)).as_posix() for file in files]
        shards = [
            Shard(file, name, split_of_name(name)) for file, name in zip(files, names, strict=True)
        ]
    return with_splits(shards, str(spec))


def with_splits(shards: list[Shard], whole: str) -> list[Shard]:
    """Returns the shards; InputError if some of them are named after a split and others are not."""
    without = next((shard for shard in shards if shard.split is None), None)
    named = next((shard for shard in shards if shard.split is not None), None)
    if without is not None and named is not None:
        raise InputError(
            f"of the files of {whole} '{printable(named.name)}' has {named.split} in its name, but"
            f" '{printable(without.name)}' has no split in its name; rename it, or name fewer files"
        )
    return shards


def list_below(folder: Path, suffixes: Sequence[str]) -> list[str]:
    """Returns the paths of the files with these suffixes in a folder, sorted; not hidden ones."""
    found = []
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if name.lower().endswith(tuple(suffixes)) and not name.startswith("."):
                found.append(Path(place, name).relative_to(folder).as_posix())
    return sorted(found)


def split_of_name(path: str) -> str | None:
    """Returns the split that a path says in its file's name or, if not there, in a folder's.

    Example:
      split_of_name("data/train-00000-of-00002.parquet")  # "train"
    """
    for part in reversed(path.split("/")):
        for word in re.split(r"[^A-Za-z]+", part.partition(".")[0]):
            if (split := split_of(word)) is not None:
                return split
    return None


def _fixed_folder(pattern: Path) -> str:
    """The folder that all files of a pattern are in, so that folders which it chooses tell splits.

    Example:
      _fixed_folder(Path("data/{train,test}/*.tar"))  # "data"
    """
    if pattern.exists():
        return str(pattern.parent)
    return os.path.dirname(re.split(r"[*\[{]", str(pattern))[0]) or "."


def _expand(pattern: str) -> list[str]:
    """The paths that a pattern stands for; the text itself if such a file exists."""
    if os.path.exists(pattern):
        return [pattern]
    found: list[str] = []
    for path in itertools.islice(_expand_braces(pattern), _MOST_SHARDS):
        if "*" in path or "[" in path:
            matching = sorted(glob.glob(path, recursive=True))
            if not matching:
                raise InputError(f"no file is called {path}; check the path")
            found += matching
        else:
            found.append(path)
    return found


def _expand_braces(text: str) -> Iterator[str]:
    match = _BRACES.search(text)
    if match is None:
        yield text
        return
    inner = match[1]
    span = re.fullmatch(r"(\d{1,12})\.\.(\d{1,12})", inner)
    options: Sequence[str] | Iterator[str] = inner.split(",")
    if span:
        first, last, width = int(span[1]), int(span[2]), len(span[1])
        options = (f"{number:0{width}}" for number in range(first, last + 1))
    for option in options:
        yield from _expand_braces(f"{text[: match.start()]}{option}{text[match.end() :]}")


def _copies(spec: Spec, suffixes: Sequence[str]) -> list[Shard]:
    """Local copies of the files at an address, in one folder there."""
    if spec.target.startswith(("http://", "https://")):
        raise InputError(
            f"{spec} is a web address, whose files cannot be listed; fetch them, and name the"
            " copies, or give a gs:// address"
        )
    folder, _, last = spec.target.rpartition("/")
    is_pattern = last.lower().endswith(tuple(suffixes))
    copy = remote.LocalCopy(folder if is_pattern else spec.target)
    there = [name for name in copy.remote_names() if name.lower().endswith(tuple(suffixes))]
    names = there
    if is_pattern:
        wanted = list(itertools.islice(_expand_braces(last), _MOST_SHARDS))
        names = [name for one in wanted for name in there if name == one or fnmatch(name, one)]
        absent = [one for one in wanted if not any(fnmatch(name, one) for name in there)]
        if absent:
            raise InputError(f"{folder}/{absent[0]} does not exist; check the address")
    if not names:
        raise InputError(f"{spec} holds no {' or '.join(suffixes)} files; check the address")
    copy.fetch(names)
    return [Shard(copy.folder / name, name, split_of_name(name)) for name in names]
