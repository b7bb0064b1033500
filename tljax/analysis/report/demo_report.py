"""The report of `tljax demo`: one HTML file that says what the textbook prescribes and what won."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from tljax.analysis.report.benefit_text import (
    BENEFIT_COLUMNS,
    END_OF_CURVE,
    HOW_BENEFITS_ARE_PAIRED,
    THRESHOLD_PERCENT,
    benefit_row,
)
from tljax.analysis.report.cells import mean_seconds
from tljax.analysis.report.demo_grid import (
    CellRow,
    DemoCell,
    DemoRun,
    cell_table,
    finding,
    group_cells,
)
from tljax.analysis.report.figures import REFERENCE, Gallery
from tljax.analysis.report.formatting import (
    about_intervals,
    join_names,
    lead_over,
    percent,
    percent_interval,
    plural,
    scenario_name,
)
from tljax.analysis.report.learning_curves import curve_panel, curves_and_panels
from tljax.analysis.report.page import made_by, table, write_page
from tljax.transfer.scenarios import SCENARIOS


def write_report(
    path: Path,
    source: DemoRun,
    runs: Sequence[DemoRun],
    prescribed: Mapping[tuple[str, str], str],
    similarity: Mapping[str, str],
    command: str,
) -> None:
    """Writes the report atomically.

    Args:
      path: the HTML file; its folder exists.
      source: the run that trained the source model.
      runs: the transfer runs; every (target, size) has `from_scratch` among its scenarios.
      prescribed: the textbook's scenario for each (target, size).
      similarity: "similar" or "dissimilar" to the source, for each target.
      command: the command line that makes this report.
    """
    rows = cell_table(runs, prescribed)
    cells = list(group_cells(runs).values())
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


def _header(source: DemoRun, runs: Sequence[DemoRun], rows: Sequence[CellRow]) -> str:
    places = "; ".join(_cell_name(row) for row in rows)
    scenarios = len({run.scenario for run in runs})
    seeds = len({run.seed for run in runs})
    return f"""<header>
<h1>Transfer from {escape(source.target)}: {plural(scenarios, "scenario")} side by side</h1>
<p>A source model was trained on {escape(source.target)}. Then {plural(scenarios, "scenario")} ran
on {plural(len(rows), "target")} ({places}) with {plural(seeds, "seed")}:
{plural(len(runs), "run")} in all.</p>
<p class="finding">{escape(finding(rows))}</p>
</header>"""


def _source_section(source: DemoRun) -> str:
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


def _grid_section(source: DemoRun, rows: Sequence[CellRow], similarity: Mapping[str, str]) -> str:
    scenarios = [s for s in SCENARIOS if any(s in row.scores for row in rows)]
    entries = table(
        ["target", *map(scenario_name, scenarios), "naive baseline", "lead of the best, points"],
        [
            [
                f"{_cell_name(row)}<small>{escape(similarity[row.target])},"
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
<b>clear over seeds only</b>: the 95&#160;% interval of the difference, paired by seed, excludes 0;
with other test images it might not; <b>within noise</b>: it does not exclude 0</p>
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
    text = lead_over(row.margin, row.runner_up)
    if row.prescribed not in row.best and row.prescribed != row.runner_up:
        text += f"<br>{lead_over(row.shortfall, row.prescribed)}"
    return f'<span class="prose">{text}</span>'


def _curves_section(rows: Sequence[CellRow], cells: Sequence[DemoCell], gallery: Gallery) -> str:
    compared = f"""\
In each panel the transfer scenario with the highest asymptote is compared with from scratch; the
dotted line is the threshold of the slope, {THRESHOLD_PERCENT} of the from-scratch asymptote."""
    panels = [
        curve_panel(
            cell,
            [scenario for scenario in cell if scenario != REFERENCE],
            f"{_cell_name(row)}, {row.train_size:,} training images",
            f"Learning curves of {row.target}, {row.size}",
            gallery,
        )
        for row, cell in zip(rows, cells, strict=True)
    ]
    return f"""<section>
{curves_and_panels(compared, panels)}
</section>"""


def _benefits_section(rows: Sequence[CellRow], cells: Sequence[DemoCell]) -> str:
    entries = table(
        [*BENEFIT_COLUMNS, "trained parameters", "seconds a run"],
        [
            [
                *benefit_row(cell, scenario, _cell_name(row)),
                _trained_parameters(next(iter(by_seed.values()))),
                mean_seconds(by_seed),
            ]
            for row, cell in zip(rows, cells, strict=True)
            for scenario, by_seed in cell.items()
        ],
    )
    return f"""<section>
<h2>Benefits and costs, against from scratch</h2>
{HOW_BENEFITS_ARE_PAIRED}
{entries}
</section>"""


def _trained_parameters(run: DemoRun) -> str:
    trained, total = run.summary["trainable_parameters"], run.summary["total_parameters"]
    return f"{trained:,} ({percent(trained / total)})"


def _cell_name(row: CellRow) -> str:
    return escape(f"{row.target}, {row.size}")


def _method_section(runs: Sequence[DemoRun], command: str) -> str:
    summary = runs[0].summary
    devices = join_names(dict.fromkeys(summary["devices"]))
    intervals = about_intervals([len({run.seed for run in runs})])
    return f"""<section>
<h2>How it was measured, and how to read it</h2>
<ul>
<li>Every transfer run starts from the same source weights, from scratch runs from random ones.
Intervals are over seeds of the runs on the target; they leave out how the source's training
varies.</li>
<li>The weights to keep are chosen on validation images. Test images are used once, after training,
with those weights.</li>
<li>{intervals} Differences are paired by seed. They are not corrected for having picked the best of
several scenarios, which flatters the winner, nor for the choice of the test images, which
are the same for every run.</li>
<li>Start: difference in validation accuracy at the first evaluation after step 0, where a new head
of zeros is still at chance (one that was solved is not). {END_OF_CURVE} Slope: images until an
evaluation first reaches the threshold, so its resolution is the interval between evaluations
(Torrey &amp; Shavlik 2009; Taylor &amp; Stone 2009).</li>
<li>The naive baseline always answers the commonest class of the training images.</li>
<li>Seconds are wall time on {escape(devices)}, compilation and evaluation included.</li>
</ul>
{made_by(command, [summary["versions"]])}
</section>"""
