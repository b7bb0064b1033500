"""Learning curves, and the benefits of each scenario that has from-scratch runs to compare with."""

from collections.abc import Mapping, Sequence

from tljax.analysis.benefits import asymptote
from tljax.analysis.report.benefit_text import (
    BENEFIT_COLUMNS,
    HOW_BENEFITS_ARE_PAIRED,
    THRESHOLD_PERCENT,
    benefit_row,
    benefit_sentences,
)
from tljax.analysis.report.cells import (
    Cell,
    ReportedRun,
    mean_curve,
    mean_seconds,
    pair_with_scratch,
)
from tljax.analysis.report.curve_figure import paint_curves
from tljax.analysis.report.figures import REFERENCE, Gallery, legend, place_for
from tljax.analysis.report.finished_runs import Collection, FinishedRun, Target
from tljax.analysis.report.formatting import scenario_name
from tljax.analysis.report.labels import TargetNames, plain_text
from tljax.analysis.report.measures import ACCURACY, Measure
from tljax.analysis.report.page import table

_Cell = Cell[FinishedRun]


def curves_and_panels(compared: str, panels: Sequence[str]) -> str:
    """The heading of a section on learning curves, its explanation and its panels.

    Args:
      compared: a sentence in HTML that says which scenario is compared with from scratch; "": none.
      panels: of `curve_panel`.
    """
    figures = "\n".join(panels)
    return f"""<h2>Learning curves{" and the three benefits" if compared else ""}</h2>
<p>Line: mean over seeds; band: lowest to highest seed. A head that is solved is one point, and the
bar through it reaches from the lowest to the highest seed. An image counts each time that it is
seen.
{compared}</p>
<div class="panels">
{figures}
</div>"""


def curve_panel(
    cell: Cell[ReportedRun],
    candidates: Sequence[str],
    title: str,
    alt: str,
    gallery: Gallery,
    without_candidates: str = "",
    measure: Measure = ACCURACY,
) -> str:
    """The learning curves of a cell, with the benefits of one scenario, as a figure in HTML.

    Args:
      cell: the runs.
      candidates: scenarios that have from-scratch runs of the same seeds. The one with the
        highest asymptote is compared with from scratch.
      title: of the panel, in HTML.
      alt: what the drawing shows, as plain text.
      gallery: gets the drawing.
      without_candidates: the text in place of benefits if there is no candidate, in HTML.
      measure: of the curves.
    """
    curves = {scenario: mean_curve(by_seed.values()) for scenario, by_seed in cell.items()}
    best = max(candidates, key=lambda s: asymptote(curves[s].means), default=None)
    text = without_candidates
    if best is not None:
        sentences = "".join(f"<li>{s}</li>" for s in benefit_sentences(cell, best, curves, measure))
        name = scenario_name(best).capitalize()
        text = f"<p>{name} against from scratch:</p>\n<ol>{sentences}</ol>"
    drawing = gallery.draw(
        f"curves_{len(gallery.pngs)}",
        alt,
        lambda axes: paint_curves(axes, measure, curves, best),
        place=place_for(measure),
    )
    return f"""<figure>
<h3>{title}</h3>
{drawing}
<figcaption>{legend(cell)}
{text}</figcaption>
</figure>"""


def learning_section(collection: Collection, names: TargetNames, gallery: Gallery) -> str:
    """A panel for each target, and the table of benefits; empty if no run has a curve."""
    cells: dict[Target, _Cell] = {}
    for target in collection.targets:
        best = collection.best_by_scenario(target)
        runs = {scenario: choice.setting.runs for scenario, choice in best.items()}
        with_curve = {s: by_seed for s, by_seed in runs.items() if _has_curve(by_seed)}
        if with_curve:
            cells[target] = with_curve
    if not cells:
        return ""
    has_benefits = any(target.goal.measure.more_is_better for target in cells)
    compared = (
        ""
        if not has_benefits
        else f"""\
Where a scenario has a from-scratch twin (same data, size, model, batches, steps, and seeds in
common), the one with the highest asymptote is compared with it; the dotted line is the threshold
of the slope, {THRESHOLD_PERCENT} of the from-scratch asymptote."""
    )
    panels = [_panel(target, cell, names, gallery) for target, cell in cells.items()]
    return f"""<section>
{curves_and_panels(compared, panels)}
{_benefits_table(cells, names)}
</section>"""


def _has_curve(by_seed: Mapping[int, FinishedRun]) -> bool:
    """Whether all seeds have two evaluations in common: one point is no curve."""
    return len(set.intersection(*({x for x, _ in run.curve} for run in by_seed.values()))) > 1


def _panel(target: Target, cell: _Cell, names: TargetNames, gallery: Gallery) -> str:
    paired, nothing = _paired(target, cell), ""
    if REFERENCE in cell and len(cell) > 1:
        nothing = "<p>No scenario has a from-scratch twin of the same length and seeds.</p>"
        if not target.goal.measure.more_is_better:
            nothing = "<p>The benefits are of scores of which more is better.</p>"
    name = f"{names.without_size(target)}, {target.train_size:,} images"
    alt = f"Learning curves on {plain_text(name)}"
    measure = target.goal.measure
    return curve_panel(cell, paired, names.html(target), alt, gallery, nothing, measure)


def _paired(target: Target, cell: _Cell) -> list[str]:
    """The scenarios whose benefits over from scratch can be told."""
    if not target.goal.measure.more_is_better:
        return []
    return [scenario for scenario in cell if _has_twins(cell, scenario)]


def _has_twins(cell: _Cell, scenario: str) -> bool:
    """Whether each seed that is also run from scratch has the same budget there."""
    if scenario == REFERENCE or REFERENCE not in cell:
        return False
    pairs = pair_with_scratch(cell, scenario)
    return bool(pairs) and all(
        run.summary["steps"] == twin.summary["steps"]
        and run.summary["examples_seen"] == twin.summary["examples_seen"]
        for run, twin in pairs
    )


def _benefits_table(cells: Mapping[Target, _Cell], names: TargetNames) -> str:
    """The benefits of all scenarios with twins: those in points, then those of R2."""
    tables = []
    for shares in (True, False):
        rows = [
            [
                *benefit_row(cell, scenario, names.html(target), target.goal.measure),
                mean_seconds(cell[scenario]),
            ]
            for target, cell in cells.items()
            if target.goal.measure.is_share == shares
            for scenario in _paired(target, cell)
        ]
        if rows:
            columns = (
                column if shares else column.removesuffix(", points") for column in BENEFIT_COLUMNS
            )
            tables.append("" if shares else "<h4>Of R&#178;</h4>")
            tables.append(table([*columns, "seconds a run"], rows))
    if not tables:
        return ""
    every = "\n".join(tables)
    return f"""<h3>Benefits against from scratch</h3>
{HOW_BENEFITS_ARE_PAIRED}
{every}"""
