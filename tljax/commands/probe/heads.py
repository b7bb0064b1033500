"""Trains a grid of linear heads on cached features, all in one pass.

The grid is that of DINOv2's linear evaluation (Oquab et al. 2024, appendix): several learning rates
for each choice of features (`tljax.models.probing`), SGD with momentum 0.9, a cosine schedule, no
weight decay. All heads see the same batches, in the order of `tljax train`; one compiled step
trains them all.
"""

import functools
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tljax.frozen.cache import CachedSource
from tljax.models import Model
from tljax.models.probing import Features, choices
from tljax.runs.resume import validation_rank
from tljax.training.progress import TrainingProgress
from tljax.training.step import optimizer
from tljax.transfer import TransferPlan, learning_rate_schedule
from tljax.transfer.partition import Tree

# Learning rates of DINOv2, for a batch of 256; they scale with the batch size.
RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
_MOMENTUM = 0.9


@dataclass(frozen=True)
class Setting:
    """A point of the grid.

    Attributes:
      features: what its head sees.
      lr, weight_decay: how its head is trained.
    """

    features: Features
    lr: float
    weight_decay: float

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self.features), "lr": self.lr, "weight_decay": self.weight_decay}


@dataclass(frozen=True)
class Heads:
    """Trained heads.

    Attributes:
      settings: one for each head.
      params: for each choice of features, its heads stacked in the order of `settings`: `kernel`
        (heads, width, classes) and `bias` (heads, classes).
    """

    settings: tuple[Setting, ...]
    params: dict[Features, Tree]

    def params_of(self, setting: Setting) -> Tree:
        """Returns the head of a setting: `kernel` (width, classes) and `bias` (classes,)."""
        same = [other for other in self.settings if other.features == setting.features]
        return jax.tree.map(lambda x: x[same.index(setting)], self.params[setting.features])


def list_settings(
    model: Model, batch_size: int, weight_decays: Sequence[float]
) -> tuple[Setting, ...]:
    """Returns the grid: each choice of features with each weight decay and learning rate.

    The rates are DINOv2's, times batch_size / 256.
    """
    return tuple(
        Setting(features, rate * batch_size / 256, decay)
        for features in choices(model)
        for decay in weight_decays
        for rate in RATES
    )


def train_heads(
    model: Model,
    plan: TransferPlan,
    settings: Sequence[Setting],
    train: CachedSource,
    *,
    steps: int,
    batch_size: int,
    seed: int,
    progress: bool = False,
) -> Heads:
    """Trains one head for each setting, from zero, all on the same batches.

    Args:
      model: the heads have the architecture of its head.
      plan: trains the head alone.
      settings: one for each head.
      train: the features of the training images, from `compute_features`.
      steps, batch_size, seed: as in `tljax train`; the order of the images is the same, too.
      progress: whether to show progress on stderr.
    """
    last = len(model.groups) - 1
    tx = optimizer(plan, "sgd", ".*kernel", _MOMENTUM, None)
    kinds = tuple(dict.fromkeys(setting.features for setting in settings))
    by_kind = [[s for s in settings if s.features == kind] for kind in kinds]
    rates = [jnp.array([s.lr for s in some]) for some in by_kind]
    decays = [jnp.array([s.weight_decay for s in some]) for some in by_kind]
    heads = []
    for kind, some in zip(kinds, by_kind, strict=True):
        shape = (len(some), kind.select(train.features[:1]).shape[1], model.num_classes)
        heads.append({"head": {"kernel": jnp.zeros(shape), "bias": jnp.zeros(shape[::2])}})

    def learn(
        x: jax.Array, label: jax.Array, head: Tree, state: Any, rate: jax.Array, decay: jax.Array
    ) -> tuple[Tree, Any, jax.Array]:
        """Takes one step of one head."""

        def loss_fn(head: Tree) -> jax.Array:
            logits: Any = model.apply({"params": head}, x, start=last)
            return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()

        loss, gradient = jax.value_and_grad(loss_fn)(head)
        state = optax.tree.set(state, learning_rate=rate, weight_decay=decay)
        updates, state = tx.update(gradient, state, head)
        return optax.apply_updates(head, updates), state, loss

    @functools.partial(jax.jit, donate_argnums=0)
    def step(heads_and_states: list[Any], batch: Tree, factor: jax.Array) -> tuple[Any, jax.Array]:
        """Takes one step of all heads; returns the lowest of their losses, too."""
        after, losses = [], []
        pairs = zip(kinds, heads_and_states, rates, decays, strict=True)
        for kind, (head, state), rate, decay in pairs:
            learn_one = functools.partial(learn, kind.select(batch["features"]), batch["label"])
            head, state, loss = jax.vmap(learn_one)(head, state, factor * rate, decay)
            after.append((head, state))
            losses.append(loss)
        return after, jnp.concatenate(losses).min()

    state = [(head, jax.vmap(tx.init)(head)) for head in heads]
    factors = np.asarray(jax.vmap(learning_rate_schedule("cosine", 1.0, steps))(np.arange(steps)))
    batches = train.shuffled(batch_size, seed)
    with closing(batches), TrainingProgress(0, steps, batch_size, progress) as bar:
        for number, factor in enumerate(factors, 1):
            state, lowest_loss = step(state, next(batches), factor)
            # Reading a loss waits for the device, so do it rarely.
            values = {"least_loss": float(lowest_loss)} if number % 50 == 0 else {}
            bar.update(number, **values)
    trained = {kind: head["head"] for kind, (head, _) in zip(kinds, state, strict=True)}
    return Heads(tuple(settings), trained)


def rank_heads(
    model: Model, heads: Heads, val: CachedSource, batch_size: int
) -> dict[Setting, tuple[float, float]]:
    """Returns the `validation_rank` of every head: (accuracy, minus the loss in nats)."""
    last = len(model.groups) - 1

    @jax.jit
    def sums(params: list[Tree], batch: Tree) -> list[tuple[jax.Array, jax.Array]]:
        def sum_one(x: jax.Array, head: Tree) -> tuple[jax.Array, jax.Array]:
            logits: Any = model.apply({"params": {"head": head}}, x, start=last)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
            right = jnp.argmax(logits, -1) == batch["label"]
            return (right * batch["mask"]).sum(), (losses * batch["mask"]).sum()

        return [
            jax.vmap(functools.partial(sum_one, kind.select(batch["features"])))(stacked)
            for kind, stacked in zip(heads.params, params, strict=True)
        ]

    params = list(heads.params.values())
    with closing(iter(val.in_order(batch_size))) as batches:
        parts = [jax.device_get(sums(params, batch)) for batch in batches]
    means = jax.tree.map(lambda *x: np.sum(x, axis=0, dtype=np.float64) / len(val), *parts)
    ranked = {}
    for kind, (accuracies, losses) in zip(heads.params, means, strict=True):
        settings = [setting for setting in heads.settings if setting.features == kind]
        for setting, accuracy, loss in zip(settings, accuracies, losses, strict=True):
            ranked[setting] = validation_rank({"accuracy": float(accuracy), "loss": float(loss)})
    return ranked
