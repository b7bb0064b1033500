"""The report of `tljax report`: one HTML file about any finished runs, and its figures as PNGs.

A section that has nothing to show is left out.
"""

import shlex
from collections.abc import Sequence
from html import escape
from pathlib import Path

from tljax.analysis.report.accuracy import accuracy_section, k_section
from tljax.analysis.report.benefit_text import END_OF_CURVE
from tljax.analysis.report.figures import Gallery
from tljax.analysis.report.finished_runs import Collection, collect_runs
from tljax.analysis.report.formatting import (
    join_names,
    percent,
    percent_interval,
    plural,
    scenario_name,
)
from tljax.analysis.report.joint_tasks import tasks_section
from tljax.analysis.report.labels import TargetNames, differing_fields, html_text
from tljax.analysis.report.learning_curves import learning_section
from tljax.analysis.report.page import made_by, table, write_page
from tljax.analysis.report.plans_and_costs import cost_section, plan_section
from tljax.analysis.report.predictions import predictions_section
from tljax.errors import InputError, printable
from tljax.files import writable_file

_LISTED_RUNS = 200


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
        accuracy_section(collection, names, gallery),
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
    title = f"tljax: {', '.join(printable(names.data(d)) for d in _data_sets(collection))}"
    write_page(output, escape(title[:80]), "\n".join(section for section in sections if section))
    return len(collection.runs)


def _data_sets(collection: Collection) -> list[str]:
    return sorted({setting.target.data for setting in collection.settings})


def _header(collection: Collection, names: TargetNames) -> str:
    data_sets = _data_sets(collection)
    data = [html_text(names.data(name)) for name in data_sets]
    models = sorted({setting.target.model for setting in collection.settings})
    scenarios = dict.fromkeys(scenario_name(setting.scenario) for setting in collection.settings)
    seeds = plural(len({run.seed for run in collection.runs}), "seed")
    findings = [_best_line(name, collection, names) for name in data_sets]
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


def _best_line(data: str, collection: Collection, names: TargetNames) -> str:
    """The best setting on validation at the largest size of a data set, with its test accuracy."""
    on_data = [setting for setting in collection.settings if setting.target.data == data]
    size = max(setting.target.train_size for setting in on_data)
    rivals = [setting for setting in on_data if setting.target.train_size == size]
    best = max(rivals, key=lambda setting: setting.validation)
    has_models = len({setting.target.model for setting in rivals}) > 1
    model = f" of {html_text(best.target.model)}" if has_models else ""
    among = f", the best of {len(rivals)} settings on validation" if len(rivals) > 1 else ""
    if len(rivals) > 1 and min(setting.validation for setting in rivals) < 0:
        among = f", of {len(rivals)} settings, of which some have no validation images,"
    return (
        f"<b>{html_text(names.data(data))}</b>, {size:,} training images:"
        f" {scenario_name(best.scenario)}{model}{among},"
        f" tests at <b>{percent_interval(best.test)}&#160;%</b>"
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
                percent(run.summary["val_accuracy"]),
                percent(run.summary["test_accuracy"]),
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


def _method_section(collection: Collection, folders: Sequence[Path], output: Path) -> str:
    words = ["tljax", "report", *map(str, folders), "--output", str(output)]
    command = printable(shlex.join(words))
    summaries = [run.summary for run in collection.runs]
    versions = {str(tuple(s["versions"].items())): s["versions"] for s in summaries}
    devices = join_names(dict.fromkeys(escape(str(d)) for s in summaries for d in s["devices"]))
    return f"""<section>
<h2>How to read it</h2>
<ul>
<li>A setting is a config without its seed. Where several settings compete, validation accuracy
decides, averaged over seeds; test accuracy is only reported. Each run classified its test images
once, with the weights that were best on its validation images.</li>
<li>Intervals are 95&#160;% Student t intervals over seeds, mean &#177; t s / &#8730;n; with one
seed there is none. Differences are paired by seed. They are not corrected for the number of
comparisons. Those with images also take the test images as a sample, by crossed random effects: the
interval says what other seeds and other images of the same kind would give. Intervals over seeds
only leave that out, and are narrower the fewer test images there are.</li>
<li>Start: difference in validation accuracy at the first evaluation after step 0, where a new head
of zeros is still at chance (one that was solved is not). {END_OF_CURVE} Slope: images until an
evaluation first reaches the threshold, so its resolution is the interval between evaluations
(Torrey &amp; Shavlik 2009; Taylor &amp; Stone 2009).</li>
<li>Confidence is the largest softmax probability; expected calibration error as in Guo et al. 2017.
</li>
<li>Devices: {devices}.</li>
</ul>
{made_by(command, list(versions.values())[:5])}
</section>"""
