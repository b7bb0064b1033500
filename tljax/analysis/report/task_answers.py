"""The answers that the seeds of a setting gave to the test images of one task."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tljax.analysis.report.finished_runs import Choice, Setting
from tljax.data import Task
from tljax.runs.answers import Answers


@dataclass(frozen=True)
class TaskAnswers:
    """The answers of one setting to one task.

    Attributes:
      task: the task, with its class names.
      choice: the setting, and out of how many on this data it was chosen.
      by_seed: the answers of each seed; their classes count from 0 within the task.
    """

    task: Task
    choice: Choice
    by_seed: Mapping[int, Answers]

    @property
    def setting(self) -> Setting:
        return self.choice.setting

    @property
    def confusion(self) -> np.ndarray:
        """int (classes, classes): images by true and by predicted class, summed over seeds."""
        size = len(self.task.class_names)
        total = np.zeros((size, size), np.int64)
        for answers in self.by_seed.values():
            np.add.at(total, (answers.labels, answers.predicted), 1)
        return total


def answers_by_task(choice: Choice) -> list[TaskAnswers]:
    """Splits the answers of a setting by task; each of its runs must have kept its answers."""
    split = []
    first_class = 0
    for task in choice.setting.first.tasks:
        end = first_class + len(task.class_names)
        by_seed = {
            seed: run.answers.within(first_class, end)
            for seed, run in choice.setting.runs.items()
            if run.answers is not None
        }
        split.append(TaskAnswers(task, choice, by_seed))
        first_class = end
    return split
