"""Test scores by scenario and number of training images, and against k."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tljax.analysis.comparison import compare, right_images
from tljax.analysis.report.curve_figure import round_numbers
from tljax.analysis.report.figures import (
    COLOURS,
    DASHES,
    MARKS,
    Gallery,
    legend,
    place_for,
    score_axis,
)
from tljax.analysis.report.finished_runs import Choice, Collection, Setting, Target, choose_best
from tljax.analysis.report.formatting import lead_over, plural, scenario_name
from tljax.analysis.report.labels import TargetNames, differing_fields, html_text, plain_text
from tljax.analysis.report.measures import ACCURACY, Measure
from tljax.analysis.report.page import table
from tljax.analysis.statistics import Interval, comparable
from tljax.runs.scores import rank
from tljax.transfer.scenarios import SCENARIOS

_Rows = Mapping[Target, Mapping[str, Choice]]  # the best setting of each scenario
# What the naive baseline answers, of each kind of labels.
_NAIVE = {
    "classes": "always the commonest class",
    "multi_label": "for every image each label's share of the training images",
    "regression": "always the mean of the training images",
}


def scores_section(collection: Collection, names: TargetNames, gallery: Gallery) -> str:
    """For each measure a table of targets and scenarios, and a figure for each goal and model.

    Targets of several tasks are left out; if there are no others, the section is empty.
    """
    by_measure: dict[tuple[Measure, str], dict[Target, Mapping[str, Choice]]] = {}
    for target in collection.targets:
        if not collection.is_joint(target):
            alike = by_measure.setdefault((target.goal.measure, target.goal.kind), {})
            alike[target] = collection.best_by_scenario(target)
    parts = [
        _measure_section(measure, kind, rows, collection, names, gallery)
        for (measure, kind), rows in by_measure.items()
    ]
    return "\n".join(parts)


def _measure_section(
    measure: Measure,
    kind: str,
    rows: _Rows,
    collection: Collection,
    names: TargetNames,
    gallery: Gallery,
) -> str:
    scenarios = [s for s in SCENARIOS if any(s in row for row in rows.values())]
    has_leads = any(len(row) > 1 for row in rows.values())
    lead = "lead, points" if measure.is_share else "lead"
    entries = table(
        ["target", *map(scenario_name, scenarios), "naive", *[lead] * has_leads],
        [
            [
                names.html(target),
                *(_entry(row.get(s), row, collection) for s in scenarios),
                measure.bare(_naive_score(measure, row)),
                *([_lead(row)] if has_leads else []),
            ]
            for target, row in rows.items()
        ],
    )
    unit = "In per cent; mean" if measure.is_share else f"{_unit(measure)}Mean"
    return f"""<section>
<h2>Test {measure.words} by scenario and size</h2>
<p>{unit} &#177; half of the 95&#160;% interval over seeds. Where a scenario was run in
several settings, the one with the {measure.best} mean <em>validation</em> {measure.words} is shown,
with the number of settings it was chosen from; no choice uses test images. Naive: {_NAIVE[kind]}.
</p>
{entries}
<p class="legend"><span class="best">&#9733; {measure.best}</span> mean of the row; its lead over
the next {_WHEN_CLEAR if measure == ACCURACY else _WHEN_CLEAR_OVER_SEEDS}</p>
<div class="panels">
{_figures(measure, rows, names, gallery)}
</div>
</section>"""


_WHEN_CLEAR = """is <b>clear</b> if two 95&#160;% intervals of the difference, paired by seed,
exclude 0: the one over seeds, and the one over seeds and test images together (&#177; with images).
Where a run kept no predictions there is only the first: clear over seeds only."""

_WHEN_CLEAR_OVER_SEEDS = """is <b>clear over seeds only</b> if the 95&#160;% interval of the
difference, paired by seed, excludes 0; with other test images it might not."""


def _unit(measure: Measure) -> str:
    """What a number without per cent is in, as a sentence."""
    if measure.name == "r2":
        return "1 is perfect; 0 is no better than always answering the mean of the test images. "
    if measure.name == "loss":
        return "Without class weights, label smoothing and weight decay. "
    return "In the units of the numbers, the mean over them if there are several. "


def _entry(choice: Choice | None, row: Mapping[str, Choice], collection: Collection) -> str:
    """Test score of a scenario, with notes on its seeds and on how it was chosen."""
    if choice is None:
        return "&#8211;"
    setting = choice.setting
    measure = setting.measure
    text = measure.interval(setting.test)
    most_seeds = max(len(setting.runs) for setting in collection.settings)
    notes = [] if len(setting.runs) == most_seeds else [plural(len(setting.runs), "seed")]
    if setting is _ranked(row)[0].setting and len(row) > 1:
        text = f"<strong>{text}</strong>"
        notes.insert(0, f'<span class="best">&#9733; {measure.best}</span>')
    over_images = setting.first.summary.get("test_intervals", {}).get(measure.name)
    if len(setting.runs) == 1 and over_images is not None:
        notes.append(f"{measure.between(*over_images)} over test images")
    if choice.among > 1:
        notes.append(f"best of {choice.among} on validation")
        rivals = collection.settings_of(setting.target, setting.scenario)
        notes.append(differing_fields(setting, rivals))
    return f"{text}<small>{'<br>'.join(note for note in notes if note)}</small>"


def _ranked(row: Mapping[str, Choice]) -> list[Choice]:
    """Sorted by mean test score, best first."""

    def key(choice: Choice) -> float:
        setting = choice.setting
        return -comparable(rank(setting.measure.name, setting.test.mean))

    return sorted(row.values(), key=key)


def _lead(row: Mapping[str, Choice]) -> str:
    """The lead of the best scenario over the next one, in HTML."""
    if len(row) < 2:
        return "&#8211;"
    first, second = (choice.setting for choice in _ranked(row)[:2])
    if not first.runs.keys() & second.runs.keys():
        return '<span class="prose">no seed in common</span>'
    measure = first.measure
    a, b = (
        {seed: rank(measure.name, value) for seed, value in zip(s.runs, s.tests, strict=True)}
        for s in (first, second)
    )
    # Accuracy is a mean over images; the other scores are not.
    right = right_images(first.answers, second.answers) if measure == ACCURACY else None
    margin = compare(a, b, *(right or ()))
    return f'<span class="prose">{lead_over(margin, second.scenario, measure)}</span>'


def _naive_score(measure: Measure, row: Mapping[str, Choice]) -> float | None:
    """The mean over the settings of a row; None if their results do not have it."""
    field, settings = f"naive_{measure.name}", [choice.setting for choice in row.values()]
    if any(field not in run.summary for s in settings for run in s.runs.values()):
        return None
    return float(np.mean([np.mean(setting.values(field)) for setting in settings]))


# ------------------------------------------------------------------------------------- figures


def _figures(measure: Measure, rows: _Rows, names: TargetNames, gallery: Gallery) -> str:
    """A figure for each goal and model: against size if there are several, else by scenario."""
    by_name: dict[str, list[Target]] = {}
    for target in rows:
        by_name.setdefault(names.without_size(target), []).append(target)
    figures = []
    for name, targets in by_name.items():
        alt = f"Test {measure.words} on {plain_text(name)}"
        if len(targets) > 1:
            alt = f"{alt} against size"
            paint = functools.partial(_paint_sizes, measure=measure, targets=targets, rows=rows)
            caption = legend({scenario for target in targets for scenario in rows[target]})
        else:
            alt = f"{alt} by scenario"
            paint = functools.partial(_paint_scenarios, measure=measure, row=rows[targets[0]])
            caption = ""
        place = place_for(measure)
        drawing = gallery.draw(f"{measure.name}_{len(gallery.pngs)}", alt, paint, place=place)
        figures.append(
            f"<figure>\n<h3>{html_text(name)}</h3>\n{drawing}\n"
            f"<figcaption>{caption}</figcaption>\n</figure>"
        )
    return "\n".join(figures)


def _paint_sizes(axes: Any, measure: Measure, targets: Sequence[Target], rows: _Rows) -> None:
    """Test score against the number of training images, a line for each scenario."""
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
    score_axis(axes, measure, f"test {measure.words}", _ends(tests))


def _paint_scenarios(axes: Any, measure: Measure, row: Mapping[str, Choice]) -> None:
    """Test score of each scenario, with a dot for each seed."""
    for number, (scenario, choice) in enumerate(row.items()):
        values = choice.setting.tests
        xs = [number + 0.18] * len(values)
        axes.plot(xs, values, ".", color=COLOURS[scenario], alpha=0.6, markersize=5)
        _draw_intervals(axes, [number], [choice.setting.test], scenario, "none")
    labels = [scenario.replace("_", "\n") for scenario in row]
    axes.set_xticks(range(len(labels)), labels, fontsize=10)
    axes.set_xlim(-0.6, len(labels) - 0.4)
    tests = [choice.setting.test for choice in row.values()]
    score_axis(axes, measure, f"test {measure.words}", _ends(tests), note=" (dots: seeds)")


def _ends(tests: Iterable[Interval]) -> list[float]:
    """Both ends of each interval."""
    return [float(end) for test in tests for end in test.mean + _distances_of_ends(test) * (-1, 1)]


def _distances_of_ends(test: Interval) -> np.ndarray:
    """How far the interval reaches below and above the mean; 0 of one seed."""
    return np.nan_to_num(np.array([test.mean - test.low, test.high - test.mean]))


def _draw_intervals(
    axes: Any, xs: Sequence[float], tests: Sequence[Interval], scenario: str, linestyle: str
) -> None:
    axes.errorbar(
        xs,
        [test.mean for test in tests],
        yerr=np.transpose([_distances_of_ends(test) for test in tests]),
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
    """Test score against the number of frozen groups; empty if no target has several."""
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
<h2>{_k_measure(collection).capitalize()} against k</h2>
<p>The first k groups keep their pretrained weights, the rest is retrained. Bars: 95&#160;%
intervals over seeds; level lines: the means of the other scenarios.</p>
<div class="panels">
{panels}
</div>
</section>"""


def _k_measure(collection: Collection) -> str:
    """`accuracy` if it decides all runs, else `score`."""
    measures = {goal.measure for goal in collection.goals}
    return "accuracy" if measures == {ACCURACY} else "score"


def _k_figure(
    target: Target,
    best: Mapping[int, Choice],
    others: Mapping[str, Choice],
    number: int,
    names: TargetNames,
    gallery: Gallery,
) -> str:
    name = f"{names.without_size(target)}, {target.train_size:,} images"
    measure = target.goal.measure
    drawing = gallery.draw(
        f"k_{number}",
        f"Test {measure.words} against k on {plain_text(name)}",
        functools.partial(_paint_k, measure=measure, best=best, others=others),
        place=place_for(measure),
    )
    tried = sum(choice.among for choice in best.values())
    among = f" Each k at the best of its settings on validation, {tried} in all."
    return (
        f"<figure>\n<h3>{names.html(target)}</h3>\n{drawing}\n<figcaption>"
        f"{legend(['freeze_first', *others])}<p>{among if tried > len(best) else ''}</p>"
        "</figcaption>\n</figure>"
    )


def _paint_k(
    axes: Any, measure: Measure, best: Mapping[int, Choice], others: Mapping[str, Choice]
) -> None:
    """Test score of the best setting of each k, and the other scenarios as level lines."""
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
    score_axis(axes, measure, f"test {measure.words}", _ends([*tests, *levels]))
