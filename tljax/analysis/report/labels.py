"""Short names of data, targets and settings for a report, as plain text or as HTML."""

from collections.abc import Iterable
from html import escape

from tljax.analysis.repetitions import comparable_config
from tljax.analysis.report.finished_runs import Choice, Goal, Setting, Target
from tljax.analysis.report.formatting import plural, scenario_name
from tljax.data.datasets import split_spec
from tljax.data.table import SCHEMES
from tljax.errors import printable

_LONGEST = 60  # characters of a text from the data
# Fields of the config that a report names in other places.
_NAMED_ELSEWHERE = (
    *("data", "folds", "fold", "model", "scenario", "train_size", "train_per_class", "seed"),
    "hyperrule_chose",  # reasons for the values of other fields
)


def plain_text(text: object) -> str:
    """A text from the data on one line, shortened; not escaped, for figures and attributes."""
    line = printable(text)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]}...{line[-_LONGEST // 2 :]}"


def html_text(text: object) -> str:
    """A text from the data, e.g. a class or a file name: on one line, shortened and escaped.

    It is isolated in <bdi>, so that right-to-left letters do not reorder what surrounds it.
    """
    return f"<bdi>{escape(plain_text(text))}</bdi>"


def data_name(data: str) -> str:
    """`digits` for `embedded:digits`, the last part of a path, all names of several tasks."""
    parts = split_spec(data)
    if all(part.startswith("embedded:") for part in parts):
        return " + ".join(part.removeprefix("embedded:") for part in parts)
    if len(parts) == 1 and data.startswith("folder:"):
        return data.removeprefix("folder:").rstrip("/").split("/")[-1] or data
    scheme, _, rest = data.partition(":")
    if len(parts) == 1 and scheme in SCHEMES:
        return rest.partition("?")[0].rstrip("/").split("/")[-1] or data
    return data


def _name_with_choices(data: str) -> str:
    """The short name with what follows the `?`, e.g. which columns of a table are the labels."""
    short, (_, question, choices) = data_name(data), data.partition("?")
    return data if short == data else f"{short}{question}{choices}"


class TargetNames:
    """Names of targets: the shortest ones that are unique."""

    def __init__(self, targets: Iterable[Target]):
        targets = list(targets)
        self._several_models = len({target.model for target in targets}) > 1
        goals = {target.goal for target in targets}
        data = {goal.data for goal in goals}
        short = (data_name, _name_with_choices, str)
        self._name = next(name for name in short if len({name(d) for d in data}) == len(data))
        self._several_scores = len(goals) > len(data)

    def goal(self, goal: Goal) -> str:
        """The name of the data and, if data have several scores, the score, as plain text."""
        name = self._name(goal.data)
        if not self._several_scores:
            return name
        return f"{name} by {goal.measure.words}{f' ({goal.loss})' if goal.loss else ''}"

    def without_size(self, target: Target) -> str:
        """The name of the goal and, if there are several models, the model, as plain text."""
        name = self.goal(target.goal)
        return f"{name}, {target.model}" if self._several_models else name

    def html(self, target: Target) -> str:
        """The whole name, with the number of training images, in HTML."""
        return f"{html_text(self.without_size(target))}, {target.train_size:,}&#160;images"


def differing_fields(setting: Setting, others: Iterable[Setting]) -> str:
    """The setting's config fields that differ in some other one, e.g. `lr=0.1, k=2`, in HTML."""
    configs = [comparable_config(other.first.config) for other in others]
    own = comparable_config(setting.first.config)
    found = [
        f"{name}={own[name]}"
        for name in sorted(own)
        if name not in _NAMED_ELSEWHERE and any(config.get(name) != own[name] for config in configs)
    ]
    return html_text(", ".join(found)) if found else ""


def describe_choice(choice: Choice, rivals: Iterable[Setting]) -> str:
    """Scenario, model, size, what differs from other settings, and how it was chosen, in HTML.

    Args:
      choice: the setting.
      rivals: the settings that it was chosen from.
    """
    setting, among = choice.setting, choice.among
    alike = [s for s in rivals if (s.target, s.scenario) == (setting.target, setting.scenario)]
    facts = (
        scenario_name(setting.scenario),
        html_text(setting.target.model),
        f"{setting.target.train_size:,} training images",
        differing_fields(setting, alike),
        f"the best of {plural(among, 'setting')} on validation" if among > 1 else "",
    )
    return ", ".join(fact for fact in facts if fact)
