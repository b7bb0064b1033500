"""Several tasks on one trunk, beside runs of one task alone: help and harm between tasks."""

from collections.abc import Mapping, Sequence

from tljax.analysis.report.benefits import paired
from tljax.analysis.report.labels import Places, data_name, differing, shown
from tljax.analysis.report.page import table
from tljax.analysis.report.runs import Chosen, Collection, Setting, best
from tljax.analysis.report.words import percent_interval, signed_interval, verdict, words
from tljax.analysis.statistics import mean_interval


def tasks_section(runs: Collection, names: Places) -> str:
    """A row for each task of each joint setting that is the best of its scenario and place."""
    joint = [
        chosen
        for place in runs.places
        for chosen in runs.at(place).values()
        if len(chosen.setting.first.tasks) > 1
    ]
    if not joint:
        return ""
    rows = [
        _row(chosen, task.name, runs, names)
        for chosen in joint
        for task in chosen.setting.first.tasks
    ]
    head = ["task", "joint with", "scenario", "together", "alone", "together &#8722; alone, points"]
    entries = table([*head, "images of the task seen"], rows)
    return f"""<section>
<h2>Several tasks on one trunk</h2>
<p>Test accuracy in per cent of each task trained together with others, one trunk and a head for
each, and of its single-task twin: the same task, model, scenario and number of its training images.
Where there are several such twins, the best on validation; differences are paired by seed. Above 0
the other tasks help, below 0 they harm.</p>
{entries}
</section>"""


def _row(chosen: Chosen, task: str, runs: Collection, names: Places) -> list[str]:
    setting = chosen.setting
    together = {seed: run.summary["tasks"][task] for seed, run in setting.runs.items()}
    tests = {seed: summary["test_accuracy"] for seed, summary in together.items()}
    some_run, some_task = setting.first, next(iter(together.values()))
    share = some_task["train_size"] / some_run.summary["train_size"]
    seen = f"{round(share * some_run.summary['examples_seen']):,}"
    others = [data_name(other.name) for other in some_run.tasks if other.name != task]
    alone = _twins(setting, task, some_task["train_size"], runs.settings)
    note = f"<small>best of {chosen.among} on validation</small>" if chosen.among > 1 else ""
    entries = [
        f"{shown(data_name(task))}<small>{some_task['train_size']:,}&#160;images</small>",
        shown(", ".join(others)),
        words(setting.scenario),
        f"{percent_interval(mean_interval(list(tests.values())))}{note}",
    ]
    if not alone:
        return [*entries, "no twin", "&#8211;", seen]
    twin = best(alone)
    by_seed = {seed: run.summary["test_accuracy"] for seed, run in twin.setting.runs.items()}
    note = f"best of {twin.among} on validation" if twin.among > 1 else ""
    note += f"<br>{differing(twin.setting, alone)}" if twin.among > 1 else ""
    return [
        *entries,
        f"{percent_interval(twin.setting.test)}<small>{note}</small>",
        _difference(tests, by_seed),
        f"{seen}<small>alone: {twin.setting.first.summary['examples_seen']:,}</small>",
    ]


def _twins(
    joint: Setting, task: str, train_size: int, settings: Sequence[Setting]
) -> list[Setting]:
    """The settings of this task alone that a joint setting may be held against."""
    return [
        setting
        for setting in settings
        if setting.first.config["data"] == task
        and setting.scenario == joint.scenario
        and setting.first.config["model"] == joint.first.config["model"]
        and setting.first.config["k"] == joint.first.config["k"]
        and setting.first.summary["train_size"] == train_size
    ]


def _difference(together: Mapping[int, float], alone: Mapping[int, float]) -> str:
    if not together.keys() & alone.keys():
        return "no seed in common"
    margin = paired(together, alone)
    return f"{signed_interval(margin)}<small>{verdict(margin)}</small>"
