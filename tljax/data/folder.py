"""`folder:PATH`: images on disk, one folder per class.

Either PATH holds train/, and perhaps test/ and val/ (or valid/ or validation/), each with class
folders; or PATH holds the class folders itself. Classes are sorted by name and numbered in the
order of the training classes; files are sorted too, so that the order is the same on every file
system. Hidden files and files that are not images are ignored.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tljax.data.images import EXTENSIONS, decode
from tljax.data.sources import Dataset, Example, Source, Subset
from tljax.data.splits import carve
from tljax.errors import InputError

_TEST_FRACTION = 0.2
_VAL_NAMES = ("val", "valid", "validation")


class FolderSource(Source):
    """Image files and their labels; a file is decoded whenever it is asked for."""

    def __init__(self, files: list[Path], labels: list[int]):
        self.files = files
        self.labels = np.asarray(labels, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int, /) -> Example:
        return {"image": decode(self.files[index]), "label": int(self.labels[index])}


def load(path: str) -> Dataset:
    """List the images below `path`; none is decoded.

    Where there is no test/, a fifth of each class is split off as test images. That split
    belongs to the data: it does not depend on the seed of an experiment, and changes only
    when files are added or removed.

    Raises:
      InputError: The folder is missing, empty, or laid out in another way.
    """
    root = Path(path).expanduser()
    train_root = _train_root(root)
    classes = class_names(path)
    train: Source = _read(train_root, classes)
    val: Source | None = None
    test: Source | None = None
    if train_root != root:
        val = _read_if_present(root, _VAL_NAMES, classes)
        test = _read_if_present(root, ("test",), classes)
    if test is None:
        rng = np.random.default_rng(0)
        kept, carved = carve(train.labels, _TEST_FRACTION, rng)
        if len(carved) == 0:
            raise InputError(
                f"{root} has one image a class, so none can be kept for testing; add images or a "
                "test folder"
            )
        train, test = Subset(train, kept), Subset(train, carved)
    return Dataset(f"folder:{path}", classes, train, val, test)


def class_names(path: str) -> tuple[str, ...]:
    """Names of the training classes, sorted.

    Raises:
      InputError: There is no such folder, or it does not hold two class folders.
    """
    train_root = _train_root(Path(path).expanduser())
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


def find_images(root: Path) -> list[Path]:
    """All image files below `root`, sorted; hidden files and folders are ignored."""
    with os.scandir(root) as entries:
        folders = [Path(e.path) for e in entries if e.is_dir() and not _hidden(e)]
    return sorted([*_images(root), *(file for folder in folders for file in find_images(folder))])


def _train_root(root: Path) -> Path:
    """Where the training classes lie: a train/ of images is a class like any other."""
    if not root.exists():
        raise InputError(f"the data folder {root} does not exist; check the path")
    if not root.is_dir():
        raise InputError(f"{root} is a file; give the folder that holds the class folders")
    train = root / "train"
    return train if train.is_dir() and not any(_images(train)) else root


def _read_if_present(
    root: Path, names: tuple[str, ...], classes: tuple[str, ...]
) -> FolderSource | None:
    present = [name for name in names if (root / name).is_dir()]
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
        found = sorted(_images(root / name))
        if not found:
            raise InputError(
                f"the class folder {root / name} holds no {', '.join(EXTENSIONS)} image; add some "
                "or remove it"
            )
        files += found
        labels += [classes.index(name)] * len(found)
    return FolderSource(files, labels)


def _folders(root: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not _hidden(entry))


def _images(root: Path) -> Iterator[Path]:
    for entry in os.scandir(root):
        if entry.name.lower().endswith(EXTENSIONS) and entry.is_file() and not _hidden(entry):
            yield Path(entry.path)


def _hidden(entry: os.DirEntry) -> bool:
    return entry.name.startswith(".")
