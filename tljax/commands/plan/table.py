"""`tljax plan`: what a config trains, what it freezes, and what each group costs."""

from collections.abc import Callable
from dataclasses import replace
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
from tljax.transfer import TransferPlan
from tljax.transfer.partition import Tree, split

_MEGA, _MEBI = 1e6, 2**20


def print_plan(config: ml_collections.ConfigDict, compile_step: bool = False) -> None:
    """Prints the table of a config's plan, or of each of its stages; trains nothing.

    It reads no image and needs no weights.

    Args:
      config: a whole config; `init_from` may be None.
      compile_step: also compile the step, for XLA's own FLOPs and peak memory (slow).
    """
    exp = experiment.build(config)
    config = exp.config
    title = f"{config.scenario} of {config.model} at {exp.preprocessing.image_size} px"
    if not exp.stages:
        _print_table(config, exp, title, compile_step)
    for number, stage in enumerate(exp.stages, 1):
        which = f"stage {number} of {len(exp.stages)}, {stage.share:.0%} of the steps"
        _print_table(config, replace(exp, plan=stage.plan), f"{which}: {title}", compile_step)


def _print_table(
    config: ml_collections.ConfigDict, exp: Experiment, title: str, compile_step: bool
) -> None:
    model, plan, size = exp.model, exp.plan, exp.preprocessing.image_size
    variables = tracing.abstract_variables(model, size)
    params = variables["params"]
    trained = plan.trained_groups(params)
    batch_statistics = plan.modes(params)["batch_statistics"]
    forward, activations, weights = cost.law_terms(
        cost.group_flops(model, variables, size),
        cost.group_products(model, variables, size),
        trained,
    )
    memory = _memory_by_group(plan, params, config)
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
        moving, _ = split(group, plan.is_trained)
        row = [
            str(depth),
            name,
            plan.init[depth],
            f"{plan.lr_scale[depth]:g}",
            "yes" if trained[depth] else "frozen",
            f"{parameter_count(group):,}",
            f"{parameter_count(moving):,}",
        ]
        if with_norm:
            mode = "batch" if batch_statistics[depth] else "stored"
            row.append(mode if depth in with_norm else "-")
        backward = activations[depth] + weights[depth]
        row += [_mflop(forward[depth]), _mflop(backward), f"{memory[depth] / _MEBI:.1f}"]
        table.add_row(*row, style=None if trained[depth] else "dim")

    total, moving_total = parameter_count(params), parameter_count(plan.partition(params)[0])
    whole = sum(forward)
    law = (whole + sum(activations) + sum(weights)) / whole
    step = cost.step_function(model, plan, exp.preprocessing)
    arguments = cost.step_arguments(model, plan, variables, size, config.batch_size)
    counted = flops(step, *arguments) / config.batch_size

    width = None if Console().is_terminal else 120  # a pipe has no width of its own
    console = Console(highlight=False, soft_wrap=True, width=width)
    console.print(table)
    console.print(
        "forward and backward in MFLOP an image, backward by the law of tljax.analysis.cost;"
        " MiB: parameters, gradients, optimizer state"
        + (", moving average" if config.ema is not None else "")
    )
    console.print(
        f"trained: {moving_total:,} of {total:,} parameters ({moving_total / total:.1%}) in"
        f" {sum(trained)} of {len(trained)} groups; frozen prefix: {plan.frozen_prefix(params)}"
        f" groups, {sum(forward[: plan.frozen_prefix(params)]) / whole:.1%} of the forward pass"
    )
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
            " (of a loop one turn),"
            f" {peak / _MEBI:,.0f} MiB of arguments and temporaries"
        )


def _memory_by_group(
    plan: TransferPlan, params: Tree, config: ml_collections.ConfigDict
) -> list[float]:
    """Bytes of each group's parameters, gradients, optimizer state and moving average."""
    l2_sp = (config.l2_sp_alpha, config.l2_sp_beta)
    tx = plan.optimizer(config.optimizer, learning_rate=0.0, momentum=config.momentum, l2_sp=l2_sp)

    def size(tree: Any) -> float:
        leaves = [leaf for leaf in jax.tree.leaves(tree) if leaf.ndim]
        return float(sum(np.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves))

    sizes = []
    for depth in range(len(plan.groups)):
        group, _ = split(params, _in_group(plan, depth))
        moving, _ = plan.partition(group)
        copies = 1 if config.ema is None else 2  # gradient, average
        sizes.append(size(group) + copies * size(moving) + size(jax.eval_shape(tx.init, moving)))
    return sizes


def _in_group(plan: TransferPlan, depth: int) -> Callable[[str], bool]:
    return lambda path: plan.groups.depth(path) == depth


def _mflop(value: float) -> str:
    return f"{value / _MEGA:,.1f}"
