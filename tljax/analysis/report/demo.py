"""The report of `tljax demo`: one HTML file with tables and curves that opens without a network.

From top to bottom: what a run is and how runs are grouped (`Run`, `cell_table`), the sentence that
sums them up (`finding`), the page and its sections (`write_report`). Everything that the page says
about results is computed from the runs.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from tljax.analysis import statistics
from tljax.analysis.benefits import asymptote
from tljax.analysis.report.benefits import SHARE, Cell, benefit_entries, benefit_sentences, paired
from tljax.analysis.report.curves import mean_curve, paint_curves
from tljax.analysis.report.figures import REFERENCE, Gallery, legend
from tljax.analysis.report.page import table, write_page
from tljax.analysis.report.words import count, listing, percent, percent_interval, verdict, words
from tljax.analysis.statistics import Interval
from tljax.transfer.scenarios import SCENARIOS


@dataclass(frozen=True)
class Run:
    """A finished run: where it stands in the grid, its `result.json`, its `metrics.jsonl`."""

    target: str
    size: str
    scenario: str
    seed: int
    summary: dict[str, Any]
    history: list[dict[str, Any]]

    @property
    def curve(self) -> list[tuple[int, float]]:
        """(images seen, validation accuracy) at each evaluation; the first is before training."""
        return [(row["examples"], row["accuracy"]) for row in self.history if row["event"] == "val"]


@dataclass(frozen=True)
class CellRow:
    """One target at one size, over all seeds.

    Attributes:
      train_size: images that it trains on.
      seeds: runs of each scenario.
      scores: test accuracy of each scenario, in the order of `SCENARIOS`.
      naive: test accuracy of always answering the commonest training class.
      prescribed: the textbook's scenario.
      winner, runner_up: the two highest mean test accuracies; at a tie, the order of `SCENARIOS`.
      margin: winner - runner-up, paired by seed.
      shortfall: winner - prescribed, paired by seed.
    """

    target: str
    size: str
    train_size: int
    seeds: int
    scores: dict[str, Interval]
    naive: float
    prescribed: str
    winner: str
    runner_up: str
    margin: Interval
    shortfall: Interval

    @property
    def best(self) -> list[str]:
        """The winner, and whatever has the same mean."""
        top = self.scores[self.winner].mean
        return [s for s, score in self.scores.items() if math.isclose(score.mean, top)]

    @property
    def verdict(self) -> str:
        """Of the winner against the runner-up: "clear", "within noise", or "one seed"."""
        return verdict(self.margin)


_Cell = Cell[Run]


def cell_table(runs: Sequence[Run], prescribed: Mapping[tuple[str, str], str]) -> list[CellRow]:
    """One row for each (target, size), in the order of `runs`; each needs two scenarios or more.

    Args:
      runs: of any number of targets, sizes, scenarios and seeds.
      prescribed: the textbook's scenario for each (target, size).
    """
    return [_cell_row(cell, prescribed[place]) for place, cell in _cells(runs).items()]


def finding(rows: Sequence[CellRow]) -> str:
    """What came out, in one sentence."""
    total, seeds = len(rows), max(row.seeds for row in rows)
    highest = sum(row.prescribed in row.best for row in rows)
    sentence = (
        "The textbook's scenario had the highest mean test accuracy in"
        f" {highest} of {count(total, 'target')}"
    )
    if seeds == 1:
        return f"{sentence}; with one seed there is no telling a difference from noise."
    behind = sum(row.prescribed not in row.best and row.shortfall.excludes_zero for row in rows)
    noisy = sum(row.verdict != "clear" for row in rows)
    return (
        f"{sentence} and was clearly behind the best in {behind}; in {noisy} of {total} the"
        f" difference between the best and the runner-up is within the noise of {seeds} seeds."
    )


def write_report(
    path: Path,
    source: Run,
    runs: Sequence[Run],
    prescribed: Mapping[tuple[str, str], str],
    similarity: Mapping[str, str],
    command: str,
) -> None:
    """Writes the page, whole or not at all.

    Args:
      path: the HTML file; its folder exists.
      source: the run that trained the source model.
      runs: the transfer runs; every (target, size) has `from_scratch` among its scenarios.
      prescribed: the textbook's scenario for each (target, size).
      similarity: "similar" or "dissimilar" to the source, for each target.
      command: the command line that makes this page.
    """
    rows = cell_table(runs, prescribed)
    cells = list(_cells(runs).values())
    body = "\n".join(
        (
            _header(source, runs, rows),
            _source_section(source),
            _grid_section(source, rows, similarity),
            _curves_section(rows, cells, Gallery()),
            _benefits_section(rows, cells),
            _method_section(runs, command),
        )
    )
    write_page(path, "tljax: transfer report", body)


# ---------------------------------------------------------------------------------- grouping


def _cells(runs: Iterable[Run]) -> dict[tuple[str, str], _Cell]:
    grouped: dict[tuple[str, str], dict[str, dict[int, Run]]] = {}
    for run in runs:
        cell = grouped.setdefault((run.target, run.size), {})
        cell.setdefault(run.scenario, {})[run.seed] = run
    return {
        place: {scenario: cell[scenario] for scenario in sorted(cell, key=SCENARIOS.index)}
        for place, cell in grouped.items()
    }


def _cell_row(cell: _Cell, prescribed: str) -> CellRow:
    accuracies = {
        scenario: {seed: run.summary["test_accuracy"] for seed, run in by_seed.items()}
        for scenario, by_seed in cell.items()
    }
    scores = {
        scenario: statistics.mean_interval(list(by_seed.values()))
        for scenario, by_seed in accuracies.items()
    }
    # Rounded, lest the last bit of a sum decide between equal means; the sort is stable.
    winner, runner_up, *_ = sorted(scores, key=lambda s: -round(scores[s].mean, 12))
    every_run = [run for by_seed in cell.values() for run in by_seed.values()]
    first = every_run[0]
    return CellRow(
        target=first.target,
        size=first.size,
        train_size=first.summary["train_size"],
        seeds=max(len(by_seed) for by_seed in cell.values()),
        scores=scores,
        naive=float(np.mean([run.summary["naive_accuracy"] for run in every_run])),
        prescribed=prescribed,
        winner=winner,
        runner_up=runner_up,
        margin=paired(accuracies[winner], accuracies[runner_up]),
        shortfall=paired(accuracies[winner], accuracies[prescribed]),
    )


# ---------------------------------------------------------------------------------- sections


def _header(source: Run, runs: Sequence[Run], rows: Sequence[CellRow]) -> str:
    places = "; ".join(_place(row) for row in rows)
    scenarios = len({run.scenario for run in runs})
    seeds = len({run.seed for run in runs})
    return f"""<header>
<h1>Transfer from {escape(source.target)}: {count(scenarios, "scenario")} side by side</h1>
<p>A source model was trained on {escape(source.target)}. Then {count(scenarios, "scenario")} ran
on {count(len(rows), "target")} ({places}) with {count(seeds, "seed")}:
{count(len(runs), "run")} in all.</p>
<p class="finding">{escape(finding(rows))}</p>
</header>"""


def _source_section(source: Run) -> str:
    summary = source.summary
    facts = (
        ("test accuracy", percent(summary["test_accuracy"])),
        ("naive baseline", f"{percent(summary['naive_accuracy'])} (always the commonest class)"),
        ("classes", f"{summary['num_classes']:,}"),
        ("training images", f"{summary['train_size']:,}"),
        ("validation images", f"{summary['val_size']:,}"),
        ("test images", f"{summary['test_size']:,}"),
        ("parameters", f"{summary['total_parameters']:,}"),
        ("steps", f"{summary['steps']:,}, the weights of step {summary['best_step']:,} kept"),
        ("time", f"{summary['wall_seconds']:,.0f} s"),
    )
    items = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    return f"""<section>
<h2>The source model: {escape(source.target)}</h2>
<dl class="facts">{items}</dl>
</section>"""


def _grid_section(source: Run, rows: Sequence[CellRow], similarity: Mapping[str, str]) -> str:
    scenarios = [s for s in SCENARIOS if any(s in row.scores for row in rows)]
    entries = table(
        ["target", *map(words, scenarios), "naive baseline", "lead of the best, points"],
        [
            [
                f"{_place(row)}<small>{escape(similarity[row.target])},"
                f" {row.train_size:,}&#160;images</small>",
                *(_grid_entry(row, scenario) for scenario in scenarios),
                f"{100 * row.naive:.1f}",
                _comparison(row),
            ]
            for row in rows
        ],
    )
    return f"""<section>
<h2>Test accuracy</h2>
<p>In per cent; mean &#177; half of the 95&#160;% interval over seeds. Targets are similar or
dissimilar to {escape(source.target)}.</p>
{entries}
<p class="legend"><span class="best">&#9733; best</span> the highest mean of the row<br>
<span class="textbook">&#9656; textbook</span> the scenario that the textbook prescribes for this
size and similarity<br>
<b>clear</b>: the 95&#160;% interval of the difference, paired by seed, excludes 0;
<b>within noise</b>: it does not</p>
</section>"""


def _grid_entry(row: CellRow, scenario: str) -> str:
    if scenario not in row.scores:
        return "&#8211;"
    score = percent_interval(row.scores[scenario])
    marks = ""
    if scenario in row.best:
        score = f"<strong>{score}</strong>"
        marks += '<span class="best">&#9733; best</span>'
    if scenario == row.prescribed:
        marks += '<span class="textbook">&#9656; textbook</span>'
    return f"{score}<small>{marks}</small>"


def _comparison(row: CellRow) -> str:
    """How far the best is ahead of the runner-up, and of the textbook's scenario."""
    text = f"{percent_interval(row.margin)} over {words(row.runner_up)}: <b>{row.verdict}</b>"
    if row.prescribed not in row.best and row.prescribed != row.runner_up:
        text += (
            f"<br>{percent_interval(row.shortfall)} over {words(row.prescribed)}:"
            f" <b>{verdict(row.shortfall)}</b>"
        )
    return f'<span class="prose">{text}</span>'


def _curves_section(rows: Sequence[CellRow], cells: Sequence[_Cell], gallery: Gallery) -> str:
    figures = "\n".join(
        _curve_panel(row, cell, gallery) for row, cell in zip(rows, cells, strict=True)
    )
    return f"""<section>
<h2>Learning curves and the three benefits</h2>
<p>Line: mean over seeds; band: lowest to highest seed. An image counts each time that it is seen.
In each panel the transfer scenario with the highest asymptote is held against from scratch; the
dotted line is the threshold of the slope, {SHARE} of the from-scratch asymptote.</p>
<div class="panels">
{figures}
</div>
</section>"""


def _curve_panel(row: CellRow, cell: _Cell, gallery: Gallery) -> str:
    curves = {scenario: mean_curve(by_seed.values()) for scenario, by_seed in cell.items()}
    transfers = [scenario for scenario in cell if scenario != REFERENCE]
    chosen = max(transfers, key=lambda s: asymptote(curves[s].means))
    benefits = "".join(f"<li>{text}</li>" for text in benefit_sentences(cell, chosen, curves))
    title = f"{_place(row)}, {row.train_size:,} training images"
    drawing = gallery.draw(
        f"curves_{len(gallery.pngs)}",
        f"Learning curves of {row.target}, {row.size}",
        lambda axes: paint_curves(axes, curves, chosen),
    )
    return f"""<figure>
<h3>{title}</h3>
{drawing}
<figcaption>{legend(cell)}
<p>{words(chosen).capitalize()} against from scratch:</p>
<ol>{benefits}</ol></figcaption>
</figure>"""


def _benefits_section(rows: Sequence[CellRow], cells: Sequence[_Cell]) -> str:
    entries = table(
        [
            "scenario",
            "start, points",
            f"images to {SHARE} of scratch, ratio",
            "asymptote, points",
            "trained parameters",
            "seconds a run",
        ],
        [
            [
                f"{words(scenario)}<small>{_place(row)}</small>",
                *benefit_entries(cell, scenario),
                *_costs(by_seed),
            ]
            for row, cell in zip(rows, cells, strict=True)
            for scenario, by_seed in cell.items()
        ],
    )
    return f"""<section>
<h2>Benefits and costs, against from scratch</h2>
<p>Mean &#177; half of the 95&#160;% interval over seeds, each seed compared with the from-scratch
run of the same seed. A ratio above 1 means fewer images than from scratch; its mean is geometric,
its interval in brackets.</p>
{entries}
</section>"""


def _place(row: CellRow) -> str:
    return escape(f"{row.target}, {row.size}")


def _costs(by_seed: Mapping[int, Run]) -> tuple[str, str]:
    summaries = [run.summary for run in by_seed.values()]
    trained, total = summaries[0]["trainable_parameters"], summaries[0]["total_parameters"]
    seconds = float(np.mean([summary["wall_seconds"] for summary in summaries]))
    return f"{trained:,} ({100 * trained / total:.1f}&#160;%)", f"{seconds:.1f}"


def _method_section(runs: Sequence[Run], command: str) -> str:
    summary = runs[0].summary
    versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
    devices = listing(dict.fromkeys(summary["devices"]))
    return f"""<section>
<h2>How it was measured, and how to read it</h2>
<ul>
<li>Every transfer run starts from the same source weights, from scratch runs from random ones.
Intervals are over seeds of the runs on the target; they leave out how the source's training
varies.</li>
<li>The weights to keep are chosen on validation images. Test images are used once, after training,
with those weights.</li>
<li>Intervals are 95&#160;% Student t intervals, mean &#177; t s / &#8730;n over n seeds; with one
seed there is none. Differences are paired by seed. They are not corrected for having picked the
best of several scenarios, which flatters the winner.</li>
<li>Start: difference in validation accuracy at the first evaluation after step 0, where every new
head is still at chance. Asymptote: difference of the means of the last three evaluations. Slope:
images until an evaluation first reaches the threshold, so its resolution is the interval between
evaluations (Torrey &amp; Shavlik 2009; Taylor &amp; Stone 2009).</li>
<li>The naive baseline always answers the commonest class of the training images.</li>
<li>Seconds are wall time on {escape(devices)}, compilation and evaluation included.</li>
</ul>
<p>Made by</p>
<div class="scroll" tabindex="0"><pre>{escape(command)}</pre></div>
<p class="versions">{escape(versions)}</p>
</section>"""
