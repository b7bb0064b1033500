"""Short names of data, targets and settings for a report, as plain text or as HTML."""

from collections.abc import Iterable
from html import escape

from tljax.analysis.report.finished_runs import Setting, Target
from tljax.data.datasets import split_spec
from tljax.errors import printable

_LONGEST = 60  # characters of a text from the data
# Fields of the config that a report names in other places.
_NAMED_ELSEWHERE = (
    *("data", "folds", "fold", "model", "scenario", "train_size", "train_per_class", "seed"),
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
    if len(parts) == 1 and data.startswith("csv:"):
        return data.removeprefix("csv:").partition("?")[0].split("/")[-1] or data
    return data


class TargetNames:
    """Names of targets: the short names if these are unique, else the full ones."""

    def __init__(self, targets: Iterable[Target]):
        targets = list(targets)
        self._several_models = len({target.model for target in targets}) > 1
        data = {target.data for target in targets}
        self._short = len({data_name(name) for name in data}) == len(data)

    def data(self, data: str) -> str:
        """The name of the data, as plain text."""
        return data_name(data) if self._short else data

    def without_size(self, target: Target) -> str:
        """The name of the data and, if there are several models, the model, as plain text."""
        name = self.data(target.data)
        return f"{name}, {target.model}" if self._several_models else name

    def html(self, target: Target) -> str:
        """The whole name, with the number of training images, in HTML."""
        return f"{html_text(self.without_size(target))}, {target.train_size:,}&#160;images"


def differing_fields(setting: Setting, others: Iterable[Setting]) -> str:
    """The setting's config fields that differ in some other one, e.g. `lr=0.1, k=2`, in HTML."""
    configs = [other.first.config for other in others]
    own = setting.first.config
    found = [
        f"{name}={own[name]}"
        for name in sorted(own)
        if name not in _NAMED_ELSEWHERE and any(config.get(name) != own[name] for config in configs)
    ]
    return html_text(", ".join(found)) if found else ""
