"""Several labels an image: precision against recall, a table by label, the surest wrong labels."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tljax.analysis import statistics
from tljax.analysis.report.figures import COLOURS, Gallery, percent_axis
from tljax.analysis.report.finished_runs import FinishedRun, Setting
from tljax.analysis.report.formatting import join_names, percent, percent_interval, plural
from tljax.analysis.report.labels import TargetNames, describe_choice, html_text, plain_text
from tljax.analysis.report.mistakes import (
    image_name,
    list_images,
    load_test_images,
    thumbnail,
)
from tljax.analysis.report.outputs.output_answers import OutputAnswers
from tljax.analysis.report.page import table
from tljax.data import Source
from tljax.runs.answers import Outputs
from tljax.runs.scores import BY_NO_IMAGES
from tljax.training.problems.multi_label import average_precision, precision_and_recall

_CURVES = 10  # more cannot be told apart
_LISTED = 20  # rows of the table
_NAMED = 6  # labels without a test image
_MISTAKES = 12
_RECALLS = np.linspace(0, 1, 101)
# Colour and dashes of each curve; figures and page share the names of the colours.
_LINES = [(colour, dashes) for dashes in ("solid", "dashed") for colour in COLOURS]


@dataclass(frozen=True)
class _Label:
    """How well one label was predicted, a value for each seed with test images of it.

    Attributes:
      name: of the label.
      images: test images that have it, the mean over seeds.
      share: of the test images, the same.
      average_precision, f1, thresholds: of each seed.
      precision: float (recalls,), the mean over seeds at each of `_RECALLS`.
      point: recall and precision at the threshold, means over seeds; None: no image is given it.
    """

    name: str
    images: float
    share: float
    average_precision: list[float]
    f1: list[float]
    thresholds: list[float]
    precision: np.ndarray
    point: tuple[float, float] | None


def multi_label_part(
    answers: OutputAnswers, rivals: Sequence[Setting], names: TargetNames, gallery: Gallery
) -> str:
    """The part of one data set: precision against recall, a table by label, mistakes.

    Args:
      answers: of the setting.
      rivals: the settings that it was chosen from.
      names: of the targets.
      gallery: gets the drawings.
    """
    setting = answers.setting
    name = names.goal(setting.target.goal)
    labels = [_label(answers, column) for column in range(len(answers.task.class_names))]
    present = [label for label in labels if label is not None]
    pairs = zip(answers.task.class_names, labels, strict=True)
    absent = [html_text(name) for name, label in pairs if label is None]
    left_out = ""
    if absent:
        more = [f"{len(absent) - _NAMED:,} more"] if len(absent) > _NAMED else []
        whose = join_names([*absent[:_NAMED], *more])
        left_out = f"<p>{plural(len(absent), 'label')} without a test image: {whose}.</p>"
    by_worst = sorted(present, key=lambda label: float(np.mean(label.average_precision)))
    return f"""<h3>{html_text(name)}</h3>
<p>{describe_choice(answers.choice, rivals)}; {plural(len(setting.runs), "seed")}.</p>
{left_out}{_curves_figure(present, by_worst, plain_text(name), gallery)}
{_label_table(present, by_worst, str(setting.first.summary["thresholds_chosen_on"]))}
{_mistakes_part(answers)}"""


def _label(answers: OutputAnswers, column: int) -> _Label | None:
    """How well a label was predicted; None if no test image has it."""
    found = []
    for seed, given in answers.by_seed.items():
        has, p = given.labels[:, column] > 0, given.outputs[:, column]
        if has.any():
            found.append((has, p, _thresholds(answers.setting.runs[seed])[column]))
    if not found:
        return None
    said = [p >= threshold for _, p, threshold in found]
    right = [(has & yes).sum() for (has, _, _), yes in zip(found, said, strict=True)]
    totals = [(has.sum(), yes.sum()) for (has, _, _), yes in zip(found, said, strict=True)]
    points = [
        (hits / images, hits / answered)
        for hits, (images, answered) in zip(right, totals, strict=True)
        if answered
    ]
    return _Label(
        name=answers.task.class_names[column],
        images=float(np.mean([has.sum() for has, _, _ in found])),
        share=float(np.mean([has.mean() for has, _, _ in found])),
        average_precision=[average_precision(has, p) for has, p, _ in found],
        f1=[float(2 * hits / sum(total)) for hits, total in zip(right, totals, strict=True)],
        thresholds=[float(threshold) for _, _, threshold in found],
        precision=np.mean([_precision_at_recalls(has, p) for has, p, _ in found], axis=0),
        point=(float(np.mean([x for x, _ in points])), float(np.mean([y for _, y in points])))
        if points
        else None,
    )


def _thresholds(run: FinishedRun) -> np.ndarray:
    """Of each label: an image whose probability is at least that is given it; float32 (n,)."""
    return np.asarray(run.summary["thresholds"], np.float32)


def _precision_at_recalls(has: np.ndarray, p: np.ndarray) -> np.ndarray:
    """The precision where each of `_RECALLS` is first reached."""
    precision, recall = precision_and_recall(has, p)
    return precision[np.searchsorted(recall, _RECALLS - 1e-9)]


# ------------------------------------------------------------------------------ figure and table


def _curves_figure(
    present: Sequence[_Label], by_worst: Sequence[_Label], alt: str, gallery: Gallery
) -> str:
    """Precision against recall, a curve for each label; of many labels the worst ones."""
    drawn = list(present if len(present) <= _CURVES else by_worst[:_CURVES])
    worst = "" if len(drawn) == len(present) else f" The {len(drawn)} worst of {len(present):,}."
    drawing = gallery.draw(
        f"precision_recall_{len(gallery.pngs)}",
        f"Precision against recall on {alt}",
        functools.partial(_paint_curves, labels=drawn),
        size=(5, 4.4),
    )
    items = "".join(
        f'<span><i style="border-top: 2px {dashes} var(--{colour})"></i>{html_text(label.name)}'
        f" {percent(float(np.mean(label.average_precision)))}</span>"
        for label, (colour, dashes) in zip(drawn, _LINES, strict=False)
    )
    return f"""<div class="panels">
<figure>
<h4>Precision against recall</h4>
{drawing}
<figcaption><p class="legend">{items}</p>
<p>As the least probability that counts falls, more images are given the label: recall is the share
of its images that are found, precision the share of those given it that have it; means over seeds.
Dot: at the threshold. Behind each name its average precision.{worst}</p></figcaption>
</figure>
</div>"""


def _paint_curves(axes: Any, labels: Sequence[_Label]) -> None:
    for label, (colour, dashes) in zip(labels, _LINES, strict=False):
        axes.plot(_RECALLS, label.precision, color=COLOURS[colour], linestyle=dashes, linewidth=1.8)
        if label.point is not None:
            axes.plot(*label.point, "o", color=COLOURS[colour], markersize=6, clip_on=False)
    ticks = np.linspace(0, 1, 6)
    axes.set_xlim(0, 1.02)
    axes.set_xticks(ticks, [f"{100 * tick:.0f}" for tick in ticks])
    axes.set_xlabel("recall, %")
    percent_axis(axes, "precision, %")


def _label_table(present: Sequence[_Label], by_worst: Sequence[_Label], chosen_on: str) -> str:
    """Average precision and F1 of each label; of many labels the worst ones."""
    listed = present if len(present) <= _LISTED else by_worst[:_LISTED]
    rows = []
    for label in listed:
        mean = float(np.mean(label.average_precision))
        bar = f'<span class="bar" style="--share:{100 * mean:.1f}%"></span>'
        recall, precision = label.point or (0.0, None)
        rows.append(
            [
                html_text(label.name),
                f"{label.images:,.0f}",
                percent_interval(statistics.mean_interval(label.average_precision)) + bar,
                f"{100 * label.share:.1f}",
                percent_interval(statistics.mean_interval(label.f1)),
                "&#8211;" if precision is None else f"{100 * precision:.1f}",
                f"{100 * recall:.1f}",
                f"{np.mean(label.thresholds):.3f}",
            ]
        )
    head = ["label", "images", "average precision, %", "naive, %", "F1, %", "precision, %"]
    entries = table([*head, "recall, %", "threshold"], rows)
    worst = f", the {len(listed)} worst of {len(present):,}" if len(listed) < len(present) else ""
    where = {BY_NO_IMAGES: "0.5, as no images could choose it"}
    chosen = where.get(chosen_on, f"the one with the highest F1 on {html_text(chosen_on)}")
    return f"""<h4>By label{worst}</h4>
<p>Naive: the label's share of the test images, the precision of giving it to all. Threshold:
{chosen}.</p>
{entries}"""


# ------------------------------------------------------------------------------------- mistakes


@dataclass(frozen=True)
class _Mistake:
    """A wrong answer about one label of an image.

    Attributes:
      image: its number.
      column: of the label.
      has: the labels that the image has, bool (labels,).
      probability: of the label.
      seeds: how many were wrong about it.
    """

    image: int
    column: int
    has: np.ndarray
    probability: float
    seeds: int

    @property
    def sure(self) -> float:
        """The probability of the wrong answer."""
        return 1 - self.probability if self.has[self.column] else self.probability


def _mistakes_part(answers: OutputAnswers) -> str:
    """The images with the surest wrong answers, each once, in HTML."""
    mistakes = _find_mistakes(answers)
    if not mistakes:
        return "<p>No label of a test image was mistaken.</p>"
    source, reason = load_test_images(answers.setting, answers.seen)
    items = [_mistake_item(mistake, answers, source) for mistake in mistakes]
    return list_images("Surest wrong labels", items, "" if source is not None else reason)


def _find_mistakes(answers: OutputAnswers) -> list[_Mistake]:
    """The surest wrong answer about each image, of the images with the surest ones."""
    seeds: dict[tuple[int, int], int] = {}
    surest: dict[int, _Mistake] = {}
    for seed, given in answers.by_seed.items():
        for row, column in _wrong_answers(given, _thresholds(answers.setting.runs[seed])):
            image, has = int(given.images[row]), given.labels[row] > 0
            seeds[image, column] = seeds.get((image, column), 0) + 1
            mistake = _Mistake(image, column, has, float(given.outputs[row, column]), 0)
            before = surest.get(image)
            if before is None or mistake.sure > before.sure:
                surest[image] = mistake
    ranked = sorted(surest.values(), key=lambda m: (-m.sure, m.image))[:_MISTAKES]
    return [
        _Mistake(m.image, m.column, m.has, m.probability, seeds[m.image, m.column]) for m in ranked
    ]


def _wrong_answers(given: Outputs, thresholds: np.ndarray) -> list[tuple[int, int]]:
    """(row, column) of each wrong answer of a seed."""
    rows, columns = np.nonzero((given.outputs >= thresholds) != (given.labels > 0))
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def _mistake_item(mistake: _Mistake, answers: OutputAnswers, source: Source | None) -> str:
    names = answers.task.class_names
    name, probability = names[mistake.column], percent(mistake.probability)
    is_missed = bool(mistake.has[mistake.column])
    has = [names[column] for column in np.flatnonzero(mistake.has)]
    what = "missed" if is_missed else "given wrongly"
    picture = thumbnail(source, mistake.image, f"{plain_text(name)} {what}")
    total = len(answers.by_seed)
    seeds = f", in {mistake.seeds} of {total} seeds" if total > 1 else ""
    true = f"it has {html_text(', '.join(has))}" if has else "it has none"
    return (
        f"<li>{picture}<span><b>{html_text(name)}</b> {what}"
        f"<small>its probability {probability}{seeds}; {true}"
        f"<br>{image_name(source, mistake.image)}</small></span></li>"
    )
