"""What a setting takes for what, and how sure it is."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tljax.analysis import statistics
from tljax.analysis.calibration import BINS, Reliability, reliability
from tljax.analysis.report.answered import Answered
from tljax.analysis.report.figures import COLOURS, INK, PAPER, Gallery, percent_axis
from tljax.analysis.report.labels import Places, data_name, differing, plain, shown
from tljax.analysis.report.mistakes import mistakes_part
from tljax.analysis.report.page import table
from tljax.analysis.report.runs import Collection, Setting, best
from tljax.analysis.report.words import count, percent, percent_interval, words

_MATRIX = 25  # classes at most, or a matrix cannot be read
_WRITTEN = 12  # classes at most, or the numbers in it cannot
_LISTED = 20  # classes, or pairs of them, in a table


def predictions_section(runs: Collection, names: Places, gallery: Gallery) -> str:
    """A part for each task of each data set whose runs keep their answers."""
    parts = []
    for data in sorted({setting.place.data for setting in runs.settings}):
        rivals = [
            setting
            for setting in runs.settings
            if setting.place.data == data and all(r.answers for r in setting.runs.values())
        ]
        if rivals:
            chosen = best(rivals)
            first_class = 0
            for task in chosen.setting.first.tasks:
                span = (first_class, first_class + len(task.class_names))
                first_class = span[1]
                answers = {
                    seed: run.answers.within(*span)
                    for seed, run in chosen.setting.runs.items()
                    if run.answers is not None
                }
                answered = Answered(task, chosen.setting, chosen.among, answers)
                parts.append(_part(answered, rivals, names, gallery))
    if not parts:
        return ""
    every = "\n".join(parts)
    return f"""<section>
<h2>Predictions on test images</h2>
<p>Of one setting for each data set: the one with the highest mean validation accuracy. They were
kept when the run tested its best weights; the test images were not classified again.</p>
{every}
</section>"""


def _part(answered: Answered, rivals: Sequence[Setting], names: Places, gallery: Gallery) -> str:
    setting, task = answered.setting, answered.task
    several = len(setting.first.tasks) > 1
    title = names.data(setting.place.data)
    others = ", ".join(data_name(other.name) for other in setting.first.tasks if other != task)
    heading = shown(title)
    if several:
        heading = f"{shown(data_name(task.name))}, trained together with {shown(others)}"
    alike = [s for s in rivals if (s.place, s.scenario) == (setting.place, setting.scenario)]
    what = [words(setting.scenario), shown(setting.place.model)]
    what += [f"{setting.place.train_size:,} training images", differing(setting, alike)]
    said = ", ".join(text for text in what if text)
    among = f", the best of {count(answered.among, 'setting')} on validation"
    confusion = answered.confusion
    alt = plain(task.name if several else title)
    reliabilities = {
        seed: reliability(a.confidences, a.predicted == a.labels)
        for seed, a in answered.answers.items()
    }
    ece = statistics.mean_interval([r.ece for r in reliabilities.values()])
    matrix = ""
    if len(confusion) <= _MATRIX:
        matrix = f"""<figure>
<h4>Confusion matrix</h4>
{_matrix(confusion, task.class_names, alt, gallery)}
<figcaption><p>Row: true class; column: predicted class; per cent of the row, over all
seeds.</p></figcaption>
</figure>"""
    return f"""<h3>{heading}</h3>
<p>{said}{among if answered.among > 1 else ""}; {count(len(setting.runs), "seed")}.</p>
<div class="panels">
{matrix}
<figure>
<h4>Reliability</h4>
{_diagram(list(reliabilities.values()), alt, gallery)}
<figcaption><p>Expected calibration error {percent_interval(ece)} points: the mean distance between
confidence and accuracy over {BINS} equal-width bins, weighted by their images (Guo et al. 2017).
Below the diagonal the network is surer than it is right. The area of a dot grows with the images in
its bin.</p></figcaption>
</figure>
</div>
{_classes(answered, confusion)}
{_confusions(confusion, task.class_names)}
{mistakes_part(answered)}"""


def _matrix(confusion: np.ndarray, class_names: Sequence[str], alt: str, gallery: Gallery) -> str:
    from matplotlib.patches import Rectangle

    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    size = len(confusion)

    def paint(axes: Any) -> None:
        for row, column in zip(*np.nonzero(confusion), strict=True):
            share = float(shares[row, column])
            right = bool(row == column)
            colour = COLOURS["fine_tune" if right else "feature_extraction"]
            corner = (column - 0.5, row - 0.5)
            axes.add_patch(
                Rectangle(corner, 1, 1, facecolor=colour, alpha=0.15 + 0.75 * share, linewidth=0)
            )
            if size <= _WRITTEN and share >= 0.005:
                text = f"{100 * share:.0f}"
                ink = PAPER if share > 0.5 else INK
                axes.text(column, row, text, ha="center", va="center", fontsize=9, color=ink)
        short = [_shortened(name) for name in class_names]
        fontsize = 10 if size <= _WRITTEN else 7
        turned = any(len(name) > 2 for name in short)
        axes.set_xticks(range(size), short, fontsize=fontsize, rotation=90 if turned else 0)
        axes.set_yticks(range(size), short, fontsize=fontsize)
        axes.set_xlim(-0.5, size - 0.5)
        axes.set_ylim(size - 0.5, -0.5)
        axes.tick_params(length=0)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")

    longest = max(len(_shortened(name)) for name in class_names)
    margin = 0.12 + 0.011 * longest
    place = (margin, margin, 0.97 - margin, 0.97 - margin)
    name = f"confusion_{len(gallery.pngs)}"
    return gallery.draw(name, f"Confusion matrix of {alt}", paint, (5, 5), place)


def _diagram(parts: Sequence[Reliability], alt: str, gallery: Gallery) -> str:
    counts = np.sum([part.counts for part in parts], axis=0)
    safe = np.where(counts > 0, counts, np.nan)
    confidence = np.nansum([p.confidence * p.counts for p in parts], axis=0) / safe
    accuracy = np.nansum([p.accuracy * p.counts for p in parts], axis=0) / safe

    def paint(axes: Any) -> None:
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

    name = f"reliability_{len(gallery.pngs)}"
    return gallery.draw(name, f"Reliability diagram of {alt}", paint)


def _classes(answered: Answered, confusion: np.ndarray) -> str:
    """Accuracy of each class, with its interval over seeds; of many classes the worst."""
    names = answered.task.class_names
    by_seed: list[dict[int, float]] = [{} for _ in names]
    for seed, answers in answered.answers.items():
        totals = np.bincount(answers.labels, minlength=len(names))
        right = answers.labels[answers.labels == answers.predicted]
        rights = np.bincount(right, minlength=len(names))
        for label in np.flatnonzero(totals).tolist():
            by_seed[label][seed] = float(rights[label] / totals[label])
    present = [label for label in range(len(names)) if by_seed[label]]
    means = {label: float(np.mean(list(by_seed[label].values()))) for label in present}
    listed = sorted(present, key=lambda label: means[label])[:_LISTED]
    if len(present) <= _LISTED:
        listed = present
    rows = []
    for label in listed:
        wrong = confusion[label].copy()
        wrong[label] = 0
        interval = statistics.mean_interval(list(by_seed[label].values()))
        images = round(confusion[label].sum() / len(by_seed[label]))
        taken = "&#8211;"
        if wrong.any():
            taken = f"{shown(names[wrong.argmax()])} ({percent(wrong.max() / wrong.sum())})"
        bar = f'<span class="bar" style="--share:{100 * means[label]:.1f}%"></span>'
        rows.append([shown(names[label]), f"{images:,}", percent_interval(interval) + bar, taken])
    entries = table(
        ["class", "images", "accuracy, %", "most taken for (share of its mistakes)"], rows
    )
    worst = f", the {len(listed)} worst of {len(present):,}" if len(listed) < len(present) else ""
    return f"<h4>Accuracy by class{worst}</h4>\n{entries}"


def _confusions(confusion: np.ndarray, names: Sequence[str]) -> str:
    """In place of a matrix that nobody could read: the commonest mistakes."""
    if len(confusion) <= _MATRIX:
        return ""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_LISTED]
    pairs = [divmod(int(place), len(names)) for place in order if wrong.flat[place]]
    rows = [
        [
            shown(names[true]),
            shown(names[predicted]),
            f"{wrong[true, predicted]:,}",
            percent(wrong[true, predicted] / confusion[true].sum()),
        ]
        for true, predicted in pairs
    ]
    entries = table(["true class", "taken for", "times, all seeds", "of the class"], rows)
    return f"<h4>Most frequent confusions</h4>\n{entries}" if rows else ""


def _shortened(name: str) -> str:
    line = plain(name)
    return line if len(line) <= 14 else f"{line[:12]}..."
