"""`tljax report`: one page about any number of finished runs, and its figures as PNG files.

The sections are built from what the runs give: a section that has nothing to say is not there.
"""

import shlex
from collections.abc import Sequence
from html import escape
from pathlib import Path

from tljax.analysis.report.accuracy import accuracy_section, k_section
from tljax.analysis.report.costs import cost_section, plan_section
from tljax.analysis.report.figures import Gallery
from tljax.analysis.report.labels import Places, differing, shown
from tljax.analysis.report.learning import learning_section
from tljax.analysis.report.page import table, write_page
from tljax.analysis.report.predictions import predictions_section
from tljax.analysis.report.runs import Collection, collect
from tljax.analysis.report.tasks import tasks_section
from tljax.analysis.report.words import count, listing, percent, percent_interval, words
from tljax.errors import InputError, printable
from tljax.files import writable_file

_RUNS = 200  # that are listed one by one


def write_report(folders: Sequence[Path], output: Path, png: Path | None = None) -> int:
    """Writes the page and its figures.

    Args:
      folders: workdirs of finished runs, and folders that hold some, e.g. of a sweep.
      output: a name that ends in `.html`.
      png: folder for the figures; None: `NAME_figures` beside a page NAME.html.

    Returns:
      The number of runs it is about.

    Raises:
      InputError: if there are no finished runs, one cannot be read, or nothing can be written.
    """
    writable_file(output, ".html")
    figures = png or output.with_name(f"{output.stem}_figures")
    if figures.exists() and not figures.is_dir():
        raise InputError(f"'{figures}' for the figures is a file; give another folder with --png")
    if not figures.parent.is_dir():
        raise InputError(f"there is no folder '{figures.parent}' for the figures; make it first")
    runs = collect(folders)
    names, gallery = Places(runs.places), Gallery()
    sections = (
        _header(runs, names),
        accuracy_section(runs, names, gallery),
        learning_section(runs, names, gallery),
        k_section(runs, names, gallery),
        tasks_section(runs, names),
        predictions_section(runs, names, gallery),
        plan_section(runs, names),
        cost_section(runs, names),
        _runs_section(runs, names),
        _method_section(runs, folders, output),
    )
    gallery.write(figures)
    title = f"tljax: {', '.join(printable(names.data(d)) for d in _data(runs))}"
    write_page(output, escape(title[:80]), "\n".join(section for section in sections if section))
    return len(runs.runs)


def _data(runs: Collection) -> list[str]:
    return sorted({setting.place.data for setting in runs.settings})


def _header(runs: Collection, names: Places) -> str:
    data = [shown(names.data(name)) for name in _data(runs)]
    models = sorted({setting.place.model for setting in runs.settings})
    scenarios = dict.fromkeys(words(setting.scenario) for setting in runs.settings)
    seeds = {run.seed for run in runs.runs}
    top = [_best_line(name, runs, names) for name in _data(runs)]
    left_out = ""
    if runs.unfinished:
        first = shown(runs.unfinished[0])
        left_out = (
            f'<p class="finding">{count(len(runs.unfinished), "run")} not done and left out, e.g.'
            f" {first}.</p>"
        )
    return f"""<header>
<h1>Transfer report: {listing(data[:6])}{" and others" if data[6:] else ""}</h1>
<p>{count(len(runs.runs), "run")} of {listing(shown(m) for m in models)} in
{count(len(runs.settings), "setting")}: {listing(scenarios)}; {count(len(seeds), "seed")}.</p>
<div class="finding">{"".join(f"<p>{line}</p>" for line in top[:12])}</div>
{left_out}
</header>"""


def _best_line(data: str, runs: Collection, names: Places) -> str:
    """What the validation images of a data set chose at its largest size, and how it tests."""
    places = [place for place in runs.places if place.data == data]
    size = max(place.train_size for place in places)
    among = [s for s in runs.settings if s.place.data == data and s.place.train_size == size]
    chosen = max(among, key=lambda setting: setting.validation)
    model = f" of {shown(chosen.place.model)}" if len({s.place.model for s in among}) > 1 else ""
    of = f", the best of {len(among)} settings on validation" if len(among) > 1 else ""
    return (
        f"<b>{shown(names.data(data))}</b>, {size:,} training images: {words(chosen.scenario)}"
        f"{model}{of}, tests at <b>{percent_interval(chosen.test)}&#160;%</b>"
    )


def _runs_section(runs: Collection, names: Places) -> str:
    every = runs.runs
    settings = {run.workdir: setting for setting in runs.settings for run in setting.runs.values()}
    rows = []
    for run in every[:_RUNS]:
        setting = settings[run.workdir]
        rows.append(
            [
                shown(run.workdir),
                names.html(setting.place),
                f"{words(run.scenario)}<small>{differing(setting, runs.settings)}</small>",
                str(run.seed),
                percent(run.summary["val_accuracy"]),
                percent(run.summary["test_accuracy"]),
            ]
        )
    entries = table(["workdir", "target", "scenario", "seed", "validation", "test"], rows)
    more = f"<p>The first {_RUNS} of {len(every):,}.</p>" if len(every) > _RUNS else ""
    return f"""<section>
<h2>Every run</h2>
<details><summary>{count(len(every), "run")} one by one</summary>
{more}{entries}
</details>
</section>"""


def _method_section(runs: Collection, folders: Sequence[Path], output: Path) -> str:
    words_of_command = ["tljax", "report", *map(str, folders), "--output", str(output)]
    command = printable(shlex.join(words_of_command))
    versions = {str(tuple(run.summary["versions"].items())): run.summary for run in runs.runs}
    lines = "".join(
        f'<p class="versions">{escape(", ".join(f"{n} {v}" for n, v in s["versions"].items()))}</p>'
        for s in list(versions.values())[:5]
    )
    devices = listing(
        dict.fromkeys(escape(str(d)) for r in runs.runs for d in r.summary["devices"])
    )
    return f"""<section>
<h2>How to read it</h2>
<ul>
<li>A setting is a config without its seed. Where several settings compete, validation accuracy
decides, averaged over seeds; test accuracy is only reported. Each run classified its test images
once, with the weights that were best on its validation images.</li>
<li>Intervals are 95&#160;% Student t intervals over seeds, mean &#177; t s / &#8730;n; with one
seed there is none. Differences are paired by seed. They are not corrected for the number of
comparisons.</li>
<li>Start: difference in validation accuracy at the first evaluation after step 0, where every new
head is still at chance. Asymptote: difference of the means of the last three evaluations. Slope:
images until an evaluation first reaches the threshold (Torrey &amp; Shavlik 2009; Taylor &amp;
Stone 2009).</li>
<li>Confidence is the largest softmax probability; expected calibration error as in Guo et al. 2017.
</li>
<li>Devices: {devices}.</li>
</ul>
<p>Made by</p>
<div class="scroll" tabindex="0"><pre>{escape(command)}</pre></div>
{lines}
</section>"""
