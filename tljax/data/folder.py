"""`folder:PATH`: images on disk, one folder per class.

Either PATH contains train/, and optionally test/ and val/ (or valid/ or validation/), each with
class folders; or PATH contains the class folders itself. Labels number the training classes in the
order of their names. Files are sorted too, so that their order is the same on every file system.
Hidden files, files that are not images, pipes, sockets and devices are ignored.

Symbolic links are followed, as many data sets consist of them. A broken link named like an image
is an unreadable image. Any other broken link in PATH or in train/, test/ and val/ is an error, as a
whole class could be missing.
"""

import hashlib
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tljax.data.digests import content_digests
from tljax.data.images import EXTENSIONS, decode
from tljax.data.sources import Dataset, Example, Source
from tljax.data.splits import split_off_test
from tljax.errors import InputError

_VAL_NAMES = ("val", "valid", "validation")


class FolderSource(Source):
    """Image files and their labels; a file is decoded at each access.

    Args:
      files: The files.
      labels: A label for each file.
      names: What the files are called within the data, e.g. `train/cat/1.jpg`, so that moving the
        data changes no name; None: the name of the file and of its folder.
    """

    def __init__(
        self, files: Sequence[Path], labels: Sequence[int], names: Sequence[str] | None = None
    ):
        self.files = list(files)
        self.labels = np.asarray(labels, dtype=np.int64)
        self.names = [f"{f.parent.name}/{f.name}" for f in files] if names is None else list(names)
        self._digests: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int, /) -> Example:
        return {"image": decode(self.files[index]), "label": int(self.labels[index])}

    def digests(self, rows: np.ndarray) -> list[str]:
        """Returns the digest of the content of each file at `rows`; each file is read once."""
        new = [row for row in dict.fromkeys(rows.tolist()) if row not in self._digests]
        found = content_digests([self.files[row] for row in new])
        self._digests |= zip(new, found, strict=True)
        return [self._digests[row] for row in rows.tolist()]

    def fingerprint(self) -> str:
        """Hashes the name, label and whole content of every file.

        The path of the data and file dates are not hashed, so a copy has the same fingerprint.
        """
        return self.subset_fingerprint(np.arange(len(self)))

    def subset_fingerprint(self, rows: np.ndarray) -> str:
        """Hashes the same of the files at `rows` alone."""
        sha = hashlib.sha256()
        for row, content in zip(rows.tolist(), self.digests(rows), strict=True):
            sha.update(os.fsencode(f"{self.names[row]}\0{self.labels[row]}\0{content}\0"))
        return sha.hexdigest()


def load(path: str) -> Dataset:
    """Lists the images below `path`; decodes none.

    If there is no test/, a fifth of each class is split off as test images, always the same ones.

    Raises:
      InputError: The folder is missing, empty or not readable, or has another layout.
    """
    root = find_root(path)
    train_root = _find_train(root)
    classes = read_class_names(path)
    train: Source = _list_split(train_root, classes)
    val: Source | None = None
    test: Source | None = None
    if train_root != root:
        val = _list_split_if_present(root, _VAL_NAMES, classes)
        test = _list_split_if_present(root, ("test",), classes)
    if test is None:
        train, test = split_off_test(train, root, "a test folder")
    return Dataset(f"folder:{path}", classes, train, val, test)


def read_class_names(path: str) -> tuple[str, ...]:
    """Returns the names of the training classes, sorted.

    Raises:
      InputError: There is no such folder, or it has fewer than two class folders.
    """
    train_root = _find_train(find_root(path))
    names = _list_folders(train_root)
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


def packaged_folder_spec(package: str, path: str) -> str:
    """Returns the spec `folder:PATH` of images at `path` in an installed Python package.

    Raises:
      InputError: The package is not installed.
    """
    return f"folder:{find_in_package(package, path)}"


def find_in_package(package: str, path: str) -> Path:
    """Returns the absolute path of a file or folder in an installed Python package.

    The package is not imported, as that can take seconds.

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
    """Returns all image files below `root`, sorted; hidden files and folders are ignored.

    Links to folders are followed. Each folder is visited once, so circular links are no problem.

    Raises:
      InputError: A folder is not readable.
    """
    found: list[Path] = []
    visited: set[str] = set()
    to_visit = [root]
    while to_visit:
        folder = to_visit.pop()
        if (real := os.path.realpath(folder)) not in visited:
            visited.add(real)
            entries = _list_entries(folder)
            found += [Path(entry.path) for entry in entries if _is_image(entry)]
            to_visit += [Path(entry.path) for entry in reversed(entries) if _is_folder(entry)]
    return sorted(found)


def find_root(path: str) -> Path:
    """Returns the folder that `folder:PATH` names, with `~` and `~user` replaced.

    Raises:
      InputError: It does not exist, or is a file.
    """
    root = Path(os.path.expanduser(path))  # the name of an unknown user is kept, and not found
    if not os.path.exists(root):
        raise InputError(f"the data folder {root} does not exist; check the path")
    if not os.path.isdir(root):
        raise InputError(f"{root} is a file; give the folder that holds the class folders")
    return root


def _find_train(root: Path) -> Path:
    """The folder of the training classes. A train/ that contains images is a class itself."""
    train = root / "train"
    return train if os.path.isdir(train) and not _list_images(train) else root


def _list_split_if_present(
    root: Path, names: tuple[str, ...], classes: tuple[str, ...]
) -> FolderSource | None:
    present = [name for name in _list_folders(root) if name in names]
    if len(present) > 1:
        raise InputError(f"{root} holds both {present[0]} and {present[1]}; keep one of them")
    return _list_split(root / present[0], classes) if present else None


def _list_split(root: Path, classes: tuple[str, ...]) -> FolderSource:
    """The images in the class folders of `root`, which must be among `classes`."""
    present = _list_folders(root)
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
        found = _list_images(root / name)
        if not found:
            raise InputError(
                f"the class folder {root / name} holds no {', '.join(EXTENSIONS)} image; add some "
                "or remove it"
            )
        files += found
        labels += [classes.index(name)] * len(found)
    return FolderSource(files, labels)


def _list_folders(root: Path) -> list[str]:
    """Names of the folders in `root`, sorted."""
    entries = _list_entries(root)
    for entry in entries:
        if _is_broken_link(entry) and not _is_image(entry):
            raise InputError(f"the link {entry.path} leads nowhere; fix it or remove it")
    return [entry.name for entry in entries if _is_folder(entry)]


def _list_images(folder: Path) -> list[Path]:
    """The image files in a class folder, sorted."""
    return [Path(entry.path) for entry in _list_entries(folder) if _is_image(entry)]


def _list_entries(folder: Path) -> list[os.DirEntry[str]]:
    """The files and folders in a folder, sorted by name, without hidden ones."""
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(
            f"cannot read the folder {folder}: {error.strerror or error}; check its permissions"
        ) from error
    return sorted(visible, key=lambda entry: entry.name)


# Of a link `os.path` is asked, because an entry raises an error for one that leads to itself.


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _is_image(entry: os.DirEntry[str]) -> bool:
    if not entry.name.lower().endswith(EXTENSIONS):
        return False
    if entry.is_symlink():
        return os.path.isfile(entry.path) or _is_broken_link(entry)
    return entry.is_file()


def _is_broken_link(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() and not os.path.exists(entry.path)
