"""The report of `tljax demo`: one HTML file with tables and curves that opens without a network.

From top to bottom: what a run is and how runs are grouped (`Run`, `cell_table`), the sentence that
sums them up (`finding`), the page and its sections (`write_report`), the figures, and number
formats. Everything that the page says about results is computed from the runs; text that comes with
the data is escaped. The same runs give the same bytes.
"""

import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from tljax.analysis import benefits, statistics
from tljax.analysis.benefits import Benefits, Bound, RatioInterval
from tljax.analysis.statistics import Interval
from tljax.training.workdir import write_atomically
from tljax.transfer.scenarios import SCENARIOS

REFERENCE = "from_scratch"  # what transfer is compared with


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
        return _verdict(self.margin)


# A cell is the runs of one target at one size, by scenario, then by seed.
_Cell = dict[str, dict[int, Run]]


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
        f" {highest} of {_count(total, 'target')}"
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
            _curves_section(rows, cells),
            _benefits_section(rows, cells),
            _method_section(runs, command),
        )
    )
    page = _PAGE.format(style=_STYLE, body=body)
    # ASCII, so that no locale's encoding can garble it on the way to the file.
    write_atomically(path, page.encode("ascii", "xmlcharrefreplace").decode())


# ---------------------------------------------------------------------------------- grouping


def _cells(runs: Iterable[Run]) -> dict[tuple[str, str], _Cell]:
    grouped: dict[tuple[str, str], _Cell] = {}
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
        margin=_paired(accuracies[winner], accuracies[runner_up]),
        shortfall=_paired(accuracies[winner], accuracies[prescribed]),
    )


def _paired(a: Mapping[int, float], b: Mapping[int, float]) -> Interval:
    """The difference a - b over the seeds that both have."""
    seeds = sorted(a.keys() & b.keys())
    return statistics.paired_difference([a[s] for s in seeds], [b[s] for s in seeds])


def _verdict(difference: Interval) -> str:
    if math.isnan(difference.half_width):
        return "one seed"
    return "clear" if difference.excludes_zero else "within noise"


def _twins(cell: _Cell, scenario: str) -> list[tuple[Run, Run]]:
    """(transfer run, from-scratch run) of each seed that has both."""
    scratch = cell[REFERENCE]
    return [(run, scratch[seed]) for seed, run in cell[scenario].items() if seed in scratch]


# ---------------------------------------------------------------------------------- sections


def _header(source: Run, runs: Sequence[Run], rows: Sequence[CellRow]) -> str:
    places = "; ".join(_place(row) for row in rows)
    scenarios = len({run.scenario for run in runs})
    seeds = len({run.seed for run in runs})
    return f"""<header>
<h1>Transfer from {escape(source.target)}: {_count(scenarios, "scenario")} side by side</h1>
<p>A source model was trained on {escape(source.target)}. Then {_count(scenarios, "scenario")} ran
on {_count(len(rows), "target")} ({places}) with {_count(seeds, "seed")}:
{_count(len(runs), "run")} in all.</p>
<p class="finding">{escape(finding(rows))}</p>
</header>"""


def _source_section(source: Run) -> str:
    summary = source.summary
    facts = (
        ("test accuracy", _percent(summary["test_accuracy"])),
        ("naive baseline", f"{_percent(summary['naive_accuracy'])} (always the commonest class)"),
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
    table = _table(
        ["target", *map(_words, scenarios), "naive baseline", "lead of the best, points"],
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
{table}
<p class="legend"><span class="best">&#9733; best</span> the highest mean of the row<br>
<span class="textbook">&#9656; textbook</span> the scenario that the textbook prescribes for this
size and similarity<br>
<b>clear</b>: the 95&#160;% interval of the difference, paired by seed, excludes 0;
<b>within noise</b>: it does not</p>
</section>"""


def _grid_entry(row: CellRow, scenario: str) -> str:
    if scenario not in row.scores:
        return "&#8211;"
    score = _percent_interval(row.scores[scenario])
    marks = ""
    if scenario in row.best:
        score = f"<strong>{score}</strong>"
        marks += '<span class="best">&#9733; best</span>'
    if scenario == row.prescribed:
        marks += '<span class="textbook">&#9656; textbook</span>'
    return f"{score}<small>{marks}</small>"


def _comparison(row: CellRow) -> str:
    """How far the best is ahead of the runner-up, and of the textbook's scenario."""
    text = f"{_percent_interval(row.margin)} over {_words(row.runner_up)}: <b>{row.verdict}</b>"
    if row.prescribed not in row.best and row.prescribed != row.runner_up:
        text += (
            f"<br>{_percent_interval(row.shortfall)} over {_words(row.prescribed)}:"
            f" <b>{_verdict(row.shortfall)}</b>"
        )
    return f'<span class="prose">{text}</span>'


def _curves_section(rows: Sequence[CellRow], cells: Sequence[_Cell]) -> str:
    figures = "\n".join(
        _curve_panel(row, cell, f"f{number}")
        for number, (row, cell) in enumerate(zip(rows, cells, strict=True))
    )
    return f"""<section>
<h2>Learning curves and the three benefits</h2>
<p>Line: mean over seeds; band: lowest to highest seed. An image counts each time that it is seen.
In each panel the transfer scenario with the highest asymptote is held against from scratch; the
dotted line is the threshold of the slope, {_SHARE} of the from-scratch asymptote.</p>
<div class="panels">
{figures}
</div>
</section>"""


def _curve_panel(row: CellRow, cell: _Cell, prefix: str) -> str:
    curves = {scenario: _mean_curve(by_seed.values()) for scenario, by_seed in cell.items()}
    transfers = [scenario for scenario in cell if scenario != REFERENCE]
    chosen = max(transfers, key=lambda s: benefits.asymptote(curves[s].means))
    legend = "".join(
        f'<span><i class="{scenario}"></i>{_words(scenario)}</span>' for scenario in cell
    )
    bought = "".join(f"<li>{text}</li>" for text in _benefit_sentences(cell, chosen, curves))
    title = f"{_place(row)}, {row.train_size:,} training images"
    return f"""<figure>
<h3>{title}</h3>
{_draw(curves, chosen, prefix, f"Learning curves of {row.target}, {row.size}")}
<figcaption><p class="legend">{legend}</p>
<p>{_words(chosen).capitalize()} against from scratch:</p>
<ol>{bought}</ol></figcaption>
</figure>"""


def _benefit_sentences(
    cell: _Cell, chosen: str, curves: Mapping[str, "_MeanCurve"]
) -> tuple[str, str, str]:
    """Start, slope and asymptote in words that follow their sign, as html."""
    bought = _benefits(cell, chosen)
    start, asymptote = bought.higher_start, bought.higher_asymptote
    transfer, scratch = curves[chosen].means, curves[REFERENCE].means
    theta = benefits.threshold(scratch)
    first = benefits.first_evaluation(transfer, scratch)
    return (
        f"<b>{_comparative(start.mean)} start</b>: {_points(start)} after {first:,} images"
        f" ({_verdict(start)})",
        _slope_sentence(
            benefits.examples_to_threshold(transfer, theta),
            benefits.examples_to_threshold(scratch, theta),
            _percent(theta),
        ),
        f"<b>{_comparative(asymptote.mean)} asymptote</b>: {_points(asymptote)}"
        f" ({_verdict(asymptote)})",
    )


def _slope_sentence(transfer: float | None, scratch: float | None, theta: str) -> str:
    """How the mean curves race to the threshold."""
    if not scratch:
        return f"<b>no slope to compare</b>: from scratch is at {theta} before it trains"
    if transfer is None:
        return (
            f"<b>lower slope</b>: it never reaches {theta}, from scratch after {scratch:,} images"
        )
    return (
        f"<b>{_comparative(scratch - transfer)} slope</b>: {theta} on the mean curves after"
        f" {transfer:,} images, from scratch after {scratch:,}"
        f" ({_ratio(scratch / transfer if transfer else math.inf)})"
    )


def _benefits_section(rows: Sequence[CellRow], cells: Sequence[_Cell]) -> str:
    table = _table(
        [
            "scenario",
            "start, points",
            f"images to {_SHARE} of scratch, ratio",
            "asymptote, points",
            "trained parameters",
            "seconds a run",
        ],
        [
            [
                f"{_words(scenario)}<small>{_place(row)}</small>",
                *_benefit_entries(cell, scenario),
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
{table}
</section>"""


def _benefits(cell: _Cell, scenario: str) -> Benefits:
    """Of a scenario, against from scratch."""
    twins = _twins(cell, scenario)
    transfer, scratch = ({pair[side].seed: pair[side].curve for pair in twins} for side in (0, 1))
    return benefits.benefits(transfer, scratch)


def _benefit_entries(cell: _Cell, scenario: str) -> tuple[str, str, str]:
    if scenario == REFERENCE:
        return ("reference",) * 3
    bought = _benefits(cell, scenario)
    return (
        _signed_interval(bought.higher_start),
        _ratio_interval(bought.time_ratio),
        _signed_interval(bought.higher_asymptote),
    )


def _costs(by_seed: Mapping[int, Run]) -> tuple[str, str]:
    summaries = [run.summary for run in by_seed.values()]
    trained, total = summaries[0]["trainable_parameters"], summaries[0]["total_parameters"]
    seconds = float(np.mean([summary["wall_seconds"] for summary in summaries]))
    return f"{trained:,} ({100 * trained / total:.1f}&#160;%)", f"{seconds:.1f}"


def _method_section(runs: Sequence[Run], command: str) -> str:
    summary = runs[0].summary
    versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
    devices = _listing(dict.fromkeys(summary["devices"]))
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


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of ready html in a container that scrolls by itself where the screen is narrow."""
    heading = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "\n".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    return f"""<div class="scroll" tabindex="0"><table>
<thead><tr>{heading}</tr></thead>
<tbody>
{body}
</tbody></table></div>"""


# ----------------------------------------------------------------------------------- figures


@dataclass(frozen=True)
class _MeanCurve:
    """Validation accuracy over the seeds of a scenario, at the evaluations that all seeds have."""

    means: list[tuple[int, float]]
    lowest: list[float]
    highest: list[float]


def _mean_curve(runs: Iterable[Run]) -> _MeanCurve:
    curves = [dict(run.curve) for run in runs]
    examples = sorted(set.intersection(*(set(curve) for curve in curves)))
    accuracy = np.array([[curve[x] for x in examples] for curve in curves])
    return _MeanCurve(
        means=list(zip(examples, accuracy.mean(axis=0).tolist(), strict=True)),
        lowest=accuracy.min(axis=0).tolist(),
        highest=accuracy.max(axis=0).tolist(),
    )


# Colours that stand for CSS variables, which take another value in the dark; `_inline` swaps them.
_INK, _PAPER = "#010101", "#fefefe"
_COLOURS = {  # Okabe and Ito's, which the colour-blind can tell apart
    "feature_extraction": "#d55e00",
    "freeze_first": "#009e73",
    "from_scratch": _INK,
    "fine_tune": "#0072b2",
}
# Lines differ in more than colour.
_DASHES = {
    "feature_extraction": ":",
    "freeze_first": "--",
    "from_scratch": "-",
    "fine_tune": "-",
}
_RC: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, selectable, in the page's font
    "svg.hashsalt": "tljax",  # ids by content, not by chance
    "font.size": 11,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
}


def _draw(curves: Mapping[str, _MeanCurve], chosen: str, prefix: str, label: str) -> str:
    """The svg of one panel; `prefix` sets its ids apart from those of the other panels."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(5, 3.7))
        axes = figure.add_axes((0.085, 0.155, 0.835, 0.765))
        for scenario, curve in curves.items():
            _draw_curve(axes, scenario, curve)
        _scale_axes(axes, [x for curve in curves.values() for x, _ in curve.means])
        _annotate(axes, curves[chosen].means, curves[REFERENCE].means)
        svg = io.StringIO()
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(svg, format="svg", transparent=True, metadata=metadata)
    return _inline(svg.getvalue(), prefix, label)


def _draw_curve(axes: Any, scenario: str, curve: _MeanCurve) -> None:
    examples, means = zip(*curve.means, strict=True)
    colour, is_reference = _COLOURS[scenario], scenario == REFERENCE
    axes.fill_between(examples, curve.lowest, curve.highest, color=colour, alpha=0.13, linewidth=0)
    axes.plot(
        examples,
        means,
        color=colour,
        linestyle=_DASHES[scenario],
        linewidth=2.8 if is_reference else 1.9,
        zorder=2 if is_reference else 3,  # thick below thin: both show where they coincide
    )


def _scale_axes(axes: Any, examples: Sequence[int]) -> None:
    """Per cent against images: linear up to the first evaluation, then logarithmic."""
    first, last = min((x for x in examples if x > 0), default=1), max(examples)
    axes.set_xscale("symlog", linthresh=first, linscale=0.4)
    axes.set_xlim(0, max(last, first))
    ticks = [0, *_round_numbers(first, last)]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_ylim(0, 1.02)
    levels = np.linspace(0, 1, 6)
    axes.set_yticks(levels, [f"{100 * level:.0f}" for level in levels])
    axes.grid(axis="y", color=_INK, alpha=0.12, linewidth=0.8)
    axes.tick_params(length=3)
    axes.set_title("validation accuracy, %", loc="left", x=-0.1, fontsize=11)
    axes.set_xlabel("training images seen")


def _round_numbers(low: int, high: int, most: int = 5) -> list[int]:
    """At most `most` of 1, 2, 5, 10, 20, 50, ... from `low` to `high`, evenly picked."""
    powers = range(len(str(high)))
    numbers = [m * 10**p for p in powers for m in (1, 2, 5) if low <= m * 10**p <= high]
    stride = math.ceil(len(numbers) / most)
    return numbers[::-1][:: max(stride, 1)][::-1]


def _annotate(axes: Any, transfer: benefits.Curve, scratch: benefits.Curve) -> None:
    """Arrows from scratch to transfer: 1 start, 2 images to the threshold, 3 asymptote."""
    first = benefits.first_evaluation(transfer, scratch)
    starts = [benefits.accuracy_at(curve, first) for curve in (scratch, transfer)]
    _arrow(axes, (first, starts[0]), (first, starts[1]))
    _badge(axes, "1", (first, sum(starts) / 2), (-11, 0))

    theta = benefits.threshold(scratch)
    late = benefits.examples_to_threshold(scratch, theta)
    early = benefits.examples_to_threshold(transfer, theta)
    if late:
        axes.axhline(theta, color=_INK, linewidth=0.8, linestyle=(0, (1, 3)))
        if early is not None:
            _arrow(axes, (late, theta), (early, theta))
        _badge(axes, "2", (late, theta), (9, -9))

    beside = axes.get_yaxis_transform()  # x in widths of the axes, y in accuracy
    ends = [benefits.asymptote(curve) for curve in (scratch, transfer)]
    _arrow(axes, (1.02, ends[0]), (1.02, ends[1]), beside)
    _badge(axes, "3", (1.02, sum(ends) / 2), (14, 0), beside)


_NO_ARROW = 0.015  # in accuracy; along the other axis one image is far more


def _arrow(
    axes: Any, tail: tuple[float, float], head: tuple[float, float], coordinates: Any = "data"
) -> None:
    """An arrow, unless it would be shorter than its own head: the badge marks the place."""
    if abs(head[0] - tail[0]) + abs(head[1] - tail[1]) < _NO_ARROW:
        return
    axes.annotate(
        "",
        xy=head,
        xytext=tail,
        xycoords=coordinates,
        textcoords=coordinates,
        arrowprops={
            "arrowstyle": "-|>",
            "color": _INK,
            "linewidth": 1.1,
            "shrinkA": 0,
            "shrinkB": 0,
        },
        annotation_clip=False,
        zorder=5,
    )


def _badge(
    axes: Any,
    number: str,
    at: tuple[float, float],
    offset: tuple[float, float],
    coordinates: Any = "data",
) -> None:
    """A number in a disc, `offset` points away from what it stands for."""
    axes.annotate(
        number,
        xy=at,
        xytext=offset,
        xycoords=coordinates,
        textcoords="offset points",
        color=_PAPER,
        fontsize=9,
        ha="center",
        va="center",
        bbox={"boxstyle": "circle,pad=0.2", "facecolor": _INK, "edgecolor": _PAPER},
        annotation_clip=False,
        zorder=6,
    )


def _inline(svg: str, prefix: str, label: str) -> str:
    """A stand-alone svg as part of a page: its colours, its ids, no outside names."""
    svg = svg[svg.index("<svg") :]
    size = re.search(r'viewBox="[^"]*"', svg)
    assert size is not None
    opening = f'<svg {size[0]} role="img" aria-label="{escape(label)}">'
    svg = re.sub(r"<svg[^>]*>", lambda _: opening, svg, count=1)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)
    for scenario, colour in _COLOURS.items():
        if scenario != REFERENCE:
            svg = svg.replace(colour, f"var(--{scenario})")
    return svg.replace(_INK, "currentColor").replace(_PAPER, "var(--paper)")


# ------------------------------------------------------------------------- words and numbers

_SHARE = f"{100 * benefits.THRESHOLD_SHARE:.0f}&#160;%"


def _words(scenario: str) -> str:
    return escape(scenario.replace("_", " "))


def _place(row: CellRow) -> str:
    return escape(f"{row.target}, {row.size}")


def _listing(names: Iterable[str]) -> str:
    *init, last = names
    return f"{', '.join(init)} and {last}" if init else last


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _comparative(difference: float) -> str:
    if difference == 0:
        return "equal"
    return "higher" if difference > 0 else "lower"


# The entities below: no-break space, minus, plus-minus, infinity, times.


def _percent(accuracy: float) -> str:
    return f"{100 * accuracy:.1f}&#160;%"


def _percent_interval(interval: Interval) -> str:
    return f"{100 * interval.mean:.1f}{_half_width(interval)}"


def _signed_interval(interval: Interval) -> str:
    mean = f"{100 * interval.mean:+.1f}".replace("-", "&#8722;")
    return f"{mean}{_half_width(interval)}"


def _points(difference: Interval) -> str:
    return f"{_signed_interval(difference)} points"


def _half_width(interval: Interval) -> str:
    if math.isnan(interval.half_width):
        return ""
    return f"&#160;&#177;&#160;{100 * interval.half_width:.1f}"


def _ratio(value: float) -> str:
    return "&#8734;" if math.isinf(value) else f"{_two_digits(value)}&#215;"


def _two_digits(value: float) -> str:
    """About two significant digits, never an exponent."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


_BOUNDS: dict[Bound, str] = {"exact": "", "at least": "at least ", "at most": "at most "}


def _ratio_interval(ratio: RatioInterval) -> str:
    """The geometric mean of a ratio and its interval, or how far it is known."""
    mean, ends = ratio.interval.mean, ratio.interval
    if math.isnan(mean):
        count = ratio.undetermined or ratio.censored
        return f"undetermined in {count} of {_count(ratio.seeds, 'seed')}"
    text = f"{_BOUNDS[ratio.bound]}{_ratio(mean)}"
    if ratio.censored:
        return f"{text} (a bound in {ratio.censored} of {_count(ratio.seeds, 'seed')})"
    if math.isnan(ends.low):
        return text
    return f"{text} ({_two_digits(ends.low)} to {_two_digits(ends.high)})"


# ---------------------------------------------------------------------------------- the page

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>tljax: transfer report</title>
<style>
{style}
</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

_STYLE = """:root {
  color-scheme: light dark;
  --paper: #fff; --ink: #1c1f23; --soft: #5a626c; --line: #d9dde2; --shade: #f3f5f7;
  --best: #8a5a00; --textbook: #0b5fa5;
  --feature_extraction: #d55e00; --freeze_first: #008a64; --from_scratch: #1c1f23;
  --fine_tune: #0072b2;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15181c; --ink: #e6e9ed; --soft: #a3acb7; --line: #343a42; --shade: #1f242a;
    --best: #f2bd4b; --textbook: #7cc0f5;
    --feature_extraction: #ff9a52; --freeze_first: #35c79b; --from_scratch: #e6e9ed;
    --fine_tune: #5db8f0;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
main { max-width: 68rem; margin: 0 auto; padding: 1.25rem 1rem 3rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0.5rem 0 0.75rem; }
h2 { font-size: 1.2rem; margin: 2.25rem 0 0.5rem; }
h3 { font-size: 1rem; margin: 0 0 0.25rem; }
h1, h2, h3, p, li, th, td { overflow-wrap: break-word; }
p, ul { max-width: 46rem; margin: 0.5rem 0; }
ul { padding-left: 1.2rem; }
.finding {
  padding: 0.6rem 0.9rem; border-left: 4px solid var(--textbook); background: var(--shade);
}
.facts {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: 0.6rem 1rem;
  margin: 0.5rem 0;
}
dt, small, .legend, .versions { color: var(--soft); font-size: 0.85rem; }
dd { margin: 0; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td {
  padding: 0.45rem 0.7rem; text-align: left; vertical-align: top; white-space: nowrap;
  border-bottom: 1px solid var(--line);
}
thead th {
  background: var(--shade); font-size: 0.85rem; vertical-align: bottom; white-space: normal;
}
tbody th { font-weight: 600; min-width: 7.5rem; white-space: normal; }
tbody th, thead th:first-child { position: sticky; left: 0; }
tbody th { background: var(--paper); }
.prose { display: block; min-width: 15rem; white-space: normal; }
small { display: block; font-weight: 400; }
small span, .legend .best, .legend .textbook { display: inline-block; margin-right: 0.5rem; }
.best { color: var(--best); }
.textbook { color: var(--textbook); }
.panels {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 2rem;
}
figure { margin: 0.75rem 0 0; min-width: 0; }
svg { display: block; width: 100%; height: auto; color: var(--ink); }
svg text { font-family: inherit !important; }
figcaption { font-size: 0.92rem; }
figcaption ol { margin: 0.25rem 0; padding-left: 1.4rem; }
figcaption .legend span { display: inline-block; margin-right: 0.8rem; }
.legend i { display: inline-block; width: 1.7rem; margin-right: 0.35rem; vertical-align: middle; }
i.feature_extraction { border-top: 3px dotted var(--feature_extraction); }
i.freeze_first { border-top: 3px dashed var(--freeze_first); }
i.from_scratch { border-top: 4px solid var(--from_scratch); }
i.fine_tune { border-top: 2px solid var(--fine_tune); }
pre { margin: 0; padding: 0.6rem 0.9rem; background: var(--shade); }"""
