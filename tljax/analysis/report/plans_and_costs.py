"""The transfer plans side by side, and the cost of the runs: operations, images, seconds."""

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from tljax import experiment
from tljax.analysis import cost
from tljax.analysis.report.cells import mean_seconds
from tljax.analysis.report.finished_runs import Collection, Setting
from tljax.analysis.report.formatting import percent, scenario_name
from tljax.analysis.report.labels import TargetNames, differing_fields, html_text
from tljax.analysis.report.page import table
from tljax.experiment import Experiment
from tljax.models import ImageShape, Model, parameter_count, tracing
from tljax.models.groups import Groups
from tljax.transfer.partition import Tree, split

_COLUMNS = 8  # plans side by side


def plan_section(collection: Collection) -> str:
    """A table for each model and its groups: what each plan does with them."""
    plans: dict[tuple[str, tuple[str, ...]], dict[str, Setting]] = {}  # the first of each plan
    for target in sorted(collection.targets, key=lambda target: target.model):
        for choice in collection.best_by_scenario(target).values():
            groups = _experiment(choice.setting).model.groups.names  # fewer with `last_group`
            own = plans.setdefault((target.model, groups), {})
            own.setdefault(repr(choice.setting.first.summary["plan"]), choice.setting)
    tables = "\n".join(_plan_table(list(settings.values())) for settings in plans.values())
    return f"""<section>
<h2>The plans</h2>
<p>For each group of layers, input first: where its weights start, and at which multiple of the
learning rate they move. MFLOP: forward pass of one image.</p>
{tables}
</section>"""


def _plan_table(every: Sequence[Setting]) -> str:
    """The table of settings of one model with the same groups."""
    settings = every[:_COLUMNS]
    groups = _experiment(settings[0]).model.groups
    last_group = settings[0].first.config["last_group"]
    until = "" if last_group is None else f", up to {html_text(last_group)}"
    (counts, _), params = _forward_flops(settings[0]), _parameters(settings[0])
    rows = []
    for depth, group in enumerate(groups.names):
        own, _ = split(params, functools.partial(_is_in_group, groups, depth))
        row = [html_text(group), f"{parameter_count(own):,}", f"{counts[depth] / 1e6:,.1f}"]
        plan_entries = (_plan_entry(s.first.summary["plan"], depth) for s in settings)
        rows.append([*row, *plan_entries])
    entries = table(["group", "parameters", "MFLOP", *map(_plan_heading, settings)], rows)
    more = f"<p>The first {len(settings)} of {len(every)} plans.</p>" if every[_COLUMNS:] else ""
    return f"<h3>{html_text(settings[0].target.model)}{until}</h3>\n{more}{entries}"


def _is_in_group(groups: Groups, depth: int, path: str) -> bool:
    return groups.depth(path) == depth


def _plan_heading(setting: Setting) -> str:
    """The scenario with its k, and below it what the rows of the table do not show."""
    plan, k = setting.first.summary["plan"], setting.first.config["k"]
    name = scenario_name(setting.scenario) + ("" if k is None else f", k&#160;=&#160;{k}")
    further = [] if plan["train"] == ".*" else [f"train {plan['train']}"]
    further += [] if plan["statistics"] == "follow" else [f"statistics {plan['statistics']}"]
    return f"{name}<small>{html_text(', '.join(further)) if further else ''}</small>"


def _plan_entry(plan: Mapping[str, Sequence], depth: int) -> str:
    """Where the weights of a group start, and whether they train."""
    init, scale = plan["init"][depth], plan["lr_scale"][depth]
    return (
        f'<span class="frozen">{init}, frozen</span>' if not scale else f"{init}, &#215;{scale:g}"
    )


def cost_section(collection: Collection, names: TargetNames) -> str:
    """A row for the best setting of each scenario on each target."""
    rows = []
    for target in collection.targets:
        for scenario, choice in collection.best_by_scenario(target).items():
            rivals = collection.settings_of(target, scenario)
            notes = (names.html(target), differing_fields(choice.setting, rivals))
            note = ", ".join(filter(None, notes))
            rows.append(
                [f"{scenario_name(scenario)}<small>{note}</small>", *_costs(choice.setting)]
            )
    head = ["scenario", "trained parameters", "forward F, MFLOP", "training, MFLOP an image"]
    entries = table([*head, "images seen", "training, GFLOP in all", "seconds"], rows)
    return f"""<section>
<h2>Cost</h2>
<p>Operations by XLA's count of the forward pass and the law of backward passes: activations from
the loss down to the first group that trains, weights of the groups that train. Features that were
kept from frozen groups are not subtracted. Of a run in stages the operations of all stages are
added; those of an image are their mean. Seconds are wall time of a run, compilation and evaluation
included, the mean over seeds.</p>
{entries}
</section>"""


def _costs(setting: Setting) -> list[str]:
    summary = setting.first.summary
    trained, total = summary["trainable_parameters"], summary["total_parameters"]
    forward, products = _forward_flops(setting)
    stages = _stage_costs(setting, forward, products)
    seen = sum(images for images, _ in stages)
    in_all = sum(images * step for images, step in stages)
    step = in_all / seen
    return [
        f"{trained:,}<small>{percent(trained / total)} of {total:,}</small>",
        f"{sum(forward) / 1e6:,.1f}",
        f"{step / 1e6:,.1f}<small>{step / sum(forward):.2f} F</small>",
        f"{seen:,.0f}",
        f"{in_all / 1e9:,.1f}",
        mean_seconds(setting.runs),
    ]


def _stage_costs(
    setting: Setting, forward: Sequence[float], products: Sequence[float]
) -> list[tuple[float, float]]:
    """(images seen, training FLOPs of an image) of each stage; of a run without stages, its own."""
    exp, params = _experiment(setting), _parameters(setting)
    plans = [stage.plan for stage in exp.stages] or [exp.plan]
    # The mean over seeds: patience or a trial may have settled the steps.
    each_seed = [
        [stage["examples_seen"] for stage in run.summary.get("stages", [run.summary])]
        for run in setting.runs.values()
    ]
    trained = (plan.trained_groups(params) for plan in plans)
    steps = (sum(map(sum, cost.law_terms(forward, products, trains))) for trains in trained)
    return list(zip(np.mean(each_seed, axis=0).tolist(), steps, strict=True))


def _experiment(setting: Setting) -> Experiment:
    run = setting.first
    return experiment.build(experiment.read_config(run.workdir), run.tasks)


def _parameters(setting: Setting) -> Tree:
    """The shapes of the model's parameters."""
    exp = _experiment(setting)
    params: Tree = _variables(exp.model, exp.preprocessing.image_shape)["params"]
    return params


def _forward_flops(setting: Setting) -> tuple[list[float], list[float]]:
    """Forward FLOPs of each group for one image, and those of products of activations."""
    exp = _experiment(setting)
    return _count_forward_flops(exp.model, exp.preprocessing.image_shape)


# Settings share models, and to trace a model takes long.


@functools.cache
def _variables(model: Model, image: ImageShape) -> Tree:
    return tracing.abstract_variables(model, image)


@functools.cache
def _count_forward_flops(model: Model, image: ImageShape) -> tuple[list[float], list[float]]:
    arguments = (model, _variables(model, image), image)
    return cost.group_flops(*arguments), cost.group_products(*arguments)
