"""What a data set is: random access to labelled images, and named splits of them."""

import hashlib
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict

import numpy as np
from PIL import Image

from tljax.data.images import Unreadable, as_rgb
from tljax.errors import InputError

_SAMPLED = 64  # images that tell a source without a fingerprint of its own


class Example(TypedDict):
    """One labelled image."""

    image: np.ndarray  # uint8 (h, w, 3)
    label: int  # 0 <= label < number of classes


class Source(Protocol):
    """Random access to labelled images; several threads may read at once.

    It may have a method `fingerprint() -> str`; see the function of that name.
    """

    labels: np.ndarray  # int (n,): known without decoding an image

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example: ...


@dataclass(frozen=True)
class Dataset:
    """Named splits that share one list of classes; `val` and `test` may be absent (None).

    Of several data sets in one, `parts` are these; see `tljax.data.joint`.
    """

    name: str
    class_names: tuple[str, ...]
    train: Source
    val: Source | None = None
    test: Source | None = None
    parts: tuple["Dataset", ...] = ()

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


class ArraySource(Source):
    """Images held in memory.

    Args:
      images: uint8 (n, h, w, 3), or grey (n, h, w, 1) or (n, h, w).
      labels: int (n,), not negative.

    Raises:
      InputError: Another dtype or shape, or as many labels as there are not images.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray | Sequence[int]):
        self._images = np.asarray(images)
        if self._images.ndim not in (3, 4):
            raise InputError(
                f"the images have shape {self._images.shape}, but (n, h, w, 3), (n, h, w, 1) or "
                "(n, h, w) is expected; stack images of one size, channels last"
            )
        self.labels = _checked_labels(labels, len(self._images))
        as_rgb(self._images[0])  # a wrong dtype is told now, not in the first epoch

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int, /) -> Example:
        return {"image": as_rgb(self._images[index]), "label": int(self.labels[index])}

    def fingerprint(self) -> str:
        return digest(str(self._images.shape), self._images, self.labels)


class Subset(Source):
    """The images of `source` at `indices` (int (m,)), in that order."""

    def __init__(self, source: Source, indices: np.ndarray | Sequence[int]):
        self.source = source
        self.indices = np.asarray(indices, dtype=np.int64)
        self.labels = source.labels[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int, /) -> Example:
        return self.source[int(self.indices[index])]

    def fingerprint(self) -> str:
        return digest(fingerprint(self.source), self.indices)


def base_of(source: Source) -> tuple[Source, np.ndarray]:
    """The data set that a source is a part of, and its images' rows there, int (n,)."""
    rows = np.arange(len(source))
    while isinstance(source, Subset):
        rows, source = source.indices[rows], source.source
    return source, rows


class _UserSource(Source):
    """Somebody else's sequence of images, brought to our form example by example."""

    def __init__(self, data: Any):
        self._data = data
        known = getattr(data, "labels", None)
        if known is None:
            known = getattr(data, "targets", None)
        if known is None:
            known = [_pair(data[i])[1] for i in range(len(data))]
        self.labels = _checked_labels(known, len(data))

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int, /) -> Example:
        image, _ = _pair(self._data[index])
        return {"image": as_rgb(image), "label": int(self.labels[index])}

    def fingerprint(self) -> str:
        own = getattr(self._data, "fingerprint", None)
        return own() if callable(own) else _sample_digest(self)


def as_source(data: Any) -> Source:
    """Adapt what a user has to a `Source`.

    Args:
      data: One of
        - a class that inherits from `Source`, which is returned as it is;
        - a pair (images, labels) of arrays, as `ArraySource` takes them;
        - anything with `__len__` and `__getitem__` whose elements are dicts with "image" and
          "label", or pairs (image, label). An image is a Pillow image or a uint8 array (h, w, 3),
          (h, w, 1) or (h, w). Labels are read from its attribute `labels` or `targets`, and
          otherwise by going through all elements once.

    Raises:
      InputError: None of these, no images, or labels that are not integers from 0.
    """
    if Source in type(data).__mro__:
        return data
    if _is_pair_of_arrays(data):
        return ArraySource(*data)
    if hasattr(data, "__len__") and hasattr(data, "__getitem__"):
        return _UserSource(data)
    raise InputError(
        f"cannot read images from a {type(data).__name__}; pass (images, labels) arrays or an "
        "object with __len__ and __getitem__ that returns (image, label)"
    )


def fingerprint(source: Source) -> str:
    """Hex digits that are others if the data is another: for a run that goes on later.

    A method `fingerprint` decides, of the source or of the user's object that it was made from, if
    there is one. Of other data the labels and 64 images spread over it are read. Data that gives
    another image whenever it is asked, e.g. because it augments, therefore needs such a method.
    """
    own = getattr(source, "fingerprint", None)
    return own() if callable(own) else _sample_digest(source)


def _sample_digest(source: Source) -> str:
    """What can be told of any source: its labels, and some images."""
    spread = np.unique(np.linspace(0, len(source) - 1, _SAMPLED).astype(int))
    images = [_image_if_readable(source, int(i)) for i in spread]
    return digest(str([image.shape for image in images]), source.labels, *images)


def _image_if_readable(source: Source, index: int) -> np.ndarray:
    """Whether an image that cannot be read matters is not asked here: empty in its place."""
    try:
        return source[index]["image"]
    except Unreadable:
        return np.empty(0, np.uint8)


def digest(*parts: str | np.ndarray) -> str:
    """SHA-256 over texts and arrays, in hex digits."""
    sha = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else np.ascontiguousarray(part).data
        sha.update(content)
    return sha.hexdigest()


def _is_pair_of_arrays(data: Any) -> bool:
    """Tell (images, labels) from a data set that happens to hold two elements."""
    if not isinstance(data, tuple | list) or len(data) != 2:
        return False
    return not isinstance(data[0], tuple | dict | Image.Image)


def _pair(element: Any) -> tuple[Any, int]:
    """Image and label of an element of a user's data set."""
    if isinstance(element, Mapping) and {"image", "label"} <= element.keys():
        image, label = element["image"], element["label"]
    elif isinstance(element, tuple | list) and len(element) == 2:
        image, label = element
    else:
        raise InputError(
            f"an element of the data is a {type(element).__name__}, but a dict with 'image' and "
            "'label' or a pair (image, label) is expected; wrap the data set accordingly"
        )
    try:
        return image, operator.index(label)
    except TypeError as error:
        raise InputError(
            f"a label is a {type(label).__name__}, but an integer is expected; number the classes "
            "from 0"
        ) from error


def _checked_labels(labels: Any, count: int) -> np.ndarray:
    array = np.asarray(labels)
    if count == 0:
        raise InputError("the data has no images; pass at least one")
    if array.shape != (count,):
        raise InputError(
            f"there are {count} images, but the labels have shape {array.shape}; pass one label "
            "for each image"
        )
    if array.dtype.kind not in "iu" or array.min() < 0:
        raise InputError(
            f"the labels have dtype {array.dtype} and begin with {array[0]!s}, but integers from 0 "
            "are expected; number the classes from 0"
        )
    return array.astype(np.int64)
