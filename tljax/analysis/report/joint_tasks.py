"""Several tasks on one trunk against runs of one task alone: do tasks help or harm each other?"""

from tljax.analysis.comparison import compare, right_images
from tljax.analysis.report.cells import values_by_seed
from tljax.analysis.report.finished_runs import Choice, Collection, Setting, choose_best
from tljax.analysis.report.formatting import (
    percent_interval,
    scenario_name,
    verdict,
    with_images,
)
from tljax.analysis.report.labels import data_name, differing_fields, html_text
from tljax.analysis.report.measures import ACCURACY
from tljax.analysis.report.page import table
from tljax.analysis.report.task_answers import answers_by_task
from tljax.analysis.statistics import mean_interval


def tasks_section(collection: Collection) -> str:
    """A row for each task of the best joint setting of each scenario and target.

    The section is empty if no run has several tasks.
    """
    joint = [
        choice
        for target in collection.targets
        for choice in collection.best_by_scenario(target).values()
        if len(choice.setting.first.tasks) > 1
    ]
    if not joint:
        return ""
    rows = [
        _row(choice, task.name, collection)
        for choice in joint
        for task in choice.setting.first.tasks
    ]
    head = ["task", "joint with", "scenario", "together", "alone", "together &#8722; alone, points"]
    entries = table([*head, "images of the task seen"], rows)
    return f"""<section>
<h2>Several tasks on one trunk</h2>
<p>Test accuracy in per cent of each task trained together with others, one trunk and a head for
each, and of its single-task twin: the same task, model, scenario and number of its training images.
Where there are several such twins, the best on validation; differences are paired by seed, with
intervals over seeds and (&#177; with images) over seeds and test images together. Above 0 the other
tasks help, below 0 they harm; clear if both intervals exclude 0.</p>
{entries}
</section>"""


def _row(choice: Choice, task: str, collection: Collection) -> list[str]:
    """A task of a joint setting, and its single-task twin if there is one."""
    setting = choice.setting
    results = {seed: run.summary["tasks"][task] for seed, run in setting.runs.items()}
    together = {seed: result["test_accuracy"] for seed, result in results.items()}
    train_size = next(iter(results.values()))["train_size"]
    some_run = setting.first
    share = train_size / some_run.summary["train_size"]
    seen = f"{round(share * some_run.summary['examples_seen']):,}"
    others = [data_name(other.name) for other in some_run.tasks if other.name != task]
    note = f"<small>best of {choice.among} on validation</small>" if choice.among > 1 else ""
    entries = [
        f"{html_text(data_name(task))}<small>{train_size:,}&#160;images</small>",
        html_text(", ".join(others)),
        scenario_name(setting.scenario),
        f"{percent_interval(mean_interval(list(together.values())))}{note}",
    ]
    twins = _single_task_settings(setting, task, train_size, collection)
    if not twins:
        return [*entries, "no twin", "&#8211;", seen]
    twin = choose_best(twins)
    alone = twin.setting.values("test_accuracy")
    note = f"best of {twin.among} on validation" if twin.among > 1 else ""
    note += f"<br>{differing_fields(twin.setting, twins)}" if twin.among > 1 else ""
    return [
        *entries,
        f"{percent_interval(mean_interval(alone))}<small>{note}</small>",
        _difference(choice, task, together, twin.setting),
        f"{seen}<small>alone: {twin.setting.first.summary['examples_seen']:,}</small>",
    ]


def _single_task_settings(
    joint: Setting, task: str, train_size: int, collection: Collection
) -> list[Setting]:
    """The settings of this task alone that a joint setting can be compared with."""
    return [
        setting
        for setting in collection.settings
        if setting.first.config["data"] == task
        and setting.scenario == joint.scenario
        and setting.first.config["model"] == joint.first.config["model"]
        and setting.first.config["k"] == joint.first.config["k"]
        and setting.first.summary["train_size"] == train_size
        and setting.target.goal.score == joint.target.goal.score
        and setting.target.goal.kind == "classes"
    ]


def _difference(choice: Choice, task: str, together: dict[int, float], twin: Setting) -> str:
    """Together - alone, in test accuracy of one task; `together` holds it by seed."""
    alone = values_by_seed(twin.runs, "test_accuracy")
    if not together.keys() & alone.keys():
        return "no seed in common"
    own = next(part for part in answers_by_task(choice) if part.task.name == task).by_seed
    right = right_images(own, twin.answers)
    margin = compare(together, alone, *(right or ()))
    both = f"{ACCURACY.signed(margin.over_seeds)}{with_images(margin)}"
    return f"{both}<small>{verdict(margin)}</small>"
