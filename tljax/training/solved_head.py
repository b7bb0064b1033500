"""A head that is solved: the linear probe of a run's own network, with its cross-validation.

With `optimizer=lbfgs` the solved head is the result of the run, which is one step. With
`head_init=solved` training starts from it (Kumar et al. 2022, "LP-FT", section 3.4).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tljax.data import groups_of
from tljax.frozen.cache import Cache, CachedSource
from tljax.frozen.linear_head import SolvedHead, solve_head
from tljax.training.problems.multi_label import choose_thresholds
from tljax.training.setup import Setup, new_variables
from tljax.transfer.partition import Tree


def solve(features: CachedSource, setup: Setup) -> SolvedHead:
    """Solves the head of a run on the features of its training images, and says how it went.

    Every process of a job solves by itself; the same input gives the same bits.

    Args:
      features: of the training images, or of fixed views of them.
      setup: of the run.

    Raises:
      InputError: see `tljax.frozen.linear_head.solve_head`.
    """
    options, problem = setup.options, setup.problem
    labels = np.asarray(features.labels)
    solved = solve_head(
        np.asarray(features.features[features.rows], np.float32).reshape(len(labels), -1),
        labels,
        setup.model.num_classes,
        l2=options.l2,
        weights=problem.weights(labels, setup.class_weights, features.weights),
        views=len(labels) // len(setup.train),
        seed=options.seed,
        groups=groups_of(setup.train),
    )
    if problem.kind != "multi_label" or solved.out_of_fold is None:
        return solved
    thresholds = choose_thresholds(labels, solved.out_of_fold)
    return replace(solved, report={**solved.report, "thresholds": list(thresholds)})


def describe(report: Mapping[str, Any]) -> str:
    """One sentence about a solved head, from its report."""
    l2 = f"a head was solved with L2 strength {report['l2']:.3g}"
    if (found := report.get("cross_validation")) is None:
        return l2
    repeats = f"{found['repeats']} repeats of " if found["repeats"] > 1 else ""
    if "accuracy" in found:
        score = (
            f"accuracy {found['accuracy']:.3f} out of fold (commonest class:"
            f" {found['naive_accuracy']:.3f})"
        )
    elif "mean_average_precision" in found:
        score = (
            f"mean average precision {found['mean_average_precision']:.3f} out of fold (the same"
            f" answer for every image: {found['naive_mean_average_precision']:.3f})"
        )
    else:
        score = f"R2 {found['r2']:.3f} out of fold (the mean of the training images: 0)"
    return (
        f"{l2}, chosen among {len(found['grid'])} by {repeats}{found['folds']}-fold"
        f" cross-validation on {found['images']} training images: {score}"
    )


def initial_variables(
    setup: Setup,
    pretrained: Tree | None,
    folder: Path | None = None,
    between_batches: Callable[[], None] = lambda: None,
) -> tuple[Tree, Mapping[str, Any] | None]:
    """Where each group starts: as the plan says, a new head as `head_init` says.

    Args:
      setup: of the run.
      pretrained: variables for the groups that start from them.
      folder: where the features of a head that is solved are kept for later runs; None: they are
        not.
      between_batches: see `tljax.frozen.cache.cached`.

    Returns:
      The variables and, if the head was solved, the report of that.
    """
    init, options = setup.plan.init, setup.options
    new = new_variables(setup.model, setup.preprocessing.image_shape, options, init)
    variables = setup.plan.initialise(new, pretrained)
    if options.head_init != "solved" or init[-1] != "random":
        return variables, None
    below = Cache(len(init) - 1, folder)
    features = below.through(
        setup.model, variables, setup.preprocessing, setup.train, between_batches
    )
    solved = solve(features, setup)
    return {**variables, "params": put_head(variables["params"], solved)}, solved.report


def put_head(params: Tree, solved: SolvedHead) -> Tree:
    """Parameters with the solved head for theirs, in the dtypes of `params`."""
    head = params["head"]
    kernel, bias = (
        np.asarray(getattr(solved, name), head[name].dtype) for name in ("kernel", "bias")
    )
    return {**params, "head": {"kernel": kernel.reshape(head["kernel"].shape), "bias": bias}}
