"""Features at several depths of a network, and how well a linear head does on each."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tljax.advice.neighbours import leave_one_out
from tljax.data import Preprocessing, Source, groups_of, normalise
from tljax.devices.compiler import compiled
from tljax.frozen.linear_head import solve_head
from tljax.frozen.over_images import over_images
from tljax.models import Model
from tljax.transfer.partition import Tree


class Depth(NamedTuple):
    """How well images can be classified from the features after a group.

    Attributes:
      group: the name of the last group below.
      below: the number of groups below, `start` of a cut network.
      probe: accuracy of a solved linear head, by cross-validation.
      neighbours: accuracy of the nearest neighbours, each image left out in turn.
    """

    group: str
    below: int
    probe: float
    neighbours: float


def choose_depths(model: Model) -> tuple[int, ...]:
    """Numbers of groups after which features are compared: a quarter, half, three, and all.

        choose_depths(tljax.create("vit_small_patch14_dinov2", 0))  # (4, 7, 10, 13)

    All is without the head.
    """
    last = len(model.groups) - 1
    return tuple(sorted({max(1, round(last * part / 4)) for part in (1, 2, 3, 4)}))


def compute(
    model: Model,
    variables: Tree,
    preprocessing: Preprocessing,
    source: Source,
    name: str,
    progress: bool = False,
) -> dict[int, np.ndarray]:
    """Computes features after each of `choose_depths`, in one pass over the images.

    Args:
      model, variables, preprocessing: of the network.
      source: n images.
      name: what the progress bar says.
      progress: whether to show it, on stderr.

    Returns:
      For each depth (n, d) float32: the mean over places or tokens; at the last depth what the
      network's own head sees.
    """
    run = _compile(model, preprocessing)
    found = over_images(
        lambda batch: run(variables, batch["image"]), source, preprocessing, name, progress
    )
    return dict(zip(choose_depths(model), found, strict=True))


@functools.cache
def _compile(model: Model, preprocessing: Preprocessing) -> Callable[..., list[jax.Array]]:
    """The compiled function (variables, images uint8) -> features after each depth."""

    def run(variables: Tree, images: jax.Array) -> list[jax.Array]:
        x: Any = normalise(images, preprocessing)
        found, start = [], 0
        for stop in choose_depths(model):
            x = model.apply(variables, x, train=False, start=start, stop=stop)
            found.append(x.mean(axis=tuple(range(1, x.ndim - 1))).astype(jnp.float32))
            start = stop
        return found

    return compiled(run)


def judge(
    model: Model, features: dict[int, np.ndarray], images: Source, num_classes: int
) -> list[Depth]:
    """How well a linear head and the nearest neighbours do after each depth.

    Args:
      model: of the features.
      features: of `compute`.
      images: the n images, every class at least twice.
      num_classes: of the target.
    """
    found = []
    for below, x in features.items():
        group = model.groups.names[below - 1]
        groups = groups_of(images)
        head = solve_head(x, images.labels, num_classes, groups=groups)
        probe = head.report["cross_validation"]["accuracy"]
        found.append(Depth(group, below, probe, leave_one_out(x, images.labels, groups)))
    return found
