"""What `tljax sweep` prints at its end."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tljax.analysis.results import Selection
from tljax.analysis.tables import score
from tljax.devices.compilations import Compilations
from tljax.errors import printable
from tljax.runs.scores import WORDS


@dataclass
class Outcomes:
    """What became of the runs of one call.

    Attributes:
      done: names of the runs that were done now.
      skipped: names of those that were done before.
      elsewhere: names of those that another process is doing.
      failed: reasons of failure, by name.
    """

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def print_outcomes(
    outcomes: Outcomes, mine: int, total: int, compilations: Compilations, seconds: float
) -> None:
    """Prints how the runs ended, and how many programs were compiled for them.

    Args:
      outcomes: of the runs of this call.
      mine: number of runs of this call.
      total: number of runs of the whole sweep.
      compilations: of this call.
      seconds: that this call took.
    """
    console = Console(highlight=False, soft_wrap=True)
    parts = [f"{len(outcomes.done)} done in {seconds:,.0f} s"]
    parts += [f"{len(outcomes.skipped)} were done before"] if outcomes.skipped else []
    parts += [f"{len(outcomes.failed)} failed"] if outcomes.failed else []
    parts += [f"{len(outcomes.elsewhere)} are running elsewhere"] if outcomes.elsewhere else []
    share = f", of {total} in all" if mine < total else ""
    console.print(f"{mine} runs{share}: {', '.join(parts)}")
    cached = f", {compilations.from_cache} of them from the cache on disk"
    console.print(
        f"programs compiled: {compilations.count} for {len(outcomes.done) + len(outcomes.failed)}"
        f" runs{cached if compilations.from_cache else ''}"
    )


def print_selections(selections: Sequence[Selection], results: Path) -> None:
    """Prints the chosen configurations, and the path of `results.csv`."""
    console = Console(highlight=False)
    if selections:
        wide = console if console.is_terminal else Console(highlight=False, width=10_000)
        wide.print(_selection_table(selections))
    console.print(f"every run: {printable(results)}", soft_wrap=True, markup=False)


def _selection_table(selections: Sequence[Selection]) -> Table:
    scores = {selection.score for selection in selections}
    by = f"validation {WORDS[min(scores)]}" if len(scores) == 1 else "validation"
    table = Table(title=f"chosen on {by}", title_justify="left")
    places = list(dict.fromkeys(name for selection in selections for name in selection.place))
    for name in places:
        table.add_column(name)
    if len(scores) > 1:
        table.add_column("score")
    table.add_column("best")
    table.add_column("validation", justify="right")
    table.add_column("test of it", justify="right")
    table.add_column("chosen among", justify="right")
    for selection in selections:
        sets = ", ".join(
            f"{name}={selection.overrides[name]}"
            for name in selection.varying
            if name in selection.overrides
        )
        left_out = f" ({selection.incomplete} left out)" if selection.incomplete else ""
        table.add_row(
            *(escape(printable(selection.place.get(name, ""))) for name in places),
            *([WORDS[selection.score]] if len(scores) > 1 else []),
            escape(printable(sets)),
            score(selection.validation, selection.score),
            "" if selection.test is None else score(selection.test, selection.score),
            f"{selection.among}{left_out}",
        )
    return table
