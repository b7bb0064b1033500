"""What a trained network predicts for images: classes with probabilities, or numbers."""

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass

import jax
import numpy as np

from tljax.data import Preprocessing, Source, eval_batches
from tljax.experiment.trained import Trained
from tljax.frozen.over_images import BATCH
from tljax.models import Model
from tljax.training.problems import CLASSES, Problem
from tljax.training.step import predict_step
from tljax.transfer.partition import Tree


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image.

    Attributes:
      label: the class with the largest logit.
      probabilities: (classes,).
    """

    label: int
    probabilities: np.ndarray

    @property
    def probability(self) -> float:
        """The probability of the predicted class."""
        return float(self.probabilities[self.label])


def classify(
    model: Model,
    variables: Tree,
    source: Source,
    preprocessing: Preprocessing,
    batch_size: int,
    on_error: str = "fail",
) -> Generator[Prediction | None, None, None]:
    """Classifies the images of a source in order, without reading its labels.

    Args:
      model, variables, source, preprocessing, batch_size, on_error: see `answer`.

    Yields:
      A prediction for each image; None for a skipped one.
    """
    for found in answer(model, variables, source, preprocessing, batch_size, on_error):
        if found is None:
            yield None
        else:
            yield Prediction(int(found["predicted"]), found["probabilities"])


def predict_outputs(
    trained: Trained, source: Source, batch_size: int, on_error: str = "fail"
) -> Generator[np.ndarray | None, None, None]:
    """Predicts the probabilities of several labels an image, or numbers in their units.

    Args:
      trained: a run on labels of these kinds.
      source, batch_size, on_error: see `answer`.

    Yields:
      Float32 (m,) for each image; None for a skipped one.
    """
    exp, problem = trained.experiment, trained.problem
    how = (source, exp.preprocessing, batch_size, on_error, problem)
    for found in answer(exp.model, trained.variables, *how):
        yield None if found is None else problem.in_units(found["outputs"][None])[0]


def predict(
    trained: Trained, source: Source, batch_size: int, on_error: str = "fail"
) -> Generator[Prediction | np.ndarray | None, None, None]:
    """Predicts what the head of a run has learnt: as `classify` of classes, else `predict_outputs`.

    Args:
      trained: a run of one task.
      source, batch_size, on_error: see `answer`.
    """
    if trained.problem.kind != "classes":
        return predict_outputs(trained, source, batch_size, on_error)
    exp = trained.experiment
    how = (exp.preprocessing, batch_size, on_error)
    return classify(exp.model, trained.variables, source, *how)


def answer(
    model: Model,
    variables: Tree,
    source: Source,
    preprocessing: Preprocessing,
    batch_size: int,
    on_error: str = "fail",
    problem: Problem = CLASSES,
) -> Generator[dict[str, np.ndarray] | None, None, None]:
    """Yields what `Problem.answers` makes of each image; None for a skipped one.

    Args:
      model, variables, preprocessing: of the trained model.
      source: the images, in whose order it answers, without reading their labels.
      batch_size: of the computation.
      on_error: what to do about an image that cannot be read: `fail` or `skip`.
      problem: what the head has learnt.
    """
    step = predict_step(model, preprocessing, problem)
    variables = jax.device_put(variables)  # otherwise every batch would copy them
    left = len(source)
    batches = eval_batches(source, preprocessing, batch_size=batch_size, on_error=on_error)
    with closing(iter(batches)) as reader:
        for batch in reader:
            found = jax.device_get(step(variables, batch))
            for row in range(min(left, batch_size)):
                of_image = {name: values[row] for name, values in found.items()}
                yield of_image if batch["mask"][row] else None
            left -= batch_size


def source_probabilities(trained: Trained, source: Source) -> np.ndarray:
    """The probabilities of a trained network's own classes for images of any other data.

    They are what LEEP and NCE know of a source. The images are prepared as for its training.

    Args:
      trained: from `read_workdir`.
      source: the images; their labels are not read.

    Returns:
      (n, classes) float32; each row adds up to 1.

    Raises:
      InputError: if an image cannot be read.
    """
    exp = trained.experiment
    found = np.empty((len(source), len(exp.class_names)), np.float32)
    predictions = classify(exp.model, trained.variables, source, exp.preprocessing, BATCH)
    for row, prediction in enumerate(predictions):
        assert prediction is not None  # `classify` has skipped none
        found[row] = prediction.probabilities
    return found
