"""Lists folders: their images, with those of all their sub-folders, and what else lies there.

Hidden files and folders, and those that systems leave behind, are passed over without a word. Names
with an image's suffix are images. Other files are images if their content is, so only they are
opened. Links are followed, and each folder is visited once.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tljax.console import warn_once
from tljax.data.images import EXTENSIONS, FORMATS, is_image_file
from tljax.errors import InputError, printable

_LEFT_BEHIND = frozenset(  # by Windows, macOS, file servers and file systems; in lower case
    {"thumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "$recycle.bin", "lost+found"}
)
# Annotations come by the million, one for each image; they are not opened.
_ANNOTATIONS = (".txt", ".xml", ".json", ".csv", ".md", ".html")


@dataclass(frozen=True)
class Found:
    """What lies in a folder and its sub-folders.

    Attributes:
      images: the image files, sorted.
      left_out: the other files, sorted.
      folders: the sub-folders, sorted.
    """

    images: list[Path]
    left_out: list[Path]
    folders: list[Path]


def find_images(root: Path) -> list[Path]:
    """Returns all image files below `root`, sorted; warns of the files that are none.

    Raises:
      InputError: A folder is not readable.
    """
    found = find_files(root)
    warn_of_left_out(found.left_out, root)
    return found.images


def find_files(root: Path) -> Found:
    """Returns what lies in a folder and its sub-folders.

    Links to folders are followed, but not to a folder that `root` itself lies in.

    Raises:
      InputError: A folder is not readable.
    """
    found = Found([], [], [])
    lists = {"image": found.images, "other": found.left_out, "folder": found.folders}
    for entry, kind in _walk(root):
        lists[kind].append(Path(entry.path))
    return found


def holds_images(folder: Path, *, below: bool) -> bool:
    """Whether there is an image directly in the folder, or with `below`, only deeper in it."""
    if below:
        deeper = (folder / name for name in list_folders(folder))
        return any(kind == "image" for path in deeper for _, kind in _walk(path))
    return any(not is_folder(entry) and is_image(entry) for entry in list_entries(folder))


def list_folders(root: Path) -> list[str]:
    """Names of the folders in `root`, sorted."""
    return [entry.name for entry in list_entries(root) if is_folder(entry)]


def list_entries(folder: Path) -> list[os.DirEntry[str]]:
    """The files and folders in a folder, sorted by name, without those that are passed over.

    Raises:
      InputError: The folder is not readable.
    """
    try:
        with os.scandir(folder) as entries:
            visible = [
                entry
                for entry in entries
                if not entry.name.startswith(".") and entry.name.lower() not in _LEFT_BEHIND
            ]
    except OSError as error:
        raise InputError(
            f"cannot read the folder {folder}: {error.strerror or error}; check its permissions"
        ) from error
    return sorted(visible, key=lambda entry: entry.name)


# Of a link `os.path` is asked, because an entry raises an error for one that leads to itself.


def is_folder(entry: os.DirEntry[str]) -> bool:
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def is_image(entry: os.DirEntry[str]) -> bool:
    """Whether a file is an image by its name, or by its content; a pipe or device is none."""
    name = entry.name.lower()
    is_file = os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file()
    if name.endswith(EXTENSIONS):
        return is_file or is_broken_link(entry)
    return is_file and not name.endswith(_ANNOTATIONS) and is_image_file(entry.path)


def is_broken_link(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() and not os.path.exists(entry.path)


def warn_of_left_out(files: Sequence[Path], root: Path) -> None:
    """Says how many files below `root` are no images, and the names of the first."""
    if files:
        names = shortened([os.path.relpath(file, root) for file in files])
        warn_once(
            f"left out {len(files):,} files in {printable(root)} that are not {FORMATS} images:"
            f" {names}"
        )


def shortened(names: Sequence[str]) -> str:
    """The first five names, on one line."""
    return ", ".join(printable(name) for name in names[:5]) + ", ..." * (len(names) > 5)


def _walk(root: Path) -> Iterator[tuple[os.DirEntry[str], str]]:
    """Yields each `image`, `other` file and `folder` below `root`, in the order of the names."""
    top = os.path.realpath(root)
    visited = {top}
    left = list_entries(root)[::-1]
    while left:
        entry = left.pop()
        if not is_folder(entry):
            yield entry, "image" if is_image(entry) else "other"
        elif (real := os.path.realpath(entry.path)) not in visited and not _contains(real, top):
            visited.add(real)
            yield entry, "folder"
            left += list_entries(Path(entry.path))[::-1]


def _contains(folder: str, path: str) -> bool:
    return os.path.join(path, "").startswith(os.path.join(folder, ""))
