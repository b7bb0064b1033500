"""Draws the learning curves of a target's scenarios, and marks the three benefits of transfer."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tljax.analysis import benefits
from tljax.analysis.report.cells import MeanCurve
from tljax.analysis.report.figures import COLOURS, DASHES, INK, MARKS, PAPER, REFERENCE, score_axis
from tljax.analysis.report.measures import Measure


def paint_curves(
    axes: Any, measure: Measure, curves: Mapping[str, MeanCurve], marked: str | None
) -> None:
    """Draws learning curves.

    Args:
      axes: matplotlib axes.
      measure: of the curves.
      curves: the mean curve of each scenario.
      marked: the scenario whose benefits over from scratch are marked, or None.
    """
    for scenario, curve in curves.items():
        _draw_curve(axes, scenario, curve)
    _scale_axes(axes, [x for curve in curves.values() for x, _ in curve.means])
    drawn = [y for curve in curves.values() for y in (*curve.lowest, *curve.highest)]
    score_axis(axes, measure, f"validation {measure.words}", drawn, whole=True)
    if marked is not None:
        _mark_benefits(axes, curves[marked].means, curves[REFERENCE].means)


def _draw_curve(axes: Any, scenario: str, curve: MeanCurve) -> None:
    examples, means = zip(*curve.means, strict=True)
    colour, is_reference = COLOURS[scenario], scenario == REFERENCE
    if len(examples) == 1:  # a solved head: no line would be seen
        axes.vlines(examples, curve.lowest, curve.highest, color=colour, zorder=3)
        axes.plot(examples, means, MARKS[scenario], color=colour, zorder=3)
        return
    axes.fill_between(examples, curve.lowest, curve.highest, color=colour, alpha=0.13, linewidth=0)
    axes.plot(
        examples,
        means,
        color=colour,
        linestyle=DASHES[scenario],
        linewidth=2.8 if is_reference else 1.9,
        zorder=2 if is_reference else 3,  # thick below thin: both show if they coincide
    )


def _scale_axes(axes: Any, examples: Sequence[int]) -> None:
    """Sets the axis of images: linear up to the first evaluation, then logarithmic."""
    first, last = min((x for x in examples if x > 0), default=1), max(examples)
    axes.set_xscale("symlog", linthresh=first, linscale=0.4)
    axes.set_xlim(0, max(last, first))
    ticks = [0, *round_numbers(first, last)]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("training images seen")


def round_numbers(low: int, high: int, most: int = 5) -> list[int]:
    """Picks at most `most` of 1, 2, 5, 10, 20, 50, ... from `low` to `high`, evenly."""
    powers = range(len(str(high)))
    numbers = [m * 10**p for p in powers for m in (1, 2, 5) if low <= m * 10**p <= high]
    stride = math.ceil(len(numbers) / most)
    return numbers[::-1][:: max(stride, 1)][::-1]


def _mark_benefits(axes: Any, transfer: benefits.Curve, scratch: benefits.Curve) -> None:
    """Draws arrows from scratch to transfer: 1 start, 2 images to the threshold, 3 asymptote."""
    first = benefits.first_evaluation(transfer, scratch)
    starts = [benefits.accuracy_at(curve, first) for curve in (scratch, transfer)]
    _arrow(axes, (first, starts[0]), (first, starts[1]))
    _badge(axes, "1", (first, sum(starts) / 2), (-11, 0))

    theta = benefits.threshold(scratch)
    late = benefits.examples_to_threshold(scratch, theta) if theta > 0 else None
    early = benefits.examples_to_threshold(transfer, theta)
    if late:
        axes.axhline(theta, color=INK, linewidth=0.8, linestyle=(0, (1, 3)))
        if early is not None:
            _arrow(axes, (late, theta), (early, theta))
        _badge(axes, "2", (late, theta), (9, -9))

    right_of_axes = axes.get_yaxis_transform()  # x in widths of the axes, y in scores
    ends = [benefits.asymptote(curve) for curve in (scratch, transfer)]
    _arrow(axes, (1.02, ends[0]), (1.02, ends[1]), right_of_axes)
    _badge(axes, "3", (1.02, sum(ends) / 2), (14, 0), right_of_axes)


_SHORTEST_ARROW = (
    0.015  # in shares, or R2; an arrow along the other axis is at least one image long
)


def _arrow(
    axes: Any, tail: tuple[float, float], head: tuple[float, float], coordinates: Any = "data"
) -> None:
    """Draws an arrow, unless it would be shorter than its head: a badge marks the place, too."""
    if abs(head[0] - tail[0]) + abs(head[1] - tail[1]) < _SHORTEST_ARROW:
        return
    axes.annotate(
        "",
        xy=head,
        xytext=tail,
        xycoords=coordinates,
        textcoords=coordinates,
        arrowprops={
            "arrowstyle": "-|>",
            "color": INK,
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
    """Draws a number in a disc, `offset` points away from what it marks."""
    axes.annotate(
        number,
        xy=at,
        xytext=offset,
        xycoords=coordinates,
        textcoords="offset points",
        color=PAPER,
        fontsize=9,
        ha="center",
        va="center",
        bbox={"boxstyle": "circle,pad=0.2", "facecolor": INK, "edgecolor": PAPER},
        annotation_clip=False,
        zorder=6,
    )
