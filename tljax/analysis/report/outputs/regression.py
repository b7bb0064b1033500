"""Numbers: predicted against true, the spread of the errors, a table, the largest errors."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tljax.analysis.report.figures import COLOURS, INK, Gallery, percent_axis, short_number
from tljax.analysis.report.finished_runs import Setting
from tljax.analysis.report.formatting import plural
from tljax.analysis.report.labels import TargetNames, describe_choice, html_text, plain_text
from tljax.analysis.report.measures import Measure, plain_number
from tljax.analysis.report.mistakes import (
    image_name,
    list_images,
    load_test_images,
    thumbnail,
)
from tljax.analysis.report.outputs.output_answers import OutputAnswers
from tljax.analysis.report.page import table
from tljax.analysis.statistics import mean_interval
from tljax.data import Source
from tljax.data.sources import evenly_spaced
from tljax.runs.answers import Outputs
from tljax.training.problems.regression import errors

_DRAWN = 4  # numbers with figures
_LISTED = 20  # rows of the table
_DOTS = 600  # of a figure, so that the page stays small
_MISTAKES = 12
_RESAMPLES = 200
_MEASURES = {"r2": "R&#178;", "rmse": "RMSE", "mae": "MAE"}


def regression_part(
    answers: OutputAnswers, rivals: Sequence[Setting], names: TargetNames, gallery: Gallery
) -> str:
    """The part of one data set: figures of each number, a table by number, the largest errors.

    Args:
      answers: of the setting.
      rivals: the settings that it was chosen from.
      names: of the targets.
      gallery: gets the drawings.
    """
    setting = answers.setting
    name = names.goal(setting.target.goal)
    by_seed = {seed: errors(given.labels, given.outputs) for seed, given in answers.by_seed.items()}
    r2 = np.mean([found["r2"] for found in by_seed.values()], axis=0)
    by_worst = np.argsort(r2, kind="stable").tolist()
    count = len(r2)
    drawn = range(count) if count <= _DRAWN else by_worst[:_DRAWN]
    figures = "\n".join(_figures(answers, column, plain_text(name), gallery) for column in drawn)
    worst = f"<p>The {_DRAWN} worst of {count:,} numbers.</p>" if count > _DRAWN else ""
    listed = list(range(count)) if count <= _LISTED else by_worst[:_LISTED]
    return f"""<h3>{html_text(name)}</h3>
<p>{describe_choice(answers.choice, rivals)}; {plural(len(setting.runs), "seed")}.</p>
{worst}<div class="panels">
{figures}
</div>
{_number_table(answers, by_seed, listed)}
{_errors_part(answers)}"""


# -------------------------------------------------------------------------------------- figures


def _figures(answers: OutputAnswers, column: int, alt: str, gallery: Gallery) -> str:
    """Predicted against true, and the spread of the errors, of one number."""
    name = answers.task.class_names[column]
    true = np.concatenate([given.labels[:, column] for given in answers.by_seed.values()])
    predicted = np.concatenate([given.outputs[:, column] for given in answers.by_seed.values()])
    true, predicted = true.astype(float), predicted.astype(float)
    order = np.argsort(true, kind="stable")
    shown = order[evenly_spaced(len(order), _DOTS)]
    few = f" {_DOTS:,} of {len(order):,} answers are drawn." if len(order) > _DOTS else ""
    dots = gallery.draw(
        f"predicted_{len(gallery.pngs)}",
        f"Predicted against true {plain_text(name)} on {alt}",
        functools.partial(_paint_dots, true=true[shown], predicted=predicted[shown]),
        size=(5, 5),
        place=(0.16, 0.12, 0.78, 0.78),
    )
    wrong = predicted - true
    bars = gallery.draw(
        f"errors_{len(gallery.pngs)}",
        f"Errors of {plain_text(name)} on {alt}",
        functools.partial(_paint_errors, wrong=wrong),
        size=(5, 5),
        place=(0.1, 0.12, 0.84, 0.78),
    )
    spread = float(wrong.std())
    low, high = np.percentile(wrong, [5, 95])
    ends = [plain_number(float(x), max(abs(low), abs(high))) for x in (wrong.mean(), low, high)]
    return f"""<figure>
<h4>{html_text(name)}: predicted against true</h4>
{dots}
<figcaption><p>A dot for each test image and seed; on the diagonal a prediction is
right.{few}</p></figcaption>
</figure>
<figure>
<h4>{html_text(name)}: errors, predicted &#8722; true</h4>
{bars}
<figcaption><p>Over all seeds: mean {ends[0]}, standard deviation {plain_number(spread, spread)};
nine tenths lie between {ends[1]} and {ends[2]}.</p></figcaption>
</figure>"""


def _paint_dots(axes: Any, true: np.ndarray, predicted: np.ndarray) -> None:
    ends = float(min(true.min(), predicted.min())), float(max(true.max(), predicted.max()))
    margin = 0.03 * (ends[1] - ends[0]) or 1.0
    limits = ends[0] - margin, ends[1] + margin
    axes.plot(limits, limits, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.scatter(true, predicted, s=14, color=COLOURS["fine_tune"], alpha=0.45, linewidth=0)
    axes.set_xlim(limits)
    axes.set_ylim(limits)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: short_number(value))
    axes.locator_params(nbins=6)
    axes.grid(color=INK, alpha=0.12, linewidth=0.8)
    axes.tick_params(length=3)
    axes.set_xlabel("true")
    axes.set_title("predicted", loc="left", x=-0.1, fontsize=11)


def _paint_errors(axes: Any, wrong: np.ndarray) -> None:
    """A histogram of the errors, in shares of the answers."""
    bins = int(np.clip(math.sqrt(len(wrong)), 5, 30))
    counts, edges = np.histogram(wrong, bins)
    shares = counts / counts.sum()
    axes.bar(
        edges[:-1], shares, np.diff(edges), align="edge", color=COLOURS["fine_tune"], alpha=0.6
    )
    axes.axvline(0, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.xaxis.set_major_formatter(lambda value, _: short_number(value))
    axes.locator_params(axis="x", nbins=6)
    axes.set_xlabel("predicted \N{MINUS SIGN} true")
    percent_axis(axes, "share of the answers, %")
    high = 1.08 * float(shares.max())
    axes.set_ylim(0, high)
    ticks = [tick for tick in (0.05 * n for n in range(21)) if tick <= high]
    ticks = ticks[:: math.ceil(len(ticks) / 6)]
    axes.set_yticks(ticks, [f"{100 * tick:.0f}" for tick in ticks])


# --------------------------------------------------------------------------------------- table


def _number_table(
    answers: OutputAnswers, by_seed: Mapping[int, Mapping[str, np.ndarray]], listed: Sequence[int]
) -> str:
    """R2, RMSE and MAE of each number with intervals, and those of the naive baseline."""
    some = next(iter(answers.by_seed.values()))
    over_images = _intervals(some) if len(by_seed) == 1 else None
    naive = _naive_errors(answers)
    rows = []
    for column in listed:
        row = [html_text(answers.task.class_names[column])]
        for metric in _MEASURES:
            measure = Measure(metric)
            values = [float(found[metric][column]) for found in by_seed.values()]
            text = measure.interval(mean_interval(values))
            if over_images is not None:
                low, high = over_images[metric][:, column].tolist()
                text += f"&#160;({measure.between(low, high)})"
            known = None if naive is None else float(naive[metric][column])
            row.append(f"{text}<small>naive {measure.bare(known)}</small>")
        rows.append(row)
    total = len(answers.task.class_names)
    worst = f", the {len(listed)} worst of {total:,}" if len(listed) < total else ""
    how = "mean &#177; half of the 95&#160;% interval over seeds"
    if over_images is not None:
        how = "in brackets the 95&#160;% interval over test images, by bootstrap"
    return f"""<h4>By number{worst}</h4>
<p>On {plural(len(some), "test image")}, in the units of each number; {how}. Naive: always the mean
of the training images.</p>
{table(["number", *_MEASURES.values()], rows)}"""


def _intervals(given: Outputs) -> dict[str, np.ndarray]:
    """(low, high) of each metric and number over the images, float (2, numbers), by bootstrap."""
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(_RESAMPLES):
        rows = rng.integers(len(given), size=len(given))
        drawn.append(errors(given.labels[rows], given.outputs[rows]))
    return {
        metric: np.percentile([one[metric] for one in drawn], [2.5, 97.5], axis=0)
        for metric in _MEASURES
    }


def _naive_errors(answers: OutputAnswers) -> dict[str, np.ndarray] | None:
    """Metrics of always answering the mean of the training images, the mean over seeds."""
    found = []
    for seed, given in answers.by_seed.items():
        scale = answers.setting.runs[seed].tasks[0].scale
        if scale is None:
            return None
        constant = np.tile(np.asarray(scale[0], np.float32), (len(given), 1))
        found.append(errors(given.labels, constant))
    return {metric: np.mean([one[metric] for one in found], axis=0) for metric in _MEASURES}


# -------------------------------------------------------------------------------- largest errors


@dataclass(frozen=True)
class _Error:
    """The largest error in an image, over its numbers and the seeds.

    Attributes:
      image: its number.
      column: of the number.
      true, predicted: in its units.
      deviations: the error in standard deviations of the number.
    """

    image: int
    column: int
    true: float
    predicted: float
    deviations: float


def _errors_part(answers: OutputAnswers) -> str:
    """The images with the largest errors, in HTML."""
    deviation = _deviations(answers)
    found: dict[int, _Error] = {}
    for given in answers.by_seed.values():
        off = np.abs(given.outputs.astype(float) - given.labels) / deviation
        largest = off.argmax(axis=1)
        for row in np.argsort(-off.max(axis=1), kind="stable")[:_MISTAKES].tolist():
            image, column = int(given.images[row]), int(largest[row])
            values = float(given.labels[row, column]), float(given.outputs[row, column])
            error = _Error(image, column, *values, float(off[row, column]))
            if image not in found or error.deviations > found[image].deviations:
                found[image] = error
    ranked = sorted(found.values(), key=lambda e: (-e.deviations, e.image))[:_MISTAKES]
    source, reason = load_test_images(answers.setting, answers.seen)
    items = [_error_item(error, answers, deviation, source) for error in ranked]
    seeds = " of any seed" if len(answers.by_seed) > 1 else ""
    return list_images(f"Largest errors{seeds}", items, "" if source is not None else reason)


def _deviations(answers: OutputAnswers) -> np.ndarray:
    """The standard deviation of each number: over the training images if known, else the test's."""
    if (scale := answers.task.scale) is not None:
        return np.array(scale[1])
    labels = next(iter(answers.by_seed.values())).labels.astype(float)
    deviation: np.ndarray = labels.std(axis=0)
    return np.where(deviation > 0, deviation, 1.0)


def _error_item(
    error: _Error, answers: OutputAnswers, deviation: np.ndarray, source: Source | None
) -> str:
    names = answers.task.class_names
    size = float(deviation[error.column])
    true, predicted = (plain_number(x, size) for x in (error.true, error.predicted))
    name = f"{html_text(names[error.column])} " if len(names) > 1 else ""
    alt = f"predicted {short_number(error.predicted)}, true {short_number(error.true)}"
    return (
        f"<li>{thumbnail(source, error.image, alt)}<span>{name}<b>{predicted}</b>, true {true}"
        f"<small>{error.deviations:.1f} standard deviations off"
        f"<br>{image_name(source, error.image)}</small></span></li>"
    )
