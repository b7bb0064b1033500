"""The numbers of a training run, with their defaults; config fields of the same names fill them."""

import math
from dataclasses import dataclass, fields

from tljax.errors import InputError


@dataclass(frozen=True)
class TrainingOptions:
    """How long, how fast, how often.

    Attributes:
      batch_size: images a step.
      epochs, steps: how long to train: passes over the images, or, if set, steps.
      optimizer: `sgd` or `adamw`.
      lr: peak learning rate of a group with scale 1.
      schedule, warmup, milestones: see `tljax.transfer.learning_rate_schedule`; warm-up in steps.
      momentum: of SGD.
      weight_decay, decayed: rate, and regex on the parameter paths that it applies to.
      clip_norm: largest global norm of the trained gradient, or None.
      augment: `none`, `crop` (random-resized) or `crop_flip`.
      crop_area: smallest and largest share of the image that a random crop covers.
      eval_every: in steps; None: once an epoch.
      checkpoint_every: in steps; None: whenever evaluated.
      log_every: steps between two `train` rows.
      keep: newest checkpoints to keep, beside the best one.
      num_workers: processes that read images; 0: threads of this one.
      head_init: of a new head: `zero` or `random`.
      seed: of new weights, data order, augmentation and dropout.
    """

    batch_size: int = 64
    epochs: float = 10.0
    steps: int | None = None
    optimizer: str = "sgd"
    lr: float = 0.01
    schedule: str = "cosine"
    warmup: int = 0
    milestones: tuple[float, ...] = (0.3, 0.6, 0.9)
    momentum: float = 0.9
    weight_decay: float = 0.0
    decayed: str = ".*kernel"
    clip_norm: float | None = None
    augment: str = "none"
    crop_area: tuple[float, float] = (0.08, 1.0)
    eval_every: int | None = None
    checkpoint_every: int | None = None
    log_every: int = 10
    keep: int = 1
    num_workers: int = 0
    head_init: str = "zero"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (
            "batch_size",
            "epochs",
            "steps",
            "eval_every",
            "checkpoint_every",
            "log_every",
            "keep",
        ):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InputError(f"{name} is {value}; it must be above 0")
        for name in ("lr", "weight_decay", "momentum", "num_workers"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must not be negative")

    def total_steps(self, train_size: int) -> int:
        """Number of steps; an epoch may end within a batch, whose rest begins the next epoch."""
        if self.steps is not None:
            return self.steps
        return max(1, math.ceil(self.epochs * train_size / self.batch_size))

    def evaluation_interval(self, train_size: int) -> int:
        """Steps between two evaluations."""
        return self.eval_every or max(1, math.ceil(train_size / self.batch_size))


OPTION_NAMES = tuple(field.name for field in fields(TrainingOptions))
