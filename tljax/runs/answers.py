"""`predictions.npz`: what a run's best weights make of its test images, kept from the one look.

A report needs more than the accuracy, and must not touch the test images again.
"""

import io
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from tljax.errors import InputError

FILE = "predictions.npz"


@dataclass(frozen=True)
class Answers:
    """To n images; one that could not be read is not among them.

    Attributes:
      images: int32 (n,), their places among the test images.
      labels: int32 (n,), the classes that they are of.
      predicted: int32 (n,), the classes with the largest logits.
      probabilities: float16 (n, classes), softmax of the logits; of several tasks, within the
        image's own.
      confidences: float32 (n,), probabilities of the predicted classes.
    """

    images: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray
    confidences: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def within(self, first: int, after_last: int) -> "Answers":
        """To the images of the classes `first` to `after_last - 1`, numbered from 0."""
        own = (self.labels >= first) & (self.labels < after_last)
        return Answers(
            self.images[own],
            self.labels[own] - first,
            self.predicted[own] - first,
            self.probabilities[own, first:after_last],
            self.confidences[own],
        )


def packed(answers: Answers) -> bytes:
    """The content of the file; the same answers give the same bytes."""
    content = io.BytesIO()
    arrays = {field.name: getattr(answers, field.name) for field in fields(Answers)}
    np.savez_compressed(content, **arrays)
    return content.getvalue()


def read_answers(workdir: Path) -> Answers | None:
    """What a workdir keeps; None if its run is not done, or was made before answers were kept.

    Raises:
      InputError: if the file is damaged.
    """
    path = workdir / FILE
    try:
        with np.load(path, allow_pickle=False) as content:
            answers = Answers(**{field.name: content[field.name] for field in fields(Answers)})
        sizes = {len(getattr(answers, field.name)) for field in fields(Answers)}
        classes = answers.probabilities.shape[1]
        largest = max(answers.labels.max(), answers.predicted.max())
        smallest = min(answers.labels.min(), answers.predicted.min())
        if len(sizes) > 1 or smallest < 0 or largest >= classes:
            raise ValueError("its arrays do not fit together")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, IndexError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(
            f"cannot read {path} ({error}); delete it, and a report will do without"
        ) from None
    return answers
