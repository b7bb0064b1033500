"""The plans side by side, and what runs cost: operations, seconds, images."""

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from tljax import experiment
from tljax.analysis import cost
from tljax.analysis.report.labels import Places, differing, shown
from tljax.analysis.report.page import table
from tljax.analysis.report.runs import Collection, Setting
from tljax.analysis.report.words import percent, words
from tljax.experiment import Experiment
from tljax.models import parameter_count, tracing
from tljax.models.groups import Groups
from tljax.transfer.partition import Tree, split

_COLUMNS = 8  # plans side by side at most


def plan_section(runs: Collection, names: Places) -> str:
    """For each model a table: its groups, and what each plan does with them."""
    models = sorted({setting.place.model for setting in runs.settings})
    tables = "\n".join(_plans_of(model, runs) for model in models)
    return f"""<section>
<h2>The plans</h2>
<p>For each group of layers, input first: where its weights start, and at which multiple of the
learning rate they move. MFLOP: forward pass of one image.</p>
{tables}
</section>"""


def _plans_of(model: str, runs: Collection) -> str:
    plans: dict[str, Setting] = {}  # of equal plans the first setting
    for place in runs.places:
        if place.model == model:
            for chosen in runs.at(place).values():
                plans.setdefault(repr(chosen.setting.first.summary["plan"]), chosen.setting)
    every = list(plans.values())
    settings = every[:_COLUMNS]
    first = _prepared(settings[0])
    (counts, _), params = _forward(settings[0]), _parameters(settings[0])
    groups = first.model.groups
    rows = []
    for depth, group in enumerate(groups.names):
        own, _ = split(params, functools.partial(_is_in, groups, depth))
        row = [shown(group), f"{parameter_count(own):,}", f"{counts[depth] / 1e6:,.1f}"]
        rows.append([*row, *(_fate(setting.first.summary["plan"], depth) for setting in settings)])
    heads = [
        f"{words(setting.scenario)}{_k(setting)}<small>{_further(setting)}</small>"
        for setting in settings
    ]
    entries = table(["group", "parameters", "MFLOP", *heads], rows)
    more = f"<p>The first {len(settings)} of {len(every)} plans.</p>" if every[_COLUMNS:] else ""
    return f"<h3>{shown(model)}</h3>\n{more}{entries}"


def _is_in(groups: Groups, depth: int, path: str) -> bool:
    return groups.depth(path) == depth


def _k(setting: Setting) -> str:
    k = setting.first.config["k"]
    return "" if k is None else f", k&#160;=&#160;{k}"


def _further(setting: Setting) -> str:
    plan = setting.first.summary["plan"]
    further = [] if plan["train"] == ".*" else [f"train {plan['train']}"]
    further += [] if plan["statistics"] == "follow" else [f"statistics {plan['statistics']}"]
    return shown(", ".join(further)) if further else ""


def _fate(plan: Mapping[str, Sequence], depth: int) -> str:
    init, scale = plan["init"][depth], plan["lr_scale"][depth]
    return (
        f'<span class="frozen">{init}, frozen</span>' if not scale else f"{init}, &#215;{scale:g}"
    )


def cost_section(runs: Collection, names: Places) -> str:
    """A row for each scenario at each place, at the best of its settings."""
    rows = []
    for place in runs.places:
        for scenario, chosen in runs.at(place).items():
            setting = chosen.setting
            summary = setting.first.summary
            trained, total = summary["trainable_parameters"], summary["total_parameters"]
            forward, products = _forward(setting)
            exp = _prepared(setting)
            moving = exp.plan.trained_groups(_parameters(setting))
            step = sum(map(sum, cost.law_terms(forward, products, moving)))
            seen = summary["examples_seen"]
            rivals = [s for s in runs.settings if s.place == place and s.scenario == scenario]
            rows.append(
                [
                    f"{words(scenario)}<small>"
                    + ", ".join(filter(None, (names.html(place), differing(setting, rivals))))
                    + "</small>",
                    f"{trained:,}<small>{percent(trained / total)} of {total:,}</small>",
                    f"{sum(forward) / 1e6:,.1f}",
                    f"{step / 1e6:,.1f}<small>{step / sum(forward):.2f} F</small>",
                    f"{seen:,}",
                    f"{seen * step / 1e9:,.1f}",
                    f"{float(np.mean(setting.values('wall_seconds'))):,.1f}",
                ]
            )
    head = ["scenario", "trained parameters", "forward F, MFLOP", "training, MFLOP an image"]
    entries = table([*head, "images seen", "training, GFLOP in all", "seconds"], rows)
    return f"""<section>
<h2>Cost</h2>
<p>Operations by XLA's count of the forward pass and the law of backward passes: activations from
the loss down to the first group that trains, weights of the groups that train. Features that were
kept from frozen groups are not subtracted. Seconds are wall time of a run, compilation and
evaluation included, the mean over seeds.</p>
{entries}
</section>"""


def _prepared(setting: Setting) -> Experiment:
    run = setting.first
    return experiment.build(experiment.read_config(run.workdir), run.tasks)


@functools.cache
def _variables(model, image_size) -> Tree:
    return tracing.abstract_variables(model, image_size)


def _parameters(setting: Setting) -> Tree:
    exp = _prepared(setting)
    params: Tree = _variables(exp.model, exp.preprocessing.image_size)["params"]
    return params


def _forward(setting: Setting) -> tuple[list[float], list[float]]:
    exp = _prepared(setting)
    return _forward_of(exp.model, exp.preprocessing.image_size)


@functools.cache
def _forward_of(model, image_size) -> tuple[list[float], list[float]]:
    given = (model, _variables(model, image_size), image_size)
    return cost.group_flops(*given), cost.group_products(*given)
