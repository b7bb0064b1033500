"""The table of `tljax plan`: what a config trains, what it freezes, and what each group costs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import ml_collections
import numpy as np
from rich.console import Console
from rich.table import Table

from tljax import experiment
from tljax.analysis import cost
from tljax.experiment import Experiment
from tljax.models import parameter_count, tracing
from tljax.models.flops import counted_flops, flops
from tljax.models.groups import leaf_paths
from tljax.training.options import SOLVER
from tljax.transfer import TransferPlan
from tljax.transfer.partition import Tree, split

_MEGA, _MEBI = 1e6, 2**20


def print_plan(config: ml_collections.ConfigDict, compile_step: bool = False) -> None:
    """Prints the table of a config's plan, or of each of its stages; trains nothing.

    It decodes no image and needs no weights. What a rule chose is listed with its reasons.

    Args:
      config: a whole config; `init_from` may be None.
      compile_step: whether to also compile the step, for XLA's FLOPs and peak memory (slow).
    """
    exp = experiment.build(config)
    config = exp.config
    channels = "" if config.channels is None else f", {config.channels} channels"
    size = exp.preprocessing.image_size
    title = f"{config.scenario} of {config.model} at {size} px{channels}"
    if not exp.stages:
        _print_stage(config, exp, title, compile_step)
    for number, stage in enumerate(exp.stages, 1):
        which = f"stage {number} of {len(exp.stages)}, {stage.share:.0%} of the steps"
        _print_stage(config, replace(exp, plan=stage.plan), f"{which}: {title}", compile_step)
    _print_rule(config.hyperrule_chose)


def _print_rule(chosen: Sequence[str]) -> None:
    """Prints what a rule has set, and why."""
    if not chosen:
        return
    table = Table(title="chosen by the rule, not set by hand", title_justify="left")
    for heading in ("field", "value", "why"):
        table.add_column(heading)
    for sentence in chosen:
        field, _, rest = sentence.partition("=")
        value, _, why = rest.partition(": ")
        table.add_row(field, value, why)
    width = None if Console().is_terminal else 120
    Console(highlight=False, soft_wrap=True, width=width).print(table)


@dataclass(frozen=True)
class _Cost:
    """What each group of a plan costs, in order of depth.

    Attributes:
      trained: whether any parameter of the group trains.
      forward: FLOPs of the forward pass of an image.
      activations: FLOPs of an image's gradient with respect to the group's activations.
      weights: FLOPs of an image's gradient with respect to the group's weights.
      memory: bytes of parameters, gradients, optimizer state and moving average.
    """

    trained: Sequence[bool]
    forward: Sequence[float]
    activations: Sequence[float]
    weights: Sequence[float]
    memory: Sequence[float]


def _print_stage(
    config: ml_collections.ConfigDict, exp: Experiment, title: str, compile_step: bool
) -> None:
    """Prints the table of one plan and the lines below it."""
    model, plan, shape = exp.model, exp.plan, exp.preprocessing.image_shape
    variables = tracing.abstract_variables(model, shape)
    params = variables["params"]
    trained = plan.trained_groups(params)
    forward, activations, weights = cost.law_terms(
        cost.group_flops(model, variables, shape),
        cost.group_products(model, variables, shape),
        trained,
    )
    memory = _memory_by_group(plan, params, config)
    costs = _Cost(trained, forward, activations, weights, memory)
    width = None if Console().is_terminal else 120  # a pipe has no width of its own
    console = Console(highlight=False, soft_wrap=True, width=width)
    console.print(_table(plan, variables, costs, title))
    console.print(
        "forward and backward in MFLOP an image, backward by the law of tljax.analysis.cost;"
        " MiB: parameters, gradients, optimizer state"
        + (", moving average" if config.ema is not None else "")
    )
    total, total_trained = parameter_count(params), parameter_count(plan.partition(params)[0])
    whole, prefix = sum(forward), plan.frozen_prefix(params)
    console.print(
        f"trained: {total_trained:,} of {total:,} parameters ({total_trained / total:.1%}) in"
        f" {sum(trained)} of {len(trained)} groups; frozen prefix: {prefix}"
        f" groups, {sum(forward[:prefix]) / whole:.1%} of the forward pass"
    )
    _print_step(console, config, exp, variables, costs, compile_step)


def _table(plan: TransferPlan, variables: Tree, costs: _Cost, title: str) -> Table:
    """Returns the table, one row per group."""
    params = variables["params"]
    batch_statistics = plan.modes(params)["batch_statistics"]
    with_norm = {plan.groups.depth(path) for path in leaf_paths(variables.get("batch_stats", {}))}
    table = Table(title=title, title_justify="left")
    for heading in ("depth", "group", "init", "lr scale", "trains", "parameters", "trained"):
        table.add_column(heading, justify="left" if heading in ("group", "init") else "right")
    if with_norm:
        table.add_column("BatchNorm")
    for heading in ("forward", "backward", "MiB"):
        table.add_column(heading, justify="right")
    for depth, name in enumerate(plan.groups.names):
        group, _ = split(params, _in_group(plan, depth))
        group_trained, _ = split(group, plan.is_trained)
        row = [
            str(depth),
            name,
            plan.init[depth],
            f"{plan.lr_scale[depth]:g}",
            "yes" if costs.trained[depth] else "frozen",
            f"{parameter_count(group):,}",
            f"{parameter_count(group_trained):,}",
        ]
        if with_norm:
            mode = "batch" if batch_statistics[depth] else "stored"
            row.append(mode if depth in with_norm else "-")
        backward = costs.activations[depth] + costs.weights[depth]
        row += [_mflop(costs.forward[depth]), _mflop(backward)]
        row.append(f"{costs.memory[depth] / _MEBI:.1f}")
        table.add_row(*row, style=None if costs.trained[depth] else "dim")
    return table


def _print_step(
    console: Console,
    config: ml_collections.ConfigDict,
    exp: Experiment,
    variables: Tree,
    costs: _Cost,
    compile_step: bool,
) -> None:
    """Prints the FLOPs of the training step, counted and by the law, and its compiled cost."""
    whole = sum(costs.forward)
    law = (whole + sum(costs.activations) + sum(costs.weights)) / whole
    shape = exp.preprocessing.image_shape
    step = cost.step_function(exp.model, exp.plan, exp.preprocessing)
    arguments = cost.step_arguments(exp.model, exp.plan, variables, shape, config.batch_size)
    counted = flops(step, *arguments) / config.batch_size
    console.print(
        f"step (loss, gradient, clip, gradient norm): {_mflop(counted)} MFLOP an image"
        f" = {counted / whole:.3f} F; law: at most 1.05 * {law:.3f} F; F = {_mflop(whole)} MFLOP"
    )
    if compile_step:
        compiled = jax.jit(step).lower(*arguments).compile()
        analysis: Any = compiled.memory_analysis()
        peak = analysis.temp_size_in_bytes + analysis.argument_size_in_bytes
        console.print(
            f"compiled for {jax.devices()[0].device_kind} at batch {config.batch_size}:"
            f" {counted_flops(compiled) / config.batch_size / whole:.3f} F"
            " (a loop's body counts once),"
            f" {peak / _MEBI:,.0f} MiB of arguments and temporaries"
        )


def _memory_by_group(
    plan: TransferPlan, params: Tree, config: ml_collections.ConfigDict
) -> list[float]:
    """Returns the bytes of each group's parameters, gradients, optimizer state and average."""
    l2_sp = (config.l2_sp_alpha, config.l2_sp_beta)
    name, momentum = config.optimizer, config.momentum
    if name == SOLVER:  # its history is no state of the run
        name, momentum = "sgd", 0.0
    tx = plan.optimizer(name, learning_rate=0.0, momentum=momentum, l2_sp=l2_sp)

    def size(tree: Any) -> float:
        leaves = [leaf for leaf in jax.tree.leaves(tree) if leaf.ndim]
        return float(sum(np.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves))

    sizes = []
    for depth in range(len(plan.groups)):
        group, _ = split(params, _in_group(plan, depth))
        trained, _ = plan.partition(group)
        copies = 1 if config.ema is None else 2  # the gradient, and the moving average
        sizes.append(size(group) + copies * size(trained) + size(jax.eval_shape(tx.init, trained)))
    return sizes


def _in_group(plan: TransferPlan, depth: int) -> Callable[[str], bool]:
    return lambda path: plan.groups.depth(path) == depth


def _mflop(value: float) -> str:
    return f"{value / _MEGA:,.1f}"
