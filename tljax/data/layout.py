"""Tells which folders of a `folder:PATH` hold the training, validation and test images."""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tljax.data.images import EXTENSIONS
from tljax.data.listing import (
    holds_images,
    is_broken_link,
    is_folder,
    is_image,
    list_entries,
    list_folders,
    shortened,
)
from tljax.errors import InputError, printable

# What folders of each split are called, in any case; words like "set" may follow: Test_Set.
_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev", "development"),
    "test": ("test", "tests", "testing", "eval", "evaluation"),
}
_FURTHER_WORD = "(set|data|images|imgs|split)?"


@dataclass(frozen=True)
class Layout:
    """Where the images of a data set are.

    Attributes:
      root: the folder of the data set: the given one, or the only folder in it.
      train, val, test: the folders that hold the class folders; `train` is `root` if there are no
        splits, and None if there is nothing but a test split.
      remarks: what to warn of.
    """

    root: Path
    train: Path | None
    val: Path | None
    test: Path | None
    remarks: tuple[str, ...]


def split_of(name: str) -> str | None:
    """Returns `train`, `val` or `test` if folders of that split are called so; else None."""
    letters = re.sub(r"[^a-z0-9]", "", name.lower())
    for split, names in _NAMES.items():
        if re.fullmatch(f"({'|'.join(names)}){_FURTHER_WORD}", letters):
            return split
    return None


def find_root(path: str) -> Path:
    """Returns the folder that `folder:PATH` names, with `~` and `~user` replaced.

    Raises:
      InputError: It does not exist, or is a file.
    """
    root = Path(os.path.expanduser(path))  # an unknown user's name is kept, and not found
    if not os.path.exists(root):
        raise InputError(f"the data folder {root} does not exist; check the path")
    if not os.path.isdir(root):
        raise InputError(f"{root} is a file; give the folder that holds the class folders")
    return root


def find_layout(path: str) -> Layout:
    """Returns the layout of the data set at `path`; opens no image.

    Raises:
      InputError: There is no such folder, or it is not clear what its folders are.
    """
    given = find_root(path)
    root = _enter(given, lambda name: split_of(name) is None)
    names = list_class_folders(root)
    trains = [name for name in names if _is_training_split(root, name, names)]
    if not trains and [split_of(name) for name in names] == ["test"]:
        alone = root / names[0]
        if not _holds_images(alone) and holds_images(alone, below=True):
            return Layout(root, None, None, alone, tuple(_remarks(given, root, [alone], [])))
    if not trains:
        _refuse_splits_without_train(root, names)
        return Layout(root, root, None, None, tuple(_remarks(given, root, [root], [])))
    train = root / _only(root, trains)
    val, test = (
        root / _only(root, found) if found else None
        for found in ([n for n in names if split_of(n) == split] for split in ("val", "test"))
    )
    used = [folder for folder in (train, val, test) if folder is not None]
    unused = [name for name in names if root / name not in used]
    remarks = _remarks(given, root, [root, *used], unused)
    train = _enter(train, lambda name: True)
    classes = list_class_folders(train)
    val, test = (
        folder and _enter(folder, lambda name: name not in classes) for folder in (val, test)
    )
    return Layout(root, train, val, test, tuple(remarks))


def list_class_folders(folder: Path) -> list[str]:
    """Names of the folders in `folder`, sorted.

    Raises:
      InputError: A link leads nowhere, which could be that of a whole class.
    """
    entries = list_entries(folder)
    for entry in entries:
        if is_broken_link(entry) and not is_image(entry):
            raise InputError(f"the link {entry.path} leads nowhere; fix it or remove it")
    return [entry.name for entry in entries if is_folder(entry)]


def _enter(folder: Path, may_enter: Callable[[str], bool]) -> Path:
    """The folder itself, or the only folder in it while that holds no image, but folders."""
    entered = set()
    while (real := os.path.realpath(folder)) not in entered:
        entered.add(real)
        names = list_folders(folder)
        if len(names) != 1 or not may_enter(names[0]):
            break
        inner = folder / names[0]
        if not list_folders(inner) or any(_holds_images(f) for f in (folder, inner)):
            break
        folder = inner
    return folder


def _holds_images(folder: Path) -> bool:
    return holds_images(folder, below=False)


def _is_training_split(root: Path, name: str, names: list[str]) -> bool:
    """A train/ that contains images is a class, unless all folders are called like splits."""
    if split_of(name) != "train":
        return False
    if not _holds_images(root / name):
        return True
    are_splits = all(split_of(other) for other in names)
    return are_splits and (len(names) > 1 or bool(list_folders(root / name)))


def _only(root: Path, names: list[str]) -> str:
    if len(names) > 1:
        raise InputError(f"{root} holds both {names[0]} and {names[1]}; keep one of them")
    return names[0]


def _refuse_splits_without_train(root: Path, names: list[str]) -> None:
    """Raises InputError if folders of classes are called like splits, e.g. seg_train, seg_test."""
    suspects = [
        name for name in names if any(split_of(word) for word in re.split(r"[\W_]+", name.lower()))
    ]
    if len(suspects) < 2:
        suspects = [name for name in suspects if split_of(name)]
    suspects = [
        name
        for name in suspects
        if not _holds_images(root / name) and holds_images(root / name, below=True)
    ]
    if suspects:
        raise InputError(
            f"{root} holds no folder called train, but {shortened(suspects)} with folders of images"
            " inside; call the folders of the splits train, test and val"
        )


def _remarks(given: Path, root: Path, with_classes: list[Path], unused: list[str]) -> Iterator[str]:
    """Yields what to warn of.

    Args:
      given, root: the folder that was given, and the one that is read.
      with_classes: the folders that may hold images beside the class folders.
      unused: names of the folders in `root` that are no split.

    Raises:
      InputError: One of the unused folders holds folders of images.
    """
    if root != given:
        yield f"{printable(root)} is read, the only folder in {printable(given)}"
    loose = []
    for name in unused:
        if holds_images(root / name, below=True):
            raise InputError(
                f"{root / name} holds folders of images, but lies beside the training images and is"
                " neither test nor val; rename it to one of them, or move it away"
            )
        if _holds_images(root / name):
            loose.append(name)
    if loose:
        yield (
            f"the images in {shortened(loose)}, beside the training images in"
            f" {printable(root)}, are not used"
        )
    strays = [
        os.path.relpath(entry.path, root)
        for folder in with_classes
        for entry in list_entries(folder)
        if entry.name.lower().endswith(EXTENSIONS) and not is_folder(entry)
    ]
    if strays:
        yield (
            f"left out {len(strays):,} images in {printable(root)} that lie in no class folder:"
            f" {shortened(strays)}"
        )
