"""Predictions on test images; of classes: confusion, reliability, accuracy by class, mistakes."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from tljax.analysis import statistics
from tljax.analysis.calibration import BINS, Reliability, reliability
from tljax.analysis.report.figures import COLOURS, INK, PAPER, Gallery, percent_axis
from tljax.analysis.report.finished_runs import Collection, FinishedRun, Setting, choose_best
from tljax.analysis.report.formatting import percent, percent_interval, plural
from tljax.analysis.report.labels import (
    TargetNames,
    data_name,
    describe_choice,
    html_text,
    plain_text,
)
from tljax.analysis.report.measures import ACCURACY
from tljax.analysis.report.mistakes import mistakes_part
from tljax.analysis.report.outputs.multi_label import multi_label_part
from tljax.analysis.report.outputs.output_answers import output_answers
from tljax.analysis.report.outputs.regression import regression_part
from tljax.analysis.report.page import table
from tljax.analysis.report.task_answers import TaskAnswers, answers_by_task

_MATRIX_CLASSES = 25  # a matrix of more classes cannot be read
_NUMBERED_CLASSES = 12  # the numbers in a matrix of more classes cannot be read
_LISTED = 20  # rows of a table of classes or of pairs of them


def predictions_section(collection: Collection, names: TargetNames, gallery: Gallery) -> str:
    """A part for each task of each goal; empty if no setting kept its answers."""
    parts = []
    for goal in collection.goals:
        rivals = [
            setting
            for setting in collection.settings
            if setting.target.goal == goal
            and all(_has_answers(run) for run in setting.runs.values())
        ]
        if not rivals:
            continue
        choice = choose_best(rivals)
        if goal.kind == "classes":
            for answers in answers_by_task(choice):
                parts.append(task_part(answers, rivals, names, gallery))
        else:
            part = multi_label_part if goal.kind == "multi_label" else regression_part
            parts.append(part(output_answers(choice), rivals, names, gallery))
    if not parts:
        return ""
    every = "\n".join(parts)
    scores = {goal.measure for goal in collection.goals}
    score = "accuracy" if scores == {ACCURACY} else "score"
    best = "best" if any(not measure.more_is_better for measure in scores) else "highest"
    return f"""<section>
<h2>Predictions on test images</h2>
<p>One setting for each data set: the one with the {best} mean validation {score}. Its predictions
were kept when the run tested its best weights; the test images were not predicted again.</p>
{every}
</section>"""


def _has_answers(run: FinishedRun) -> bool:
    """Whether a run kept the answers of its kind of labels."""
    return (run.answers if run.goal.kind == "classes" else run.outputs) is not None


def task_part(
    answers: TaskAnswers, rivals: Sequence[Setting], names: TargetNames, gallery: Gallery
) -> str:
    """The part of one task: figures, tables, and the most confident mistakes.

    Args:
      answers: of the setting, to this task.
      rivals: the settings that it was chosen from.
      names: of the targets.
      gallery: gets the drawings.
    """
    setting, task = answers.setting, answers.task
    is_joint = len(setting.first.tasks) > 1
    name = names.goal(setting.target.goal)
    heading = html_text(name)
    if is_joint:
        others = ", ".join(data_name(other.name) for other in setting.first.tasks if other != task)
        heading = f"{html_text(data_name(task.name))}, trained together with {html_text(others)}"
    confusion = answers.confusion
    alt = plain_text(task.name if is_joint else name)
    return f"""<h3>{heading}</h3>
<p>{describe_choice(answers.choice, rivals)}; {plural(len(setting.runs), "seed")}.</p>
<div class="panels">
{_matrix_figure(confusion, task.class_names, alt, gallery)}
{_reliability_figure(answers, alt, gallery)}
</div>
{_class_table(answers, confusion)}
{_confusion_table(confusion, task.class_names)}
{mistakes_part(answers)}"""


# ------------------------------------------------------------------------------------- figures


def _matrix_figure(
    confusion: np.ndarray, class_names: Sequence[str], alt: str, gallery: Gallery
) -> str:
    """The confusion matrix; empty if it has too many classes to be read."""
    if len(confusion) > _MATRIX_CLASSES:
        return ""
    short_names = [_shorten(name) for name in class_names]
    margin = 0.12 + 0.011 * max(map(len, short_names))
    drawing = gallery.draw(
        f"confusion_{len(gallery.pngs)}",
        f"Confusion matrix of {alt}",
        functools.partial(_paint_matrix, confusion=confusion, class_names=short_names),
        size=(5, 5),
        place=(margin, margin, 0.97 - margin, 0.97 - margin),
    )
    return f"""<figure>
<h4>Confusion matrix</h4>
{drawing}
<figcaption><p>Row: true class; column: predicted class; per cent of the row, over all
seeds.</p></figcaption>
</figure>"""


def _paint_matrix(axes: Any, confusion: np.ndarray, class_names: Sequence[str]) -> None:
    from matplotlib.patches import Rectangle

    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    size = len(confusion)
    for row, column in zip(*np.nonzero(confusion), strict=True):
        share = float(shares[row, column])
        colour = COLOURS["fine_tune" if row == column else "feature_extraction"]
        corner = (column - 0.5, row - 0.5)
        axes.add_patch(
            Rectangle(corner, 1, 1, facecolor=colour, alpha=0.15 + 0.75 * share, linewidth=0)
        )
        if size <= _NUMBERED_CLASSES and share >= 0.005:
            text = f"{100 * share:.0f}"
            ink = PAPER if share > 0.5 else INK
            axes.text(column, row, text, ha="center", va="center", fontsize=9, color=ink)
    fontsize = 10 if size <= _NUMBERED_CLASSES else 7
    rotation = 90 if any(len(name) > 2 for name in class_names) else 0
    axes.set_xticks(range(size), class_names, fontsize=fontsize, rotation=rotation)
    axes.set_yticks(range(size), class_names, fontsize=fontsize)
    axes.set_xlim(-0.5, size - 0.5)
    axes.set_ylim(size - 0.5, -0.5)
    axes.tick_params(length=0)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")


def _shorten(name: str) -> str:
    line = plain_text(name)
    return line if len(line) <= 14 else f"{line[:12]}..."


def _reliability_figure(answers: TaskAnswers, alt: str, gallery: Gallery) -> str:
    """The reliability diagram over all seeds, and the expected calibration error."""
    by_seed = [
        reliability(a.confidences, a.predicted == a.labels) for a in answers.by_seed.values()
    ]
    ece = statistics.mean_interval([r.ece for r in by_seed])
    drawing = gallery.draw(
        f"reliability_{len(gallery.pngs)}",
        f"Reliability diagram of {alt}",
        functools.partial(_paint_reliability, by_seed=by_seed),
    )
    return f"""<figure>
<h4>Reliability</h4>
{drawing}
<figcaption><p>Expected calibration error {percent_interval(ece)} points: the mean distance between
confidence and accuracy over {BINS} equal-width bins, weighted by their images (Guo et al. 2017).
Below the diagonal the network is overconfident. The area of a dot grows with the images in
its bin.</p></figcaption>
</figure>"""


def _paint_reliability(axes: Any, by_seed: Sequence[Reliability]) -> None:
    """Accuracy against confidence, the mean over all answers in a bin."""
    counts = np.sum([part.counts for part in by_seed], axis=0)
    divisor = np.where(counts > 0, counts, np.nan)
    confidence = np.nansum([p.confidence * p.counts for p in by_seed], axis=0) / divisor
    accuracy = np.nansum([p.accuracy * p.counts for p in by_seed], axis=0) / divisor

    axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=(0, (4, 3)))
    filled = counts > 0
    xs, ys, shares = confidence[filled], accuracy[filled], counts[filled] / counts.sum()
    colour = COLOURS["fine_tune"]
    axes.plot(xs, ys, color=colour, linewidth=1, alpha=0.5)
    axes.scatter(xs, ys, s=8 + 250 * shares, color=colour, linewidth=0, zorder=3, clip_on=False)
    axes.set_xlim(0, 1.02)
    ticks = np.linspace(0, 1, 6)
    axes.set_xticks(ticks, [f"{100 * tick:.0f}" for tick in ticks])
    axes.set_xlabel("confidence, %")
    percent_axis(axes, "accuracy, %")


# -------------------------------------------------------------------------------------- tables


def _class_table(answers: TaskAnswers, confusion: np.ndarray) -> str:
    """Accuracy of each class, with its interval over seeds; of many classes the worst ones."""
    names = answers.task.class_names
    by_seed = _accuracies_by_class(answers)
    present = [label for label in range(len(names)) if by_seed[label]]
    means = {label: float(np.mean(list(by_seed[label].values()))) for label in present}
    listed = present
    if len(present) > _LISTED:
        listed = sorted(present, key=lambda label: means[label])[:_LISTED]
    rows = []
    for label in listed:
        wrong = confusion[label].copy()
        wrong[label] = 0
        interval = statistics.mean_interval(list(by_seed[label].values()))
        images = round(confusion[label].sum() / len(by_seed[label]))
        taken = "&#8211;"
        if wrong.any():
            taken = f"{html_text(names[wrong.argmax()])} ({percent(wrong.max() / wrong.sum())})"
        bar = f'<span class="bar" style="--share:{100 * means[label]:.1f}%"></span>'
        accuracy = percent_interval(interval) + bar
        rows.append([html_text(names[label]), f"{images:,}", accuracy, taken])
    entries = table(
        ["class", "images", "accuracy, %", "most taken for (share of its mistakes)"], rows
    )
    worst = f", the {len(listed)} worst of {len(present):,}" if len(listed) < len(present) else ""
    return f"<h4>Accuracy by class{worst}</h4>\n{entries}"


def _accuracies_by_class(answers: TaskAnswers) -> list[dict[int, float]]:
    """For each class its accuracy by seed, of the seeds that have test images of it."""
    classes = len(answers.task.class_names)
    by_seed: list[dict[int, float]] = [{} for _ in range(classes)]
    for seed, given in answers.by_seed.items():
        totals = np.bincount(given.labels, minlength=classes)
        right = given.labels[given.labels == given.predicted]
        rights = np.bincount(right, minlength=classes)
        for label in np.flatnonzero(totals).tolist():
            by_seed[label][seed] = float(rights[label] / totals[label])
    return by_seed


def _confusion_table(confusion: np.ndarray, names: Sequence[str]) -> str:
    """The most frequent confusions, where there are too many classes for a matrix."""
    if len(confusion) <= _MATRIX_CLASSES:
        return ""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_LISTED]
    pairs = [divmod(int(index), len(names)) for index in order if wrong.flat[index]]
    rows = [
        [
            html_text(names[true]),
            html_text(names[predicted]),
            f"{wrong[true, predicted]:,}",
            percent(wrong[true, predicted] / confusion[true].sum()),
        ]
        for true, predicted in pairs
    ]
    entries = table(["true class", "taken for", "times, all seeds", "of the class"], rows)
    return f"<h4>Most frequent confusions</h4>\n{entries}" if rows else ""
