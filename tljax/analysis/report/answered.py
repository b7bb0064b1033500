"""One task of a setting, with the answers of its seeds to the test images."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tljax.analysis.report.runs import Setting
from tljax.data import Task
from tljax.runs.answers import Answers


@dataclass(frozen=True)
class Answered:
    """What a section on predictions is about.

    Attributes:
      task: whose classes.
      setting, among: the setting, and among how many on this data it was the best on validation.
      answers: of each seed, within the task.
    """

    task: Task
    setting: Setting
    among: int
    answers: Mapping[int, Answers]

    @property
    def confusion(self) -> np.ndarray:
        """int (classes, classes): images by true and by predicted class, summed over seeds."""
        size = len(self.task.class_names)
        total = np.zeros((size, size), np.int64)
        for answers in self.answers.values():
            np.add.at(total, (answers.labels, answers.predicted), 1)
        return total
