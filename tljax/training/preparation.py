"""What a run needs before its first step, and what would keep it from taking one."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tljax.data import Preprocessing, Source
from tljax.devices import mesh as mesh_lib
from tljax.devices import micro_batches
from tljax.errors import InputError
from tljax.models import NORMALISATIONS, ImageSize, Model, initialisation, registry, tracing
from tljax.training import feature_cache
from tljax.training.options import TrainingOptions
from tljax.transfer import TransferPlan, learning_rate_schedule
from tljax.transfer.partition import Tree


def own_preprocessing(train: Source) -> Preprocessing:
    """Where nothing says what the weights expect: the first image's size, ImageNet's statistics."""
    side = min(train[0]["image"].shape[:2])
    return Preprocessing(side, *NORMALISATIONS["imagenet"])


def check_fit(
    model: Model,
    plan: TransferPlan,
    opt: TrainingOptions,
    image_size: ImageSize,
    train: Source,
    val: Source | None,
    test: Source | None,
) -> None:
    """Raises InputError if a run could not begin: to be asked before anything is written."""
    registry.check_image_size(type(model).__name__, model, image_size)
    variables = tracing.abstract_variables(model, image_size)
    plan.check_l2_sp(*opt.l2_sp, variables["params"])
    micro_batches.check(opt.accumulate, plan, variables, opt.batch_size)
    mesh_lib.check_batch(mesh_lib.build(opt.mesh), opt.batch_size, opt.accumulate)
    feature_cache.check(opt.cache, plan.frozen_prefix(variables["params"]), opt.images_change)
    learning_rates(opt, opt.total_steps(len(train)))
    if opt.patience is not None and val is None:
        raise InputError(
            f"patience is {opt.patience}, but there are no validation images that could tell when"
            " to stop; pass some, or leave patience out"
        )
    for source in (train, val, test):
        if source is None:
            continue
        if not len(source):
            raise InputError("one of the splits has no images; pass at least one, or None")
        if (label := int(np.max(source.labels))) >= model.num_classes:
            raise InputError(
                f"the data has a label {label}, but the model has {model.num_classes} classes;"
                " create it with num_classes of the data"
            )


def new_variables(
    model: Model,
    image_size: ImageSize,
    opt: TrainingOptions,
    init: Sequence[str] | None = None,
    channels: int = 3,
) -> Tree:
    """Random variables by the seed, with the head as `head_init` says.

    Of a plan's `init` only the groups that it wants random are drawn; the rest stays abstract.
    """
    zero_head = opt.head_init == "zero"
    groups = None
    if init is not None:
        drawn = zip(model.groups.names, init, strict=True)
        groups = tuple(at == "random" and not (zero_head and name == "head") for name, at in drawn)
    key = jax.random.key(opt.seed)
    variables = initialisation.init(model, key, image_size, channels, groups)
    if zero_head and "head" in variables["params"]:
        variables["params"]["head"] = jax.tree.map(jnp.zeros_like, variables["params"]["head"])
    return variables


@functools.lru_cache(maxsize=16)  # some ten small programs, and more than one asks for them
def learning_rates(opt: TrainingOptions, steps: int) -> np.ndarray:
    """Of every step, float32 (steps,); not to be written to."""
    schedule = learning_rate_schedule(
        opt.schedule, opt.lr, steps, warmup=opt.warmup, milestones=opt.milestones
    )
    return np.asarray(jax.vmap(schedule)(np.arange(steps)), np.float32)
