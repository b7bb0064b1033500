"""The report of `tljax report`: one HTML file about any finished runs, and its figures as PNGs.

A section that has nothing to show is left out.
"""

import math
import shlex
from collections.abc import Sequence
from html import escape
from pathlib import Path

from tljax.analysis.report.benefit_text import END_OF_CURVE
from tljax.analysis.report.figures import Gallery
from tljax.analysis.report.finished_runs import (
    Collection,
    FinishedRun,
    Goal,
    collect_runs,
)
from tljax.analysis.report.formatting import about_intervals, join_names, plural, scenario_name
from tljax.analysis.report.joint_tasks import tasks_section
from tljax.analysis.report.labels import TargetNames, differing_fields, html_text
from tljax.analysis.report.learning_curves import learning_section
from tljax.analysis.report.measures import ACCURACY
from tljax.analysis.report.page import made_by, table, write_page
from tljax.analysis.report.plans_and_costs import cost_section, plan_section
from tljax.analysis.report.predictions import predictions_section
from tljax.analysis.report.scenario_scores import k_section, scores_section
from tljax.data.labels import KINDS
from tljax.errors import InputError, printable
from tljax.files import writable_file

_LISTED_RUNS = 200
_OTHER_SCORES = """ The score is the metric that decided which weights a run kept; settings with
other scores are not compared."""
_ABOUT_SCORES = {  # of each kind of labels
    "classes": """<li>Confidence is the largest softmax probability; expected calibration error as
in Guo et al. 2017.</li>""",
    "multi_label": """<li>Several labels an image: average precision is the mean precision at each
image that has the label, from the highest probability down; its mean is over the labels that a test
image has. F1 is at the threshold of each label. Intervals over test images are of the bootstrap,
95&#160;%.</li>""",
    "regression": """<li>Numbers: R&#178; is 1 minus the sum of squared errors over the sum of
squares around the mean of the test images; RMSE and MAE are the root of the mean squared and the
mean absolute error. Intervals over test images are of the bootstrap, 95&#160;%.</li>""",
}


def write_report(folders: Sequence[Path], output: Path, png: Path | None = None) -> int:
    """Writes the report and its figures.

        write_report([Path("runs/sweep")], Path("sweep.html"))  # and sweep_figures/*.png

    Args:
      folders: workdirs of finished runs, and folders that hold some, e.g. of a sweep.
      output: the HTML file; its name ends in `.html`.
      png: the folder for the figures; None: `NAME_figures` next to NAME.html.

    Returns:
      The number of runs in the report.

    Raises:
      InputError: if there are no finished runs, one cannot be read, or nothing can be written.
    """
    writable_file(output, ".html")
    figures = png or output.with_name(f"{output.stem}_figures")
    if figures.exists() and not figures.is_dir():
        raise InputError(f"'{figures}' for the figures is a file; give another folder with --png")
    if not figures.parent.is_dir():
        raise InputError(f"there is no folder '{figures.parent}' for the figures; make it first")
    collection = collect_runs(folders)
    names, gallery = TargetNames(collection.targets), Gallery()
    sections = (
        _header(collection, names),
        scores_section(collection, names, gallery),
        learning_section(collection, names, gallery),
        k_section(collection, names, gallery),
        tasks_section(collection),
        predictions_section(collection, names, gallery),
        plan_section(collection),
        cost_section(collection, names),
        _runs_section(collection, names),
        _method_section(collection, folders, output),
    )
    gallery.write(figures)
    title = f"tljax: {', '.join(printable(names.goal(goal)) for goal in collection.goals)}"
    write_page(output, escape(title[:80]), "\n".join(section for section in sections if section))
    return len(collection.runs)


def _header(collection: Collection, names: TargetNames) -> str:
    data = [html_text(names.goal(goal)) for goal in collection.goals]
    models = sorted({setting.target.model for setting in collection.settings})
    scenarios = dict.fromkeys(scenario_name(setting.scenario) for setting in collection.settings)
    seeds = plural(len({run.seed for run in collection.runs}), "seed")
    findings = [_best_line(goal, collection, names) for goal in collection.goals]
    left_out = ""
    if collection.unfinished:
        first = html_text(collection.unfinished[0])
        left_out = (
            f'<p class="finding">{plural(len(collection.unfinished), "run")} not done and left out,'
            f" e.g. {first}.</p>"
        )
    return f"""<header>
<h1>Transfer report: {join_names(data[:6])}{" and others" if data[6:] else ""}</h1>
<p>{plural(len(collection.runs), "run")} of {join_names(html_text(m) for m in models)} in
{plural(len(collection.settings), "setting")}: {join_names(scenarios)}; {seeds}.</p>
<div class="finding">{"".join(f"<p>{line}</p>" for line in findings[:12])}</div>
{left_out}
</header>"""


def _best_line(goal: Goal, collection: Collection, names: TargetNames) -> str:
    """The best setting on validation at the largest size of a goal, with its test score."""
    on_data = [setting for setting in collection.settings if setting.target.goal == goal]
    size = max(setting.target.train_size for setting in on_data)
    rivals = [setting for setting in on_data if setting.target.train_size == size]
    best = max(rivals, key=lambda setting: setting.validation)
    has_models = len({setting.target.model for setting in rivals}) > 1
    model = f" of {html_text(best.target.model)}" if has_models else ""
    among = f", the best of {len(rivals)} settings on validation" if len(rivals) > 1 else ""
    if len(rivals) > 1 and any(math.isinf(setting.validation) for setting in rivals):
        among = f", of {len(rivals)} settings, of which some have no validation images,"
    measure = goal.measure
    words = "" if measure == ACCURACY else f" {measure.words}"
    return (
        f"<b>{html_text(names.goal(goal))}</b>, {size:,} training images:"
        f" {scenario_name(best.scenario)}{model}{among},"
        f" tests at <b>{measure.interval_with_unit(best.test)}</b>{words}"
    )


def _runs_section(collection: Collection, names: TargetNames) -> str:
    """A row for each run."""
    pairs = [(run, setting) for setting in collection.settings for run in setting.runs.values()]
    rows = []
    for run, setting in pairs[:_LISTED_RUNS]:
        differing = differing_fields(setting, collection.settings)
        rows.append(
            [
                html_text(run.workdir),
                names.html(setting.target),
                f"{scenario_name(run.scenario)}<small>{differing}</small>",
                str(run.seed),
                _score_entry(run.validation, run, collection),
                _score_entry(run.summary[f"test_{run.goal.score}"], run, collection),
            ]
        )
    entries = table(["workdir", "target", "scenario", "seed", "validation", "test"], rows)
    is_cut = len(pairs) > _LISTED_RUNS
    more = f"<p>The first {_LISTED_RUNS} of {len(pairs):,}.</p>" if is_cut else ""
    return f"""<section>
<h2>Every run</h2>
<details><summary>{plural(len(pairs), "run")} one by one</summary>
{more}{entries}
</details>
</section>"""


def _score_entry(value: float | None, run: FinishedRun, collection: Collection) -> str:
    """A score of a run, with its name where runs are decided by several."""
    measure = run.goal.measure
    is_named = value is not None and len({goal.measure for goal in collection.goals}) > 1
    return f"{measure.value(value)}{f'<small>{measure.words}</small>' if is_named else ''}"


def _method_section(collection: Collection, folders: Sequence[Path], output: Path) -> str:
    words = ["tljax", "report", *map(str, folders), "--output", str(output)]
    command = printable(shlex.join(words))
    summaries = [run.summary for run in collection.runs]
    versions = {str(tuple(s["versions"].items())): s["versions"] for s in summaries}
    devices = join_names(dict.fromkeys(escape(str(d)) for s in summaries for d in s["devices"]))
    kinds = {goal.kind for goal in collection.goals}
    only_accuracy = all(goal.measure == ACCURACY for goal in collection.goals)
    score = "accuracy" if only_accuracy else "score"
    intervals = about_intervals(len(setting.runs) for setting in collection.settings)
    about = "".join(_ABOUT_SCORES[kind] for kind in KINDS if kind in kinds)
    return f"""<section>
<h2>How to read it</h2>
<ul>
<li>A setting is a config without its seed. Where several settings compete, the validation {score}
decides, averaged over seeds; the test {score} is only reported. Each run predicted its test images
once, with the weights that were best on its validation images.{_OTHER_SCORES * (not only_accuracy)}
</li>
<li>{intervals} Differences are paired by seed. They are not corrected for the number of
comparisons. Those with images also take the test images as a sample, by crossed random effects: the
interval says what other seeds and other images of the same kind would give. Intervals over seeds
only leave that out, and are narrower the fewer test images there are.</li>
<li>Start: difference in the validation {score} at the first evaluation after step 0, where a new
head of zeros is still at chance (one that was solved is not). {END_OF_CURVE} Slope: images until an
evaluation first reaches the threshold, so its resolution is the interval between evaluations
(Torrey &amp; Shavlik 2009; Taylor &amp; Stone 2009).</li>
{about}
<li>Devices: {devices}.</li>
</ul>
{made_by(command, list(versions.values())[:5])}
</section>"""
