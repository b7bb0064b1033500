"""`predictions.npz`: what a run's best weights predict for its test images.

It is written by the one evaluation on test data. A report needs more than the accuracy, and must
not use the test images again.
"""

import io
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from tljax.errors import InputError
from tljax.weights.hdf5 import max_tensor_bytes
from tljax.weights.read import NPZ_DAMAGE

ANSWERS_FILE = "predictions.npz"
_HEADERS = 4096  # bytes, more than those of all arrays together


@dataclass(frozen=True)
class Answers:
    """Predictions for n images; those that could not be read are left out.

    Attributes:
      images: int32 (n,), indices of the test images.
      labels: int32 (n,), the true classes.
      predicted: int32 (n,), the classes with the largest logits.
      probabilities: float16 (n, classes), softmax of the logits; with several tasks, over the
        classes of the image's own task.
      confidences: float32 (n,), the probabilities of the predicted classes.
    """

    images: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray
    confidences: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def within(self, first: int, after_last: int) -> "Answers":
        """The answers for images of the classes `first` to `after_last - 1`, renumbered from 0."""
        own = (self.labels >= first) & (self.labels < after_last)
        return Answers(
            self.images[own],
            self.labels[own] - first,
            self.predicted[own] - first,
            self.probabilities[own, first:after_last],
            self.confidences[own],
        )


@dataclass(frozen=True)
class Outputs:
    """Answers of several labels an image, or of numbers, for n images that could be read.

    Attributes:
      images: int32 (n,), indices of the test images.
      labels: float32 (n, m), the true labels, 0 or 1, or the true numbers.
      outputs: float32 (n, m), the probability of each label, or the numbers in their units.
    """

    images: np.ndarray
    labels: np.ndarray
    outputs: np.ndarray

    def __len__(self) -> int:
        return len(self.images)


def pack_answers(answers: Answers | Outputs) -> bytes:
    """Returns the content of `predictions.npz`; the same answers give the same bytes.

    It is compressed, unless it gets so small, e.g. of a network that always says the same, that
    `read_answers` would take it for a decompression bomb.
    """
    arrays = {field.name: getattr(answers, field.name) for field in fields(answers)}
    compressed, plain = io.BytesIO(), io.BytesIO()
    np.savez_compressed(compressed, **arrays)
    content = compressed.getvalue()
    if sum(array.nbytes for array in arrays.values()) + _HEADERS <= max_tensor_bytes(len(content)):
        return content
    np.savez(plain, **arrays)
    return plain.getvalue()


def read_answers(workdir: Path) -> Answers | Outputs | None:
    """Reads a workdir's answers; None if there are none: its run is not done, or is an old one.

    Raises:
      InputError: if the file is damaged.
    """
    path = workdir / ANSWERS_FILE
    try:
        with np.load(path, allow_pickle=False) as content:
            size = path.stat().st_size
            unpacked = sum(member.file_size for member in content.zip.infolist())
            if unpacked > max_tensor_bytes(size):
                raise ValueError(f"{unpacked:,} bytes of arrays in a file of {size:,}")
            form = Outputs if "outputs" in content else Answers
            answers = form(**{field.name: content[field.name] for field in fields(form)})
        if not _fit_together(answers):
            raise ValueError("its arrays do not fit together")
    except FileNotFoundError:
        return None
    except (*NPZ_DAMAGE, IndexError) as error:
        raise InputError(
            f"cannot read {path} ({error}); delete it: a report can be written without it"
        ) from None
    return answers


def _fit_together(answers: Answers | Outputs) -> bool:
    """Whether arrays that were read from a file are those of the same images and classes."""
    if len({len(getattr(answers, field.name)) for field in fields(answers)}) > 1:
        return False
    if isinstance(answers, Outputs):
        return answers.labels.ndim == 2 and answers.labels.shape == answers.outputs.shape
    classes = answers.probabilities.shape[1]
    largest = max(answers.labels.max(), answers.predicted.max())
    smallest = min(answers.labels.min(), answers.predicted.min())
    return bool(smallest >= 0 and largest < classes)
