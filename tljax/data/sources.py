"""`Source`, random access to labelled images, and `Dataset`, its train, val and test splits."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NotRequired, Protocol, TypedDict

import numpy as np
from PIL import Image

from tljax.data.images import Unreadable, as_pixels
from tljax.data.labels import Kind, as_given_labels, kind_of, label_at
from tljax.data.parallel import map_in_threads
from tljax.errors import InputError, printable

_SAMPLE_SIZE = 64  # images that are hashed of a source that draws its images


class Example(TypedDict):
    """One labelled image."""

    image: np.ndarray  # uint8 (h, w, 3), or of another number of channels
    label: Any  # 0 <= int < number of classes; or see `tljax.data.labels`
    weight: NotRequired[float]  # in the loss of training; without it 1


class Source(Protocol):
    """Random access to labelled images; several threads may read at once.

    It may have a method `fingerprint() -> str`; see the function `fingerprint`. If it also has
    `subset_fingerprint(rows) -> str`, with rows int (m,), then a `Subset` of it is identified by
    the images at these rows alone, whatever other images the source holds.
    """

    labels: np.ndarray  # of a kind of `tljax.data.labels`; known without decoding an image

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example: ...


@dataclass(frozen=True)
class Dataset:
    """The splits of a data set.

    Attributes:
      name: As in a config's `data`, e.g. `embedded:digits`.
      class_names: Of all splits, in the order of the labels; of numbers what each one is called.
      train, val, test: The images; `val` and `test` may be None. Data that can only be evaluated
        on has no training images, i.e. an empty `train`.
      parts: The data sets that were joined to make this one, see `tljax.data.joint`; else empty.
    """

    name: str
    class_names: tuple[str, ...]
    train: Source
    val: Source | None = None
    test: Source | None = None
    parts: tuple["Dataset", ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of classes or, of numbers, of outputs."""
        return len(self.class_names)

    @property
    def kind(self) -> Kind:
        """Of the labels."""
        return kind_of(self.train.labels)


class ArraySource(Source):
    """Images held in memory.

    Args:
      images: uint8 (n, h, w, 3), or grey (n, h, w, 1) or (n, h, w); with `channels`
        (n, h, w, channels), or (n, h, w) of one channel.
      labels: see `tljax.data.labels.as_given_labels`.
      channels: Of the images; None: they become RGB.

    Raises:
      InputError: The images or labels have another dtype or shape, or their numbers differ.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray | Sequence[Any],
        channels: int | None = None,
    ):
        self._images, self._channels = np.asarray(images), channels
        if self._images.ndim not in (3, 4):
            raise InputError(
                f"the images have shape {self._images.shape}, but (n, h, w, {channels or 3}),"
                " (n, h, w, 1) or (n, h, w) is expected; stack images of one size, channels last"
            )
        self.labels = as_given_labels(labels, len(self._images))
        as_pixels(self._images[0], channels)  # raises now, not in the first epoch, if it is wrong

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int, /) -> Example:
        image = as_pixels(self._images[index], self._channels)
        return {"image": image, "label": label_at(self.labels, index)}

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
        base, rows = unwrap_subset(self)
        method = getattr(base, "subset_fingerprint", None)
        if callable(method):
            return str(method(rows))
        return digest(fingerprint(self.source), self.indices)


def evenly_spaced(images: int, most: int) -> np.ndarray:
    """Returns the rows of at most `most` of the images, evenly spaced: int (n,), ascending."""
    return np.linspace(0, images - 1, min(images, most)).astype(int)


def unwrap_subset(source: Source) -> tuple[Source, np.ndarray]:
    """Returns (base, rows): the source beneath all `Subset`s, and the images' rows in it, int (n,).

    For a source that is no `Subset`, that is the source itself and all its rows.
    """
    rows = np.arange(len(source))
    while isinstance(source, Subset):
        rows, source = source.indices[rows], source.source
    return source, rows


def groups_of(source: Source) -> np.ndarray | None:
    """Returns int (n,), which images belong together; None if the data does not say."""
    return _of_images(source, "groups")


def groups_of_each_class(source: Source) -> np.ndarray:
    """Returns int (n,), how many groups the class of each image has; images, where there are none.

    groups_of_each_class(load("embedded:digits", train_size=50).train)  # [5, 5, ...]
    """
    labels, groups = np.asarray(source.labels), groups_of(source)
    members = labels
    if groups is not None:
        members = np.unique(np.column_stack([labels, groups]), axis=0)[:, 0]
    return np.asarray(np.bincount(members)[labels])


def weights_of(source: Source) -> np.ndarray | None:
    """Returns float32 (n,), what each image counts in the loss of training; None: all the same."""
    return _of_images(source, "weights")


def _of_images(source: Source, name: str) -> np.ndarray | None:
    """An attribute that the source beneath may have, one value for each image; else None."""
    base, rows = unwrap_subset(source)
    values = getattr(base, name, None)
    return None if values is None else np.asarray(values)[rows]


class Relabelled(Source):
    """The images of `source` with other labels, (n,) or (n, m)."""

    def __init__(self, source: Source, labels: np.ndarray):
        self._source, self.labels = source, labels
        self.groups, self.weights = groups_of(source), weights_of(source)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int, /) -> Example:
        return {**self._source[index], "label": label_at(self.labels, index)}

    def fingerprint(self) -> str:
        return digest(fingerprint(self._source), self.labels)


def relabel(dataset: Dataset, class_names: tuple[str, ...]) -> Dataset:
    """Returns the data set with the labels of `class_names`, which must include its own classes.

    Of several labels an image, it has none of those that are added. Numbers change their order;
    where some are missing, or nothing changes, the data set is returned as it is.
    """
    if dataset.class_names == class_names:
        return dataset
    if dataset.kind == "regression" and len(class_names) != dataset.num_classes:
        return dataset
    places = np.array([class_names.index(name) for name in dataset.class_names])

    def numbered(source: Source | None) -> Source | None:
        if source is None:
            return None
        if kind_of(source.labels) == "classes":
            return Relabelled(source, places[source.labels])
        labels = np.zeros((len(source), len(class_names)), source.labels.dtype)
        labels[:, places] = source.labels
        return Relabelled(source, labels)

    train = numbered(dataset.train)
    assert train is not None
    val, test = numbered(dataset.val), numbered(dataset.test)
    return replace(dataset, class_names=class_names, train=train, val=val, test=test)


class _UserSource(Source):
    """A user's sequence of images; each example is converted when it is read.

    Args:
      data: Of images and labels.
      channels: Of the images.
      labels: Of all images; None: those of the attribute `labels` or `targets`, or of the elements.
    """

    def __init__(self, data: Any, channels: int | None, labels: np.ndarray | None = None):
        self._data, self._channels = data, channels
        self._attribute: str | None = None  # that tells the labels
        if labels is not None:
            self.labels = labels
            return
        found = (name for name in ("labels", "targets") if getattr(data, name, None) is not None)
        self._attribute = next(found, None)
        if self._attribute is None:
            given: Any = [_image_and_label(data[i])[1] for i in range(len(data))]
        else:
            given = getattr(data, self._attribute)
        self.labels = as_given_labels(given, len(data))

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int, /) -> Example:
        image, label = _image_and_label(self._data[index])
        if self._attribute is not None and _contradicts(label, self.labels[index]):
            raise InputError(
                f"element {index} of the data has the label {printable(label)}, but its attribute"
                f" '{self._attribute}' says {printable(label_at(self.labels, index))}; drop"
                " target_transform or what else changes the labels, or delete the attribute"
            )
        pixels = as_pixels(image, self._channels, None if self._channels is None else str(index))
        return {"image": pixels, "label": label_at(self.labels, index)}

    def fingerprint(self) -> str:
        method = getattr(self._data, "fingerprint", None)
        return method() if callable(method) else _content_digest(self)


def _contradicts(label: Any, known: np.ndarray) -> bool:
    """Whether the label of an element is another one than `known`, that of the attribute.

    A one-hot row of the class is the same label. What cannot be compared is no contradiction: e.g.
    a row of probabilities, or fields that the element tells beside the label.
    """
    try:
        own = np.asarray(label, np.float64).reshape(-1)
    except (TypeError, ValueError, RuntimeError):  # of PyTorch: a tensor that needs a gradient
        return False
    if known.ndim == 0 and own.size > 1:
        is_one_hot = own.sum() == own.max() == 1
        return bool(is_one_hot and own.argmax() != known)
    if own.size != known.size:
        return False
    exact = known.astype(np.float64).reshape(-1)
    tolerance = 1e-5 * abs(exact) if known.dtype.kind == "f" else 0  # of rounding to 32 bits
    return bool((abs(own - exact) > tolerance).any())


def as_source(data: Any, channels: int | None = None) -> Source:
    """Converts a user's data to a `Source`.

    Args:
      data: One of
        - an object whose class inherits from `Source`, which is returned unchanged;
        - a pair (images, labels) of arrays, as `ArraySource` takes them; `images` may also be a
          list of images, which may differ in size;
        - an object with `__len__` and `__getitem__` whose elements are dicts with "image" and
          "label", or pairs (image, label), which may be lists. Labels are read from the object's
          attribute `labels` or `targets`, and an element with another label is an error when it is
          read; if the object has neither, every element is read once.

        An image is a uint8 array (h, w, 3), (h, w, 1) or (h, w), or a Pillow image of any mode,
        which is turned as its EXIF orientation says.
      channels: The number of channels that every image must have, e.g. 4 of arrays (h, w, 4) and
        of Pillow images of mode RGBA; None: images become RGB.

    Returns:
      A source; source[i] is {"image": uint8 (h, w, 3) or (h, w, channels), "label": int}.

    Raises:
      InputError: `data` is none of these or has no images, or a label is not an integer from 0.

    Example:
      source = as_source((np.zeros((10, 32, 32, 3), np.uint8), np.arange(10) % 2))
      image, label = source[3]["image"], source[3]["label"]  # uint8 (32, 32, 3), and 1
    """
    if Source in type(data).__mro__:
        return data
    if _is_pair(data):
        images, labels = data
        return _source_of_pair(images, labels, channels)
    if hasattr(data, "__len__") and hasattr(data, "__getitem__"):
        return _UserSource(data, channels)
    raise InputError(
        f"cannot read images from a {type(data).__name__}; pass (images, labels) arrays or an "
        "object with __len__ and __getitem__ that returns (image, label)"
    )


def fingerprint(source: Source) -> str:
    """Identifies the data, so that a resumed run can tell whether its data has changed.

    If the source, or the user's object it was made from, has a method `fingerprint`, its answer is
    returned. Otherwise the labels and all images are hashed: every image is read once, in several
    threads. Data that returns a different image at each access, e.g. because it augments, therefore
    needs such a method, and data that is slow to read is better off with one.

    Args:
      source: As returned by `as_source`, or a split of a `Dataset`.

    Returns:
      The fingerprint, usually a SHA-256 in hex digits.

    Raises:
      InputError: An element of a user's data is not a labelled image, see `as_source`.

    Example:
      train = tljax.data.load("embedded:digits").train
      assert fingerprint(train) == fingerprint(tljax.data.load("embedded:digits").train)
    """
    method = getattr(source, "fingerprint", None)
    return method() if callable(method) else _content_digest(source)


def _content_digest(source: Source) -> str:
    """A digest for any source: over its labels and all its images."""

    def image_digest(index: int) -> str:
        image = _image_or_empty(source, index)
        return digest(str(image.shape), image)

    images = map_in_threads(image_digest, range(len(source)), "reading all images")
    return digest(source.labels, *images)


def sample_digest(source: Source) -> str:
    """Returns a digest over the labels and 64 images, for data that code draws.

    Drawing all of them would take long, and environment and labels say which they are. The 64 show
    whether a library draws differently.
    """
    sample = evenly_spaced(len(source), _SAMPLE_SIZE)
    images = [_image_or_empty(source, int(i)) for i in sample]
    return digest(str([image.shape for image in images]), source.labels, *images)


def _image_or_empty(source: Source, index: int) -> np.ndarray:
    """An empty array for an unreadable image: `on_error` decides elsewhere whether that matters."""
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


def _is_pair(data: Any) -> bool:
    """Distinguishes (images, labels) from a data set of two elements."""
    if not isinstance(data, tuple | list) or len(data) != 2:
        return False
    first = data[0]
    if isinstance(first, list) and len(first) == 2:  # [image, label], or two images
        return not (np.isscalar(first[1]) or getattr(first[1], "shape", None) == ())
    return not isinstance(first, tuple | dict | Image.Image)


def _source_of_pair(images: Any, labels: Any, channels: int | None) -> Source:
    """The source of (images, labels); images in a list may be Pillow's, or differ in size."""
    if isinstance(images, list) and (
        any(isinstance(image, Image.Image) for image in images)
        or len({np.shape(image) for image in images}) > 1
    ):
        labels = as_given_labels(labels, len(images))
        return _UserSource(list(zip(images, labels, strict=True)), channels, labels)
    return ArraySource(images, labels, channels)


def _image_and_label(element: Any) -> tuple[Any, Any]:
    """The image and label of an element of a user's data set."""
    if isinstance(element, Mapping) and {"image", "label"} <= element.keys():
        image, label = element["image"], element["label"]
    elif isinstance(element, tuple | list) and len(element) == 2:
        image, label = element
    else:
        raise InputError(
            f"an element of the data is a {type(element).__name__}, but a dict with 'image' and "
            "'label' or a pair (image, label) is expected; wrap the data set accordingly"
        )
    if isinstance(label, str | bytes) or label is None:
        raise InputError(
            f"a label is a {type(label).__name__}, but an integer, numbers or a row of 0 and 1 are"
            " expected; number the classes from 0"
        )
    return image, label
