"""`advice.html`: the advice, its evidence, the races, and the textbook's two by two."""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from tljax.advice.words import sentences, train_command
from tljax.analysis.report.figures import COLOURS, INK, Gallery, percent_axis
from tljax.analysis.report.formatting import percent, scenario_name
from tljax.analysis.report.page import table, write_page

_WIDE = (0.25, 0.2, 0.72, 0.75)  # of a figure, where names stand at the left


def write_advice_page(path: Path, content: Mapping[str, Any]) -> None:
    """Writes the page.

    Args:
      path: of the HTML file; its folder exists.
      content: of `advice.json`.
    """
    gallery = Gallery()
    chosen = next(r for r in content["strategies"] if r["name"] == content["choice"]["name"])
    first, *others = sentences(content)
    advice = next(sentence for sentence in others if sentence.startswith("Advice"))
    rest = [first, *(sentence for sentence in others if sentence != advice)]
    command = train_command(path.parent)
    body = f"""<h1>Advice: {escape(scenario_name(chosen["name"]))}</h1>
<p>For <code>{escape(content["settings"]["data"])}</code></p>
<p class="finding">{escape(advice)}</p>
<ul>{"".join(f"<li>{escape(sentence)}</li>" for sentence in rest)}</ul>
<div class="scroll" tabindex="0"><pre>{escape(command)}</pre></div>
{_strategies(content, gallery)}
{_depths(content["evidence"], gallery)}
{_races(content, gallery)}
{_two_by_two(content)}"""
    write_page(path, "Advice", body)


def _strategies(content: Mapping[str, Any], gallery: Gallery) -> str:
    rows = [
        [
            escape(scenario_name(row["name"])) + f"<small>{escape(row['in_words'])}</small>",
            f"{percent(row['predicted'])}<small>{100 * row['low']:.0f} to"
            f" {100 * row['high']:.0f}</small>",
            f"{100 * row['gain']:+.1f} &plusmn; {100 * row['gain_deviation']:.1f}",
            f"{row['cost']:.2f}",
        ]
        for row in content["strategies"]
    ]
    head = ["scenario", "expected test accuracy", "over the linear head, points", "cost"]

    def paint(axes: Any) -> None:
        ranked = content["strategies"][::-1]
        for height, row in enumerate(ranked):
            colour = COLOURS.get(row["name"], INK)
            axes.plot([row["low"], row["high"]], [height] * 2, color=colour, linewidth=2)
            axes.plot(row["predicted"], height, "o", color=colour)
        axes.set_yticks(
            range(len(ranked)),
            [
                scenario_name(row["name"]) + (f", k = {row['k']}" if row["k"] else "")
                for row in ranked
            ],
        )
        axes.set_ylim(-0.6, len(ranked) - 0.4)
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}")
        axes.set_xlabel("test accuracy, %")

    figure = gallery.draw(
        "strategies", "expected test accuracy of each scenario", paint, (7.0, 2.9), _WIDE
    )
    return f"""<h2>What each scenario is expected to reach</h2>
<p>From recorded runs on other data sets, the evidence below, and the races. Bars: 90 % intervals.
Cost: training and trials, in units of the full fine-tuning.</p>
<figure>{figure}</figure>
{table(head, rows)}"""


def _depths(evidence: Mapping[str, Any], gallery: Gallery) -> str:
    def paint(axes: Any) -> None:
        names = [depth["group"] for depth in evidence["pretrained"]]
        for which, style, colour in (
            ("pretrained", "o-", COLOURS["fine_tune"]),
            ("control", "D--", INK),
        ):
            label = "pretrained weights" if which == "pretrained" else "random weights"
            values = [depth["probe"] for depth in evidence[which]]
            axes.plot(range(len(names)), values, style, color=colour, label=label)
        axes.axhline(evidence["naive_accuracy"], color=INK, linewidth=0.8, linestyle=":")
        axes.set_xticks(range(len(names)), names)
        axes.set_xlabel("features after this group")
        percent_axis(axes, "accuracy of a linear head")
        axes.legend(frameon=False)

    figure = gallery.draw("depths", "accuracy of linear heads at several depths", paint, (7.0, 3.2))
    return f"""<h2>What features alone say</h2>
<p>Linear heads on the features after several groups, by cross-validation on training images. Where
random weights do as well as the source's, pretraining has little to give this target. Dotted: the
commonest class.</p>
<figure>{figure}</figure>"""


def _races(content: Mapping[str, Any], gallery: Gallery) -> str:
    races = sorted(content["races"], key=lambda race: (race["name"], race["length"]))
    if not races:
        return "<h2>Races</h2><p>None: features alone decided.</p>"
    rows = [
        [
            escape(scenario_name(race["name"])),
            f"{race['length']:.0%}",
            percent(race["accuracy"]),
            f"{100 * race['gain']:+.1f}",
            f"{race['images']:,}",
        ]
        for race in races
    ]
    head = ["scenario", "share of its steps", "accuracy", "over the linear head, points", "images"]

    def paint(axes: Any) -> None:
        for name in sorted({race["name"] for race in races}):
            own = [race for race in races if race["name"] == name]
            lengths, gains = ([100 * race[of] for race in own] for of in ("length", "gain"))
            colour = COLOURS.get(name, INK)
            axes.plot(lengths, gains, "o-", color=colour, label=scenario_name(name))
        axes.axhline(0, color=INK, linewidth=0.8, linestyle=":")
        axes.set_xlim(0, 105)
        axes.set_xlabel("share of its steps, %")
        axes.set_ylabel("over the linear head, points")
        axes.legend(frameon=False)

    figure = gallery.draw("races", "gain over the linear head in each race", paint, (7.0, 3.2))
    return f"""<h2>Races</h2>
<p>Short runs on two thirds of the training images, judged on the others, where the linear head
(dotted) was fitted on the same two thirds. Few images decide little: the beliefs above weigh them
so.</p>
<figure>{figure}</figure>
{table(head, rows)}"""


def _two_by_two(content: Mapping[str, Any]) -> str:
    book = content["textbook"]
    cells = (
        ((True, True), "feature_extraction"),
        ((True, False), "freeze_first"),
        ((False, True), "fine_tune"),
        ((False, False), "from_scratch"),
    )
    here = (book["is_small"], book["is_similar"])

    def cell(place: tuple[bool, bool], scenario: str) -> str:
        name = escape(scenario_name(scenario))
        return f"<strong>{name}</strong><small>this target</small>" if place == here else name

    texts = {place: cell(place, scenario) for place, scenario in cells}
    rows = [
        ["small target", texts[True, True], texts[True, False]],
        ["large target", texts[False, True], texts[False, False]],
    ]
    return f"""<h2>The textbook's two by two</h2>
{table(["", "similar to the source", "unlike the source"], rows)}"""
