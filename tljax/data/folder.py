"""`folder:PATH`: images on disk, one folder per class.

Either PATH contains train/, and optionally test/ and val/, each with class folders; or PATH
contains the class folders itself. `layout` tells which, and knows other names of the splits. Images
in the sub-folders of a class belong to the class. Labels number the training classes in the order
of their names. Files are sorted too, so that their order is the same on every file system.

Symbolic links are followed, as many data sets consist of them. A broken link named like an image is
an unreadable image. Any other broken link among the class folders is an error, as a whole class
could be missing.
"""

import hashlib
import importlib.util
import multiprocessing
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tljax.console import warn_once
from tljax.data.digests import FileState, content_digests, file_states, is_settled
from tljax.data.images import FORMATS, decode
from tljax.data.labels import as_labels, label_at
from tljax.data.layout import Layout, find_layout, list_class_folders, split_of
from tljax.data.listing import find_files, holds_images, shortened, warn_of_left_out
from tljax.data.packed import ImageFile, content_of
from tljax.data.sources import Dataset, Example, Source
from tljax.data.splits import split_off_test
from tljax.errors import InputError, printable

_KEPT = 512 << 20  # bytes of decoded images


class FolderSource(Source):
    """Image files, or parts of files, and their labels.

    A decoded image is kept for the next access, while all of them take less than 512 MiB. Of a
    larger data set, and in reading processes, the others are decoded at each access.

    Args:
      files: The image files, see `tljax.data.packed` for those that are no files of their own.
      labels: (n,) or (n, m), see `tljax.data.labels`; an empty array has the kind of others.
      names: What the files are called within the data, e.g. `cat/1.png`, so that moving the data
        changes no name; None: the name of the file and of its folder.
      deep_images: As `deep` of `images.decode`.
      groups: int (n,): images of one group stay on one side of every split; None: each is alone.
      weights: float32 (n,), of the images in the loss of training; None: all count the same.
      channels: As `channels` of `images.decode`.
    """

    def __init__(
        self,
        files: Sequence[ImageFile],
        labels: Sequence[Any] | np.ndarray,
        names: Sequence[str] | None = None,
        deep_images: str = "full_range",
        groups: np.ndarray | None = None,
        weights: np.ndarray | None = None,
        channels: int | None = None,
    ):
        self.files = list(files)
        self.groups, self.weights = groups, weights
        self.labels = as_labels(labels, len(files)) if len(files) else _no_labels(labels)
        self.names = list(map(_name_of, files) if names is None else names)
        self._deep_images, self._channels = deep_images, channels
        self._read: dict[
            int, tuple[FileState | None, str]
        ] = {}  # by row, the state when it was read
        self._decoded: dict[int, np.ndarray] = {}
        self._room = 0 if multiprocessing.parent_process() else _KEPT  # bytes left

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int, /) -> Example:
        image = self._decoded.get(index)
        if image is None:
            image = decode(
                *content_of(self.files[index]), deep=self._deep_images, channels=self._channels
            )
            if image.nbytes <= self._room:
                image.flags.writeable = False
                self._decoded[index] = image
                self._room -= image.nbytes
        example: Example = {"image": image, "label": label_at(self.labels, index)}
        if self.weights is not None:
            example["weight"] = float(self.weights[index])
        return example

    def __reduce__(self):
        listed = (self.files, self.labels, self.names)
        how = (self._deep_images, self.groups, self.weights, self._channels)
        return FolderSource, (*listed, *how)

    @property
    def deep_images(self) -> str:
        """As `deep` of `images.decode`."""
        return self._deep_images

    @property
    def channels(self) -> int | None:
        """As `channels` of `images.decode`."""
        return self._channels

    def digests(self, rows: np.ndarray) -> list[str]:
        """Returns the digest of the content of each file at `rows`.

        When it is asked again, only files that were touched since are read again.
        """
        asked, wanted = time.time_ns(), rows.tolist()
        states = file_states([self.files[row] for row in wanted])
        touched = {
            row: state
            for row, state in zip(wanted, states, strict=True)
            if row not in self._read or self._read[row][0] != state
        }
        found = content_digests([self.files[row] for row in touched])
        for (row, state), digest in zip(touched.items(), found, strict=True):
            self._read[row] = (state if is_settled(state, asked) else None, digest)
        return [self._read[row][1] for row in wanted]

    def fingerprint(self) -> str:
        """Hashes the name, label and whole content of every file.

        The path of the data and file dates are not hashed, so a copy has the same fingerprint.
        """
        return self.subset_fingerprint(np.arange(len(self)))

    def subset_fingerprint(self, rows: np.ndarray) -> str:
        """Hashes the same of the files at `rows` alone."""
        sha = hashlib.sha256()
        if self._deep_images != "full_range":
            sha.update(self._deep_images.encode())
        if self._channels is not None:
            sha.update(f"channels {self._channels}\0".encode())
        for row, content in zip(rows.tolist(), self.digests(rows), strict=True):
            label = label_at(self.labels, row)
            text = label if isinstance(label, int) else label.tolist()
            sha.update(os.fsencode(f"{self.names[row]}\0{text}\0{content}\0"))
            if self.weights is not None:
                sha.update(repr(float(self.weights[row])).encode())
        return sha.hexdigest()


def _name_of(file: ImageFile) -> str:
    return f"{file.parent.name}/{file.name}" if isinstance(file, Path) else file.name


def _no_labels(labels: Sequence[Any] | np.ndarray) -> np.ndarray:
    return labels if isinstance(labels, np.ndarray) else np.asarray(labels, np.int64)


def load(path: str, deep_images: str = "full_range", channels: int | None = None) -> Dataset:
    """Lists the images below `path`; decodes none.

    If there is no test/, a fifth of each class is split off as test images, always the same ones.
    If there is nothing but test/, there are no training images.
    What is left out, or could be meant otherwise, is said in a warning.

    Args:
      path: The folder.
      deep_images, channels: As `deep` and `channels` of `images.decode`.

    Raises:
      InputError: The folder is missing, empty or not readable, or has another layout.
    """
    layout = find_layout(path)
    classes = _class_names(layout)
    for remark in layout.remarks:
        warn_once(remark)
    left_out: list[Path] = []
    deeper: list[Path] = []

    def list_split(root: Path) -> FolderSource:
        files, labels = _list_split(root, classes, left_out, deeper)
        names = [file.relative_to(root).as_posix() for file in files]
        return FolderSource(files, labels, names, deep_images, channels=channels)

    train: Source = FolderSource([], []) if layout.train is None else list_split(layout.train)
    val = None if layout.val is None else list_split(layout.val)
    test: Source | None = None if layout.test is None else list_split(layout.test)
    warn_of_left_out(left_out, layout.root)
    if deeper:
        warn_once(
            f"{len(deeper):,} images in {printable(layout.root)} lie in sub-folders of their class"
            f" folders: {shortened([os.path.relpath(file, layout.root) for file in deeper])}"
        )
    if test is None:
        train, test = split_off_test(train, layout.root, "a test folder")
        if layout.val is not None:
            warn_once(
                f"{printable(layout.root)} has no test folder: {len(test):,} of the images in"
                f" {layout.train.name if layout.train else 'train'}, a fifth of each class, are"
                " kept for testing"
            )
    return Dataset(f"folder:{path}", classes, train, val, test)


def read_class_names(path: str) -> tuple[str, ...]:
    """Returns the names of the training classes, sorted.

    Raises:
      InputError: There is no such folder, or it has fewer than two class folders.
    """
    return _class_names(find_layout(path))


def _class_names(layout: Layout) -> tuple[str, ...]:
    root = layout.train or layout.test
    assert root is not None
    names = list_class_folders(root)
    if not names:
        raise InputError(
            f"{root} holds no class folders; put the images of each class into a folder of its own"
        )
    if len(names) == 1 and layout.train is not None:
        raise InputError(
            f"{root} holds only one class folder, '{names[0]}'; add at least one more class"
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


def _list_split(
    root: Path,
    classes: tuple[str, ...],
    left_out: list[Path],
    deeper: list[Path],
) -> tuple[list[Path], list[int]]:
    """The images in the class folders of `root`, which must be among `classes`, and their labels.

    Adds the files that are no images to `left_out`, and images in sub-folders to `deeper`.
    """
    present = list_class_folders(root)
    if not present and holds_images(root, below=False):
        raise InputError(
            f"{root} holds images, but no class folders; put those of each class into a folder of"
            " its own, or move it away"
        )
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
        found = find_files(root / name)
        for folder in found.folders:
            if split_of(folder.name) == "train":
                raise InputError(
                    f"{folder} lies in what would be a class folder; give the path of"
                    f" {folder.parent} if that is the data set, else put the folders of the classes"
                    " into train"
                )
        if not found.images:
            others = (
                f" that can be read, but e.g. {found.left_out[0].name}" if found.left_out else ""
            )
            raise InputError(
                f"the class folder {root / name} holds no image{others}; add {FORMATS} images or"
                " remove it"
            )
        files += found.images
        labels += [classes.index(name)] * len(found.images)
        left_out += found.left_out
        if found.folders:
            deeper += [file for file in found.images if file.parent != root / name]
    return files, labels
