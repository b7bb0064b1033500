"""What the seeds of a setting predicted for test images: probabilities of labels, or numbers."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tljax.analysis.report.finished_runs import Choice, Setting
from tljax.data import Task
from tljax.errors import InputError
from tljax.runs.answers import ANSWERS_FILE, Outputs


@dataclass(frozen=True)
class OutputAnswers:
    """The answers of one setting.

    Attributes:
      choice: the setting, and out of how many on this data it was chosen.
      by_seed: the answers of each seed; their columns are those of the task's names.
    """

    choice: Choice
    by_seed: Mapping[int, Outputs]

    @property
    def setting(self) -> Setting:
        return self.choice.setting

    @property
    def task(self) -> Task:
        """With the names of the labels, or of the numbers."""
        return self.setting.first.tasks[0]

    @property
    def seen(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The numbers of the images that each seed predicted, with their labels."""
        return [(given.images, given.labels) for given in self.by_seed.values()]


def output_answers(choice: Choice) -> OutputAnswers:
    """The answers of a setting; each of its runs must have kept its answers.

    Raises:
      InputError: if a run's answers are not of as many labels or numbers as the run has.
    """
    by_seed = {}
    for seed, run in choice.setting.runs.items():
        given, count = run.outputs, len(run.tasks[0].class_names)
        assert given is not None
        known = len(run.summary.get("thresholds", ())) or count
        if given.outputs.shape[1] != count or known != count:
            raise InputError(
                f"{run.workdir / ANSWERS_FILE} and result.json do not fit the {count} labels or"
                " numbers of the run; delete the first, or restore both"
            )
        by_seed[seed] = given
    return OutputAnswers(choice, by_seed)
