"""Learning curves, and the three benefits of transfer where a run has a from-scratch twin."""

from collections.abc import Mapping

import numpy as np

from tljax.analysis.benefits import asymptote
from tljax.analysis.report.benefits import SHARE, benefit_entries, benefit_sentences, twins
from tljax.analysis.report.curves import mean_curve, paint_curves
from tljax.analysis.report.figures import REFERENCE, Gallery, legend
from tljax.analysis.report.labels import Places, plain
from tljax.analysis.report.page import table
from tljax.analysis.report.runs import Collection, Place, Run
from tljax.analysis.report.words import words

_Cell = Mapping[str, Mapping[int, Run]]


def learning_section(runs: Collection, names: Places, gallery: Gallery) -> str:
    """A panel for each place, and the table of benefits."""
    cells = {
        place: {scenario: chosen.setting.runs for scenario, chosen in runs.at(place).items()}
        for place in runs.places
    }
    cells = {
        place: kept
        for place, cell in cells.items()
        if (kept := {s: by_seed for s, by_seed in cell.items() if _has_curve(by_seed)})
    }
    if not cells:
        return ""
    panels = "\n".join(_panel(place, cell, names, gallery) for place, cell in cells.items())
    return f"""<section>
<h2>Learning curves and the three benefits</h2>
<p>Line: mean over seeds; band: lowest to highest seed. An image counts each time that it is seen.
Where a scenario has a from-scratch twin (same data, size, model, batches, steps, and seeds in
common), the one with the highest asymptote is held against it; the dotted line is the threshold of
the slope, {SHARE} of the from-scratch asymptote.</p>
<div class="panels">
{panels}
</div>
{_benefits_table(cells, names)}
</section>"""


def _has_curve(by_seed: Mapping[int, Run]) -> bool:
    """Whether its seeds have two evaluations in common, so that there is something to draw."""
    return len(set.intersection(*({x for x, _ in run.curve} for run in by_seed.values()))) > 1


def _panel(place: Place, cell: _Cell, names: Places, gallery: Gallery) -> str:
    curves = {scenario: mean_curve(by_seed.values()) for scenario, by_seed in cell.items()}
    paired = [scenario for scenario in cell if _is_paired(cell, scenario)]
    chosen = max(paired, key=lambda s: asymptote(curves[s].means), default=None)
    text = ""
    if chosen is not None:
        sentences = "".join(f"<li>{s}</li>" for s in benefit_sentences(cell, chosen, curves))
        text = f"<p>{words(chosen).capitalize()} against from scratch:</p>\n<ol>{sentences}</ol>"
    elif REFERENCE in cell and len(cell) > 1:
        text = "<p>No scenario has a from-scratch twin of the same length and seeds.</p>"
    name = f"{names.target(place)}, {place.train_size:,} images"
    drawing = gallery.draw(
        f"curves_{len(gallery.pngs)}",
        f"Learning curves on {plain(name)}",
        lambda axes: paint_curves(axes, curves, chosen),
    )
    return f"""<figure>
<h3>{names.html(place)}</h3>
{drawing}
<figcaption>{legend(cell)}
{text}</figcaption>
</figure>"""


def _is_paired(cell: _Cell, scenario: str) -> bool:
    """Whether from-scratch runs with the same budget stand beside the scenario's."""
    if scenario == REFERENCE or REFERENCE not in cell:
        return False
    pairs = twins(cell, scenario)
    return bool(pairs) and all(
        run.summary["steps"] == twin.summary["steps"]
        and run.summary["examples_seen"] == twin.summary["examples_seen"]
        for run, twin in pairs
    )


def _benefits_table(cells: Mapping[Place, _Cell], names: Places) -> str:
    rows = [
        [
            f"{words(scenario)}<small>{names.html(place)}</small>",
            *benefit_entries(cell, scenario),
            f"{float(np.mean([run.summary['wall_seconds'] for run in by_seed.values()])):,.1f}",
        ]
        for place, cell in cells.items()
        for scenario, by_seed in cell.items()
        if _is_paired(cell, scenario)
    ]
    if not rows:
        return ""
    head = ["scenario", "start, points", f"images to {SHARE} of scratch, ratio"]
    entries = table([*head, "asymptote, points", "seconds a run"], rows)
    return f"""<h3>Benefits against from scratch</h3>
<p>Mean &#177; half of the 95&#160;% interval over seeds, each seed compared with the from-scratch
run of the same seed. A ratio above 1 means fewer images than from scratch; its mean is geometric,
its interval in brackets.</p>
{entries}"""
