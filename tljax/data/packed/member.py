"""Where an image's bytes are: in a file, in a part of a larger file, or in memory."""

import os
from dataclasses import dataclass
from pathlib import Path

from tljax.data.images import MAX_BYTES, Unreadable


@dataclass(frozen=True, slots=True)
class Member:
    """`size` bytes of `file` from `offset`, e.g. a member of a tar; `name` stands in errors."""

    file: Path
    offset: int
    size: int
    name: str

    def read(self) -> bytes:
        """Returns the bytes.

        Raises:
          Unreadable: The file is gone, shorter by now, or the part is larger than an image.
        """
        if self.size > MAX_BYTES:
            raise Unreadable(self.name, f"it is larger than {MAX_BYTES:,} bytes; shrink it")
        try:
            with self.file.open("rb") as whole:
                whole.seek(self.offset)
                content = whole.read(self.size)
        except OSError as error:
            why = f"{error.strerror or error}; check {self.file}"
            raise Unreadable(self.name, why) from error
        if len(content) < self.size:
            raise Unreadable(self.name, f"{self.file} ends within it; copy it again")
        return content


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of an image file in memory; `name` stands in errors."""

    content: bytes
    name: str

    def read(self) -> bytes:
        """Returns the bytes."""
        return self.content


ImageFile = Path | Member | Content


def content_of(image: ImageFile) -> tuple[Path | bytes, str | None]:
    """Returns the first two arguments of `images.decode`.

    Raises:
      Unreadable: See `Member.read`.
    """
    return (image, None) if isinstance(image, Path) else (image.read(), image.name)


def place_of(image: ImageFile) -> Path | None:
    """Returns the file on disk that holds the image; None: it is in memory."""
    if isinstance(image, Content):
        return None
    return image if isinstance(image, Path) else image.file


def is_there(image: ImageFile) -> bool:
    """Whether the file that holds the image is still there; a broken link counts as there."""
    place = place_of(image)
    return place is None or os.path.lexists(place)
