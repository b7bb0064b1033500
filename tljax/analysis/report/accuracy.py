"""Test accuracy by scenario and size, and against k."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tljax.analysis.report.benefits import paired
from tljax.analysis.report.curves import round_numbers
from tljax.analysis.report.figures import (
    COLOURS,
    DASHES,
    MARKS,
    Gallery,
    legend,
    percent_axis,
)
from tljax.analysis.report.labels import Places, differing, plain, shown
from tljax.analysis.report.page import table
from tljax.analysis.report.runs import Chosen, Collection, Place, Setting, best
from tljax.analysis.report.words import count, percent_interval, verdict, words
from tljax.analysis.statistics import Interval
from tljax.transfer.scenarios import SCENARIOS

_Rows = Mapping[Place, Mapping[str, Chosen]]


def accuracy_section(runs: Collection, names: Places, gallery: Gallery) -> str:
    """The table of all places and scenarios, and a figure for each target."""
    rows = {place: runs.at(place) for place in runs.places if not runs.is_joint(place)}
    if not rows:
        return ""
    scenarios = [s for s in SCENARIOS if any(s in row for row in rows.values())]
    lead = any(len(row) > 1 for row in rows.values())
    entries = table(
        ["target", *map(words, scenarios), "naive", *(["lead, points"] if lead else [])],
        [
            [
                names.html(place),
                *(_entry(row.get(s), row, runs) for s in scenarios),
                f"{100 * _naive(row):.1f}",
                *([_lead(row)] if lead else []),
            ]
            for place, row in rows.items()
        ],
    )
    return f"""<section>
<h2>Test accuracy by scenario and size</h2>
<p>In per cent; mean &#177; half of the 95&#160;% interval over seeds. Where a scenario was run in
several settings, the one with the highest mean <em>validation</em> accuracy stands here, and it is
said among how many; test images decided nothing. Naive: always the commonest class.</p>
{entries}
<p class="legend"><span class="best">&#9733; highest</span> mean of the row; its lead over the next
is <b>clear</b> if the 95&#160;% interval of the difference, paired by seed, excludes 0.</p>
<div class="panels">
{_figures(rows, names, gallery)}
</div>
</section>"""


def _entry(chosen: Chosen | None, row: Mapping[str, Chosen], runs: Collection) -> str:
    if chosen is None:
        return "&#8211;"
    text = percent_interval(chosen.setting.test)
    seeds = len(chosen.setting.runs)
    usual = max(len(setting.runs) for setting in runs.settings)
    notes = [] if seeds == usual else [count(seeds, "seed")]
    if chosen.setting is _ranked(row)[0].setting and len(row) > 1:
        text = f"<strong>{text}</strong>"
        notes.insert(0, '<span class="best">&#9733; highest</span>')
    if chosen.among > 1:
        notes.append(f"best of {chosen.among} on validation")
        place, scenario = chosen.setting.place, chosen.setting.scenario
        rivals = [s for s in runs.settings if s.place == place and s.scenario == scenario]
        notes.append(differing(chosen.setting, rivals))
    return f"{text}<small>{'<br>'.join(note for note in notes if note)}</small>"


def _ranked(row: Mapping[str, Chosen]) -> list[Chosen]:
    """By mean test accuracy, highest first; rounded, lest the last bit of a sum decide."""
    return sorted(row.values(), key=lambda chosen: -round(chosen.setting.test.mean, 12))


def _lead(row: Mapping[str, Chosen]) -> str:
    if len(row) < 2:
        return "&#8211;"
    first, second = (chosen.setting for chosen in _ranked(row)[:2])
    shared = first.runs.keys() & second.runs.keys()
    if not shared:
        return '<span class="prose">no seed in common</span>'
    margin = paired(_tests(first), _tests(second))
    return (
        f'<span class="prose">{percent_interval(margin)} over {words(second.scenario)}:'
        f" <b>{verdict(margin)}</b></span>"
    )


def _tests(setting: Setting) -> dict[int, float]:
    return {seed: run.summary["test_accuracy"] for seed, run in setting.runs.items()}


def _naive(row: Mapping[str, Chosen]) -> float:
    return float(np.mean([np.mean(c.setting.values("naive_accuracy")) for c in row.values()]))


def _figures(rows: _Rows, names: Places, gallery: Gallery) -> str:
    """One for each target: against size where there are several, else by scenario."""
    targets: dict[str, list[Place]] = {}
    for place in rows:
        targets.setdefault(names.target(place), []).append(place)
    figures = []
    for number, (target, places) in enumerate(targets.items()):
        scenarios = {scenario for place in places for scenario in rows[place]}
        by_size = len(places) > 1

        def paint(axes: Any, places: Sequence[Place] = places, by_size: bool = by_size) -> None:
            (_paint_sizes if by_size else _paint_scenarios)(axes, places, rows)

        alt = f"Test accuracy on {plain(target)} " + ("against size" if by_size else "by scenario")
        drawing = gallery.draw(f"accuracy_{number}", alt, paint)
        caption = legend(scenarios) if by_size else ""
        figures.append(
            f"<figure>\n<h3>{shown(target)}</h3>\n{drawing}\n"
            f"<figcaption>{caption}</figcaption>\n</figure>"
        )
    return "\n".join(figures)


def _paint_sizes(axes: Any, places: Sequence[Place], rows: _Rows) -> None:
    for number, scenario in enumerate(SCENARIOS):
        line = [
            (p.train_size, rows[p][scenario].setting.test) for p in places if scenario in rows[p]
        ]
        if line:
            shift = 1 + 0.02 * (number - 1.5)  # so that intervals do not lie on one another
            xs = [size * shift for size, _ in line]
            _intervals(axes, xs, [test for _, test in line], scenario, DASHES[scenario])
    sizes = [place.train_size for place in places]
    axes.set_xscale("log")
    axes.set_xlim(min(sizes) * 0.8, max(sizes) * 1.25)
    ticks = sizes if len(sizes) <= 5 else round_numbers(min(sizes), max(sizes))
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("training images")
    tests = [chosen.setting.test for place in places for chosen in rows[place].values()]
    percent_axis(axes, "test accuracy, %", _floor(tests))


def _paint_scenarios(axes: Any, places: Sequence[Place], rows: _Rows) -> None:
    (place,) = places
    for number, (scenario, chosen) in enumerate(rows[place].items()):
        values = chosen.setting.values("test_accuracy")
        xs = [number + 0.18] * len(values)
        axes.plot(xs, values, ".", color=COLOURS[scenario], alpha=0.6, markersize=5)
        _intervals(axes, [number], [chosen.setting.test], scenario, "")
    labels = [scenario.replace("_", "\n") for scenario in rows[place]]
    axes.set_xticks(range(len(labels)), labels, fontsize=10)
    axes.set_xlim(-0.6, len(labels) - 0.4)
    lowest = [chosen.setting.test for chosen in rows[place].values()]
    percent_axis(axes, "test accuracy, % (dots: seeds)", _floor(lowest))


def _floor(tests: Iterable[Interval]) -> float:
    """Where an axis of accuracies begins: a fifth that lies below all intervals."""
    lowest = min(test.mean - np.nan_to_num(test.half_width) for test in tests)
    return max(0.0, math.floor(5 * (lowest - 0.02)) / 5)


def _intervals(
    axes: Any,
    xs: Sequence[float],
    tests: Sequence[Interval],
    scenario: str,
    line: str,
) -> None:
    axes.errorbar(
        xs,
        [test.mean for test in tests],
        yerr=[np.nan_to_num(test.half_width) for test in tests],
        color=COLOURS[scenario],
        marker=MARKS[scenario],
        linestyle=line or "none",
        linewidth=1.8,
        elinewidth=1.1,
        capsize=3,
        markersize=6,
    )


def k_section(runs: Collection, names: Places, gallery: Gallery) -> str:
    """Accuracy against the number of frozen groups, where several were tried."""
    figures: list[str] = []
    for place in runs.places:
        by_k: dict[int, list[Setting]] = {}
        for setting in runs.settings:
            if setting.place == place and setting.scenario == "freeze_first":
                by_k.setdefault(setting.first.config["k"], []).append(setting)
        if len(by_k) < 2:
            continue
        chosen = {k: best(by_k[k]) for k in sorted(by_k)}
        others = {s: c for s, c in runs.at(place).items() if s != "freeze_first"}

        def paint(
            axes: Any,
            chosen: Mapping[int, Chosen] = chosen,
            others: Mapping[str, Chosen] = others,
        ) -> None:
            for scenario, other in others.items():
                axes.axhline(
                    other.setting.test.mean,
                    color=COLOURS[scenario],
                    linestyle=DASHES[scenario],
                    linewidth=1.4,
                )
            tests = [c.setting.test for c in chosen.values()]
            _intervals(axes, list(chosen), tests, "freeze_first", "-")
            axes.set_xticks(list(chosen))
            axes.set_xlabel("k: groups frozen, from the input")
            level = [other.setting.test for other in others.values()]
            percent_axis(axes, "test accuracy, %", _floor([*tests, *level]))

        name = f"{names.target(place)}, {place.train_size:,} images"
        drawing = gallery.draw(
            f"k_{len(figures)}", f"Test accuracy against k on {plain(name)}", paint
        )
        tried = sum(c.among for c in chosen.values())
        among = f" Each k at the best of its settings on validation, {tried} in all."
        figures.append(
            f"<figure>\n<h3>{names.html(place)}</h3>\n{drawing}\n<figcaption>"
            f"{legend(['freeze_first', *others])}<p>{among if tried > len(chosen) else ''}</p>"
            "</figcaption>\n</figure>"
        )
    if not figures:
        return ""
    listing = "\n".join(figures)
    return f"""<section>
<h2>Accuracy against k</h2>
<p>The first k groups keep their pretrained weights, the rest is retrained. Bars: 95&#160;%
intervals over seeds; level lines: the means of the other scenarios.</p>
<div class="panels">
{listing}
</div>
</section>"""
