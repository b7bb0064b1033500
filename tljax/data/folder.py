"""`folder:PATH`: images on disk, one folder per class.

Either PATH holds train/, and perhaps test/ and val/ (or valid/ or validation/), each with class
folders; or PATH holds the class folders itself. Classes are sorted by name and numbered in the
order of the training classes; files are sorted too, so that the order is the same on every file
system. Hidden files, files that are not images, pipes, sockets and devices are ignored.

Links are followed wherever they lead, as many data sets are made of them. A link that leads nowhere
is an error: named like an image, it is one that cannot be read; anywhere else in PATH, and in
train/ and its like, it would be a folder that silently lacks.
"""

import functools
import hashlib
import importlib.util
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from tljax.data.images import EXTENSIONS, decode
from tljax.data.sources import Dataset, Example, Source
from tljax.data.splits import carve_test
from tljax.errors import InputError

_FINGERPRINTED = 2**28  # bytes of images that a fingerprint reads
_AT_ONCE = 256  # files that a thread is given: one by one, handing them out takes longest
_VAL_NAMES = ("val", "valid", "validation")

_T = TypeVar("_T")


class FolderSource(Source):
    """Image files and their labels; a file is decoded whenever it is asked for."""

    def __init__(self, files: list[Path], labels: list[int]):
        self.files = files
        self.labels = np.asarray(labels, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int, /) -> Example:
        return {"image": decode(self.files[index]), "label": int(self.labels[index])}

    def fingerprint(self) -> str:
        """Over every file's class folder, name, label and size, and over contents.

        Read is every file, or, of data of more than 256 MiB, every n-th: an edit that leaves the
        size of another file as it was goes unnoticed there. Neither the folder's place nor dates
        count, so a copy is the same data.
        """
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        sizes = _in_threads(_size, self.files)
        stride = max(1, math.ceil(sum(sizes) / _FINGERPRINTED))
        contents = _in_threads(_content_digest, self.files[::stride])
        digest = hashlib.sha256(repr((sizes, contents)).encode())
        for file, label in zip(self.files, self.labels, strict=True):
            digest.update(os.fsencode(f"{file.parent.name}/{file.name}\0{label}\0"))
        return digest.hexdigest()


def load(path: str) -> Dataset:
    """List the images below `path`; none is decoded.

    Where there is no test/, a fifth of each class is split off as test images, always the same.

    Raises:
      InputError: The folder is missing, empty, may not be read, or is laid out in another way.
    """
    root = _root(path)
    train_root = _train_root(root)
    classes = class_names(path)
    train: Source = _read(train_root, classes)
    val: Source | None = None
    test: Source | None = None
    if train_root != root:
        val = _read_if_present(root, _VAL_NAMES, classes)
        test = _read_if_present(root, ("test",), classes)
    if test is None:
        train, test = carve_test(train, root, "a test folder")
    return Dataset(f"folder:{path}", classes, train, val, test)


def class_names(path: str) -> tuple[str, ...]:
    """Names of the training classes, sorted.

    Raises:
      InputError: There is no such folder, or it does not hold two class folders.
    """
    train_root = _train_root(_root(path))
    names = _folders(train_root)
    if not names:
        raise InputError(
            f"{train_root} holds no class folders; put the images of each class into a folder of "
            "its own"
        )
    if len(names) == 1:
        raise InputError(
            f"{train_root} holds only one class folder, '{names[0]}'; add at least one more class"
        )
    return tuple(names)


def packaged(package: str, path: str) -> str:
    """`folder:PATH` for images that an installed Python package ships at `path` inside it.

    Raises:
      InputError: The package is not installed.
    """
    return f"folder:{shipped(package, path)}"


def shipped(package: str, path: str) -> Path:
    """Where an installed Python package has the file or folder `path`; it is not imported, which
    for some takes seconds.

    Raises:
      InputError: The package is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"the package {package}, which ships these images, is not installed; pip install it"
        )
    return Path(spec.submodule_search_locations[0]) / path


def find_images(root: Path) -> list[Path]:
    """All image files below `root`, sorted; hidden files and folders are ignored.

    Links to folders are followed; a folder that was seen already is not gone through again, so
    links that lead in a circle end.

    Raises:
      InputError: A folder may not be read.
    """
    found: list[Path] = []
    seen: set[str] = set()
    left = [root]
    while left:
        folder = left.pop()
        if (real := os.path.realpath(folder)) not in seen:
            seen.add(real)
            entries = _entries(folder)
            found += [Path(entry.path) for entry in entries if _is_image(entry)]
            left += [Path(entry.path) for entry in reversed(entries) if _is_folder(entry)]
    return sorted(found)


def _root(path: str) -> Path:
    """With the home of a user in full; `~nobody` stays as it is, and is then not found."""
    return Path(os.path.expanduser(path))


def _train_root(root: Path) -> Path:
    """Where the training classes lie: a train/ of images is a class like any other."""
    if not os.path.exists(root):
        raise InputError(f"the data folder {root} does not exist; check the path")
    if not os.path.isdir(root):
        raise InputError(f"{root} is a file; give the folder that holds the class folders")
    train = root / "train"
    return train if os.path.isdir(train) and not _images(train) else root


def _read_if_present(
    root: Path, names: tuple[str, ...], classes: tuple[str, ...]
) -> FolderSource | None:
    present = [name for name in _folders(root) if name in names]
    if len(present) > 1:
        raise InputError(f"{root} holds both {present[0]} and {present[1]}; keep one of them")
    return _read(root / present[0], classes) if present else None


def _read(root: Path, classes: tuple[str, ...]) -> FolderSource:
    """The images below `root`, whose folders must be among `classes`."""
    present = _folders(root)
    if not present:
        raise InputError(f"{root} holds no class folders; fill it or remove it")
    unknown = [name for name in present if name not in classes]
    if unknown:
        raise InputError(
            f"{root} holds classes that the training images lack: {', '.join(unknown)}; remove or "
            "rename them"
        )
    files: list[Path] = []
    labels: list[int] = []
    for name in present:
        found = _images(root / name)
        if not found:
            raise InputError(
                f"the class folder {root / name} holds no {', '.join(EXTENSIONS)} image; add some "
                "or remove it"
            )
        files += found
        labels += [classes.index(name)] * len(found)
    return FolderSource(files, labels)


def _folders(root: Path) -> list[str]:
    """Names of the folders in it, sorted."""
    entries = _entries(root)
    for entry in entries:
        if _leads_nowhere(entry) and not _is_image(entry):
            raise InputError(f"the link {entry.path} leads nowhere; mend it or remove it")
    return [entry.name for entry in entries if _is_folder(entry)]


def _images(folder: Path) -> list[Path]:
    """The image files in a class folder, sorted."""
    return [Path(entry.path) for entry in _entries(folder) if _is_image(entry)]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, without what is hidden, sorted by name."""
    try:
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(
            f"cannot read the folder {folder}: {error.strerror or error}; check its permissions"
        ) from error
    return sorted(shown, key=lambda entry: entry.name)


# Of a link `os.path` is asked, because an entry raises an error for one that leads to itself.


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _is_image(entry: os.DirEntry[str]) -> bool:
    if not entry.name.lower().endswith(EXTENSIONS):
        return False
    if entry.is_symlink():
        return os.path.isfile(entry.path) or _leads_nowhere(entry)
    return entry.is_file()


def _leads_nowhere(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() and not os.path.exists(entry.path)


def _in_threads(function: Callable[[Path], _T], files: Sequence[Path]) -> list[_T]:
    """The function of each file, in order."""
    parts = [files[start : start + _AT_ONCE] for start in range(0, len(files), _AT_ONCE)]
    with ThreadPoolExecutor() as pool:
        answers = pool.map(lambda part: [function(file) for file in part], parts)
        return [answer for part in answers for answer in part]


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # it cannot be read: whether that matters is not asked here
        return -1


def _content_digest(file: Path) -> str:
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError:
        return ""
