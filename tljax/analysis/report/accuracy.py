"""Test accuracy by scenario and number of training images, and against k."""

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tljax.analysis.comparison import compare, right_images
from tljax.analysis.report.cells import values_by_seed
from tljax.analysis.report.curve_figure import round_numbers
from tljax.analysis.report.figures import (
    COLOURS,
    DASHES,
    MARKS,
    Gallery,
    legend,
    percent_axis,
)
from tljax.analysis.report.finished_runs import Choice, Collection, Setting, Target, choose_best
from tljax.analysis.report.formatting import lead_over, percent_interval, plural, scenario_name
from tljax.analysis.report.labels import TargetNames, differing_fields, html_text, plain_text
from tljax.analysis.report.page import table
from tljax.analysis.statistics import Interval
from tljax.transfer.scenarios import SCENARIOS

_Rows = Mapping[Target, Mapping[str, Choice]]  # the best setting of each scenario


def accuracy_section(collection: Collection, names: TargetNames, gallery: Gallery) -> str:
    """The table of all targets and scenarios, and a figure for each data set and model.

    Targets of several tasks are left out; if there are no others, the section is empty.
    """
    rows = {
        target: collection.best_by_scenario(target)
        for target in collection.targets
        if not collection.is_joint(target)
    }
    if not rows:
        return ""
    scenarios = [s for s in SCENARIOS if any(s in row for row in rows.values())]
    has_leads = any(len(row) > 1 for row in rows.values())
    entries = table(
        ["target", *map(scenario_name, scenarios), "naive", *["lead, points"] * has_leads],
        [
            [
                names.html(target),
                *(_entry(row.get(s), row, collection) for s in scenarios),
                f"{100 * _naive_accuracy(row):.1f}",
                *([_lead(row)] if has_leads else []),
            ]
            for target, row in rows.items()
        ],
    )
    return f"""<section>
<h2>Test accuracy by scenario and size</h2>
<p>In per cent; mean &#177; half of the 95&#160;% interval over seeds. Where a scenario was run in
several settings, the one with the highest mean <em>validation</em> accuracy is shown, with the
number of settings it was chosen from; no choice uses test images. Naive: always the commonest
class.</p>
{entries}
<p class="legend"><span class="best">&#9733; highest</span> mean of the row; its lead over the next
is <b>clear</b> if two 95&#160;% intervals of the difference, paired by seed, exclude 0: the one
over seeds, and the one over seeds and test images together (&#177; with images). Where a run kept
no predictions there is only the first: clear over seeds only.</p>
<div class="panels">
{_figures(rows, names, gallery)}
</div>
</section>"""


def _entry(choice: Choice | None, row: Mapping[str, Choice], collection: Collection) -> str:
    """Test accuracy of a scenario, with notes on its seeds and on how it was chosen."""
    if choice is None:
        return "&#8211;"
    setting = choice.setting
    text = percent_interval(setting.test)
    most_seeds = max(len(setting.runs) for setting in collection.settings)
    notes = [] if len(setting.runs) == most_seeds else [plural(len(setting.runs), "seed")]
    if setting is _ranked(row)[0].setting and len(row) > 1:
        text = f"<strong>{text}</strong>"
        notes.insert(0, '<span class="best">&#9733; highest</span>')
    if choice.among > 1:
        notes.append(f"best of {choice.among} on validation")
        rivals = collection.settings_of(setting.target, setting.scenario)
        notes.append(differing_fields(setting, rivals))
    return f"{text}<small>{'<br>'.join(note for note in notes if note)}</small>"


def _ranked(row: Mapping[str, Choice]) -> list[Choice]:
    """Sorted by mean test accuracy, highest first."""
    # Rounded, so that the last bit of a sum does not decide.
    return sorted(row.values(), key=lambda choice: -round(choice.setting.test.mean, 12))


def _lead(row: Mapping[str, Choice]) -> str:
    """The lead of the best scenario over the next one, in HTML."""
    if len(row) < 2:
        return "&#8211;"
    first, second = (choice.setting for choice in _ranked(row)[:2])
    if not first.runs.keys() & second.runs.keys():
        return '<span class="prose">no seed in common</span>'
    a, b = (values_by_seed(setting.runs, "test_accuracy") for setting in (first, second))
    margin = compare(a, b, *(right_images(first.answers, second.answers) or ()))
    return f'<span class="prose">{lead_over(margin, second.scenario)}</span>'


def _naive_accuracy(row: Mapping[str, Choice]) -> float:
    return float(np.mean([np.mean(c.setting.values("naive_accuracy")) for c in row.values()]))


# ------------------------------------------------------------------------------------- figures


def _figures(rows: _Rows, names: TargetNames, gallery: Gallery) -> str:
    """A figure for each data set and model: against size if there are several, else by scenario."""
    by_name: dict[str, list[Target]] = {}
    for target in rows:
        by_name.setdefault(names.without_size(target), []).append(target)
    figures = []
    for number, (name, targets) in enumerate(by_name.items()):
        alt = f"Test accuracy on {plain_text(name)}"
        if len(targets) > 1:
            alt = f"{alt} against size"
            paint = functools.partial(_paint_sizes, targets=targets, rows=rows)
            caption = legend({scenario for target in targets for scenario in rows[target]})
        else:
            alt = f"{alt} by scenario"
            paint = functools.partial(_paint_scenarios, row=rows[targets[0]])
            caption = ""
        drawing = gallery.draw(f"accuracy_{number}", alt, paint)
        figures.append(
            f"<figure>\n<h3>{html_text(name)}</h3>\n{drawing}\n"
            f"<figcaption>{caption}</figcaption>\n</figure>"
        )
    return "\n".join(figures)


def _paint_sizes(axes: Any, targets: Sequence[Target], rows: _Rows) -> None:
    """Test accuracy against the number of training images, a line for each scenario."""
    for number, scenario in enumerate(SCENARIOS):
        line = [
            (target.train_size, rows[target][scenario].setting.test)
            for target in targets
            if scenario in rows[target]
        ]
        if line:
            shift = 1 + 0.02 * (number - 1.5)  # so that the intervals do not overlap
            xs = [size * shift for size, _ in line]
            _draw_intervals(axes, xs, [test for _, test in line], scenario, DASHES[scenario])
    sizes = [target.train_size for target in targets]
    axes.set_xscale("log")
    axes.set_xlim(min(sizes) * 0.8, max(sizes) * 1.25)
    ticks = sizes if len(sizes) <= 5 else round_numbers(min(sizes), max(sizes))
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("training images")
    tests = [choice.setting.test for target in targets for choice in rows[target].values()]
    percent_axis(axes, "test accuracy, %", _lowest_tick(tests))


def _paint_scenarios(axes: Any, row: Mapping[str, Choice]) -> None:
    """Test accuracy of each scenario, with a dot for each seed."""
    for number, (scenario, choice) in enumerate(row.items()):
        values = choice.setting.values("test_accuracy")
        xs = [number + 0.18] * len(values)
        axes.plot(xs, values, ".", color=COLOURS[scenario], alpha=0.6, markersize=5)
        _draw_intervals(axes, [number], [choice.setting.test], scenario, "none")
    labels = [scenario.replace("_", "\n") for scenario in row]
    axes.set_xticks(range(len(labels)), labels, fontsize=10)
    axes.set_xlim(-0.6, len(labels) - 0.4)
    tests = [choice.setting.test for choice in row.values()]
    percent_axis(axes, "test accuracy, % (dots: seeds)", _lowest_tick(tests))


def _lowest_tick(tests: Iterable[Interval]) -> float:
    """The highest of 0, 0.2, 0.4, ... that lies below all intervals."""
    lowest = min(test.mean - np.nan_to_num(test.half_width) for test in tests)
    return max(0.0, math.floor(5 * (lowest - 0.02)) / 5)


def _draw_intervals(
    axes: Any, xs: Sequence[float], tests: Sequence[Interval], scenario: str, linestyle: str
) -> None:
    axes.errorbar(
        xs,
        [test.mean for test in tests],
        yerr=[np.nan_to_num(test.half_width) for test in tests],
        color=COLOURS[scenario],
        marker=MARKS[scenario],
        linestyle=linestyle,
        linewidth=1.8,
        elinewidth=1.1,
        capsize=3,
        markersize=6,
    )


# ------------------------------------------------------------------------------------------- k


def k_section(collection: Collection, names: TargetNames, gallery: Gallery) -> str:
    """Accuracy against the number of frozen groups; empty if no target has several."""
    figures: list[str] = []
    for target in collection.targets:
        by_k: dict[int, list[Setting]] = {}
        for setting in collection.settings_of(target, "freeze_first"):
            by_k.setdefault(setting.first.config["k"], []).append(setting)
        if len(by_k) > 1:
            best = {k: choose_best(by_k[k]) for k in sorted(by_k)}
            others = collection.best_by_scenario(target)
            del others["freeze_first"]
            figures.append(_k_figure(target, best, others, len(figures), names, gallery))
    if not figures:
        return ""
    panels = "\n".join(figures)
    return f"""<section>
<h2>Accuracy against k</h2>
<p>The first k groups keep their pretrained weights, the rest is retrained. Bars: 95&#160;%
intervals over seeds; level lines: the means of the other scenarios.</p>
<div class="panels">
{panels}
</div>
</section>"""


def _k_figure(
    target: Target,
    best: Mapping[int, Choice],
    others: Mapping[str, Choice],
    number: int,
    names: TargetNames,
    gallery: Gallery,
) -> str:
    name = f"{names.without_size(target)}, {target.train_size:,} images"
    drawing = gallery.draw(
        f"k_{number}",
        f"Test accuracy against k on {plain_text(name)}",
        functools.partial(_paint_k, best=best, others=others),
    )
    tried = sum(choice.among for choice in best.values())
    among = f" Each k at the best of its settings on validation, {tried} in all."
    return (
        f"<figure>\n<h3>{names.html(target)}</h3>\n{drawing}\n<figcaption>"
        f"{legend(['freeze_first', *others])}<p>{among if tried > len(best) else ''}</p>"
        "</figcaption>\n</figure>"
    )


def _paint_k(axes: Any, best: Mapping[int, Choice], others: Mapping[str, Choice]) -> None:
    """Test accuracy of the best setting of each k, and the other scenarios as level lines."""
    for scenario, other in others.items():
        axes.axhline(
            other.setting.test.mean,
            color=COLOURS[scenario],
            linestyle=DASHES[scenario],
            linewidth=1.4,
        )
    tests = [choice.setting.test for choice in best.values()]
    _draw_intervals(axes, list(best), tests, "freeze_first", "-")
    axes.set_xticks(list(best))
    axes.set_xlabel("k: groups frozen, from the input")
    levels = [other.setting.test for other in others.values()]
    percent_axis(axes, "test accuracy, %", _lowest_tick([*tests, *levels]))
