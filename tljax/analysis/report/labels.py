"""Short names of what a report is about, as ready html."""

from collections.abc import Iterable
from html import escape

from tljax.analysis.report.runs import Place, Setting
from tljax.errors import printable

_LONGEST = 60  # characters of a name that comes with the data


def shown(text: object) -> str:
    """Text that comes with the data, e.g. a file's name: on one line, not endless, escaped.

    It is set apart (<bdi>), so that letters that run from right to left turn nothing around it.
    """
    line = printable(text)
    if len(line) > _LONGEST:
        line = f"{line[: _LONGEST // 2]}...{line[-_LONGEST // 2 :]}"
    return f"<bdi>{escape(line)}</bdi>"


def plain(text: object) -> str:
    """The same for a figure, whose text is escaped where it is written, and for an attribute."""
    line = printable(text)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]}...{line[-_LONGEST // 2 :]}"


def data_name(data: str) -> str:
    """`digits` for `embedded:digits`, the last folder for a path, all of several tasks."""
    parts = data.split(",")
    if all(part.startswith("embedded:") for part in parts):
        return " + ".join(part.removeprefix("embedded:") for part in parts)
    if len(parts) == 1 and data.startswith("folder:"):
        return data.removeprefix("folder:").rstrip("/").split("/")[-1] or data
    return data


class Places:
    """Names of places, as long as it takes to tell them apart."""

    def __init__(self, places: Iterable[Place]):
        places = list(places)
        self._several_models = len({place.model for place in places}) > 1
        data = {place.data for place in places}
        self._short = len({data_name(name) for name in data}) == len(data)

    def data(self, data: str) -> str:
        """Of the data alone, as plain text."""
        return data_name(data) if self._short else data

    def target(self, place: Place) -> str:
        """Of data and, if there are several, model, as plain text."""
        name = self.data(place.data)
        return f"{name}, {place.model}" if self._several_models else name

    def html(self, place: Place) -> str:
        """Of the whole place."""
        return f"{shown(self.target(place))}, {place.train_size:,}&#160;images"


def differing(setting: Setting, others: Iterable[Setting]) -> str:
    """What is set in this setting and otherwise in some other, e.g. `lr=0.1, k=2`, as html."""
    configs = [other.first.config for other in others]
    own = setting.first.config
    named = ("data", "model", "scenario", "train_size", "train_per_class", "seed")
    found = [
        f"{name}={own[name]}"
        for name in sorted(own)
        if name not in named and any(config.get(name) != own[name] for config in configs)
    ]
    return shown(", ".join(found)) if found else ""
